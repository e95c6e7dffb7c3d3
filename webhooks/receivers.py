"""Django signal receivers. Each is thin: it names the object that changed, and calls ``outbox.record``."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import signals

from webhooks import registry
from webhooks.capture import outbox, scopes
from webhooks.conf import conf
from webhooks.holdings import Holder
from webhooks.logs import logger_of
from webhooks.models import Action, Webhook
from webhooks.object_types import refuse_unregistered
from webhooks.registration import Registration
from webhooks.relations import Relation

logger = logger_of(__name__)


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
        _watch_class(sender)
    for field in model._meta.many_to_many:
        through = field.remote_field.through
        if through is not None:
            _connect(signals.m2m_changed, on_many_to_many_changed, through)


def _watch_class(sender: type[models.Model]) -> None:
    if sender._meta.parents:
        _connect(signals.pre_save, on_child_saving, sender)
    _connect(signals.pre_save, on_saving, sender)
    _connect(signals.post_save, on_saved, sender)
    _connect(signals.pre_delete, on_deleting, sender)


def _descendants(model: type[models.Model]) -> list[type[models.Model]]:
    return [other for other in apps.get_models(include_auto_created=True) if issubclass(other, model)]


def _connect(signal: Any, receiver: Any, sender: Any) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"webhooks.{receiver.__name__}")


def on_registered(sender: Any, model: type[models.Model], **kwargs: Any) -> None:
    watch(model)


def on_class_prepared(sender: type[models.Model], **kwargs: Any) -> None:
    """A model class that is made while the site runs may be a proxy or a child of a registered one."""
    if any(issubclass(sender, registration.model) for registration in registry.registrations()):
        _watch_class(sender)


def on_saving(sender: type[models.Model], instance: models.Model, using: str, raw: bool, **kwargs: Any) -> None:
    """What is there will be gone after the save."""
    if raw or outbox.ignores(sender, using) or not outbox.looks_back(using) or using != outbox.database():
        return
    stored = {
        registration: [Holder(key, vars(instance))]
        for registration in registry.registrations_touched(sender)
        if (key := _key(registration, instance)) is not None and not _is_surely_new(registration.model, instance)
    }
    if stored:
        foreseen = outbox.foresee(stored, using, guarded=not registry.locks_its_rows(sender))
        instance._webhooks_foreseen = foreseen  # type: ignore[attr-defined]


def _key(registration: Registration, instance: models.Model) -> Any:
    # An inherited row has a key of its own, which the child carries under the parent's name for it.
    return getattr(instance, registration.model._meta.pk.attname)


def _is_surely_new(model: type[models.Model], instance: models.Model) -> bool:
    """Django inserts a new instance whose key has a default without looking whether it is there."""
    return instance._state.adding and (model._meta.pk.has_default() or model._meta.pk.has_db_default())


def on_child_saving(sender: type[models.Model], instance: models.Model, using: str, raw: bool, **kwargs: Any) -> None:
    """A child may be made of a parent row that was there before, which is then no new parent."""
    if raw or not instance._state.adding or outbox.ignores(sender, using):
        return
    instance._webhooks_made_of = {  # type: ignore[attr-defined]
        registration.model
        for registration in registry.registrations_touched(sender)
        if registration.model is not sender and _is_stored(registration.model, instance, using)
    }


def _is_stored(model: type[models.Model], instance: models.Model, using: str) -> bool:
    key = getattr(instance, model._meta.pk.attname)
    return key is not None and model._base_manager.using(using).filter(pk=key).exists()


def on_saved(
    sender: type[models.Model], instance: models.Model, created: bool, using: str, raw: bool, **kwargs: Any
) -> None:
    made_of = instance.__dict__.pop("_webhooks_made_of", ())
    foreseen = instance.__dict__.pop("_webhooks_foreseen", None)
    instance.__dict__.pop("_webhooks_loaded", None)
    if raw:
        # Its relations to many are set next, and Django does not signal that they are of a fixture.
        instance._webhooks_loaded = True  # type: ignore[attr-defined]
    if raw or outbox.ignores(sender, using):
        return  # a fixture is loaded, whose rows may refer to others that are not there yet; or nobody wants it
    for registration in registry.registrations_touched(sender):
        is_new = created and registration.model not in made_of
        action = Action.CREATED if is_new else Action.UPDATED
        lock = not registry.locks_its_rows(sender)
        _record(registration, _key(registration, instance), action, using, lock, foreseen)


def on_deleting(sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any) -> None:
    if outbox.ignores(sender, using):
        return  # first: a deletion that cascades comes here for each row, most of which nobody wants
    # Django signals the deletion of each inherited row by itself, so only the sender's own model counts.
    registration = registry.registration_of(sender)
    if registration is not None:
        # Locked from here on, so that no update comes between this Event and the deletion.
        _record(registration, instance.pk, Action.DELETED, using, lock=True)


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
    if "_webhooks_loaded" in instance.__dict__:
        return
    relation = Relation(sender, model if reverse else type(instance), reverse)
    changed = relation.changed(instance, action, pk_set, using)
    if action.startswith("pre_"):
        _foresee_relation(relation, changed, using)
        return
    if action == "post_add":
        relation.mirror(instance, pk_set or set(), using)
    for registration, holders in changed.items():
        for holder in holders:
            _record(registration, holder.pk, Action.UPDATED, using, lock=True)


def _foresee_relation(relation: Relation, changed: dict[Registration, list[Holder]], using: str) -> None:
    if outbox.looks_back(using) and using == outbox.database():
        for registration, holders in changed.items():
            outbox.foresee_edit(registration, holders, relation.names(registration), using)


def _record(
    registration: Registration,
    pk: Any,
    action: Action,
    using: str,
    lock: bool = False,
    foreseen: outbox.Foreseen | None = None,
) -> None:
    if using == outbox.database():
        outbox.record(registration, pk, action, using, lock, foreseen)
    else:
        logger.error(
            "%s %s was %s on the database %r, but webhooks keeps its tables on %r: nothing can be sent for it",
            registration.label, pk, action, using, outbox.database(),
        )  # fmt: skip


def on_object_types_changed(sender: Any, action: str, pk_set: set[int] | None, using: str, **kwargs: Any) -> None:
    if action == "pre_add" and pk_set:
        refuse_unregistered(pk_set)
    elif action.startswith("post_"):
        scopes.forget_subscriptions(using)


def on_webhook_changed(sender: Any, using: str, **kwargs: Any) -> None:
    scopes.forget_subscriptions(using)
