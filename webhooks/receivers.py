"""Django signal receivers. Each is thin: it names the object that changed, and calls ``outbox.record``."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import signals

from webhooks import outbox, registry
from webhooks.conf import conf
from webhooks.models import Action, Webhook
from webhooks.models.webhook import refuse_unregistered
from webhooks.registry import Registration

logger = logging.getLogger(__name__)


def connect() -> None:
    """Connect what the app needs: its own bookkeeping always, the rest only when it is turned on."""
    _connect(signals.m2m_changed, on_object_types_changed, Webhook.object_types.through)
    if not conf.enabled:
        return
    _connect(signals.post_save, on_webhook_changed, Webhook)
    _connect(signals.post_delete, on_webhook_changed, Webhook)
    registry.registered.connect(on_registered, dispatch_uid="webhooks.on_registered")
    signals.class_prepared.connect(on_class_prepared, dispatch_uid="webhooks.on_class_prepared")
    for registration in registry.registrations():
        watch(registration.model)


def watch(model: type[models.Model]) -> None:
    """Hear of every change of a registered model: through its proxies and the models that inherit its rows too.

    Receivers are connected for each class, not for all senders: any receiver of ``pre_delete`` makes Django
    load the rows that it could otherwise delete at once.
    """
    for sender in [model, *_descendants(model)]:
        _connect(signals.post_save, on_saved, sender)
        _connect(signals.pre_delete, on_deleting, sender)
    for field in model._meta.many_to_many:
        through = field.remote_field.through
        if through is not None:
            _connect(signals.m2m_changed, on_many_to_many_changed, through)


def _descendants(model: type[models.Model]) -> list[type[models.Model]]:
    return [other for other in apps.get_models(include_auto_created=True) if issubclass(other, model)]


def _connect(signal: Any, receiver: Any, sender: Any) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"webhooks.{receiver.__name__}")


def on_registered(sender: Any, model: type[models.Model], **kwargs: Any) -> None:
    watch(model)


def on_class_prepared(sender: type[models.Model], **kwargs: Any) -> None:
    """A model class that is made while the site runs may be a proxy or a child of a registered one."""
    for registration in registry.registrations():
        if issubclass(sender, registration.model):
            watch(registration.model)


def on_saved(
    sender: type[models.Model], instance: models.Model, created: bool, using: str, raw: bool, **kwargs: Any
) -> None:
    if raw:
        return  # a fixture is loaded: its rows may refer to others that are not there yet
    action = Action.CREATED if created else Action.UPDATED
    for registration in registry.registrations_touched(sender):
        # An inherited row has a key of its own, which the child carries under the parent's name for it.
        _record(registration, getattr(instance, registration.model._meta.pk.attname), action, using)


def on_deleting(sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any) -> None:
    # Django signals the deletion of each inherited row by itself, so only the sender's own model counts.
    registration = registry.registration_of(sender)
    if registration is not None:
        _record(registration, instance.pk, Action.DELETED, using)


def on_many_to_many_changed(
    sender: type[models.Model],
    instance: models.Model,
    action: str,
    reverse: bool,
    model: type[models.Model],
    pk_set: set[Any] | None,
    using: str,
    **kwargs: Any,
) -> None:
    """The objects that hold the field have changed, from whichever side the relation was edited."""
    holders = model if reverse else type(instance)
    if action == "pre_clear" and reverse:
        # After the clearing nobody can tell which objects had pointed here.
        instance._webhooks_cleared = _holding(holders, sender, instance, using)  # type: ignore[attr-defined]
    elif action == "post_clear":
        pks = getattr(instance, "_webhooks_cleared", ()) if reverse else [instance.pk]
        _relations_changed(holders, pks, using)
    elif action in ("post_add", "post_remove") and pk_set:
        pks = pk_set if reverse else [instance.pk]
        _relations_changed(holders, [*pks, *pk_set] if _is_symmetrical(holders, sender) else pks, using)


def _relations_changed(model: type[models.Model], pks: Iterable[Any], using: str) -> None:
    for registration in registry.registrations_touched(model):
        for pk in pks:
            _record(registration, pk, Action.UPDATED, using, lock=True)


def _holding(model: type[models.Model], through: Any, target: models.Model, using: str) -> list[Any]:
    if not registry.registrations_touched(model):
        return []
    found = model._base_manager.using(using).filter(**{_field_through(model, through).name: target})
    return list(found.values_list("pk", flat=True))


def _is_symmetrical(model: type[models.Model], through: Any) -> bool:
    return bool(getattr(_field_through(model, through).remote_field, "symmetrical", False))


def _field_through(model: type[models.Model], through: Any) -> models.ManyToManyField[Any, Any]:
    return next(field for field in model._meta.many_to_many if field.remote_field.through is through)


def _record(registration: Registration, pk: Any, action: Action, using: str, lock: bool = False) -> None:
    if using == outbox.database():
        outbox.record(registration, pk, action, using, lock)
    else:
        logger.error(
            "%s %s was %s on the database %r, but webhooks keeps its tables on %r: nothing can be sent for it",
            registration.label, pk, action, using, outbox.database(),
        )  # fmt: skip


def on_object_types_changed(sender: Any, action: str, pk_set: set[int] | None, using: str, **kwargs: Any) -> None:
    if action == "pre_add" and pk_set:
        refuse_unregistered(pk_set)
    elif action.startswith("post_"):
        outbox.forget_subscriptions(using)


def on_webhook_changed(sender: Any, using: str, **kwargs: Any) -> None:
    outbox.forget_subscriptions(using)
