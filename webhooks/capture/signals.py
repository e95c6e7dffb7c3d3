"""Django signal receivers. Each is thin: it names the object that changed, and calls ``outbox.record``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import signals

from webhooks import registry
from webhooks.capture import recording, transaction
from webhooks.capture.errors import Sparing
from webhooks.conf import conf
from webhooks.db import savepoint
from webhooks.logs import get_logger
from webhooks.models import Action, Webhook
from webhooks.registry import refuse_unregistered
from webhooks.registry.registration import Registration
from webhooks.registry.relations import Relation

logger = get_logger(__name__)


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


def on_saving(
    sender: type[models.Model],
    instance: models.Model,
    using: str,
    raw: bool,
    update_fields: Collection[str] | None = None,
    **kwargs: Any,
) -> None:
    """Read the state before the save while it is still there."""
    if raw or recording.ignores(sender, using) or not recording.looks_back(using) or using != recording.database():
        return
    stored = {
        registration: [key]
        for registration in registry.registrations_touched(sender)
        if (key := _key(registration, instance)) is not None and not _is_surely_new(registration.model, instance)
    }
    if stored:
        if transaction.in_transaction(using):
            # Unguarded only where the save itself takes the same lock and writes all the columns that are read.
            is_alike = update_fields is None and registry.save_locks_row(sender)
            recording.snapshot_before(stored, using, guarded=not is_alike)
        else:
            instance._webhooks_prechange = recording.snapshot_unlocked(stored, using)  # type: ignore[attr-defined]


def _key(registration: Registration, instance: models.Model) -> Any:
    # An inherited row has a key of its own, which the child carries under the parent's name for it.
    return getattr(instance, registration.model._meta.pk.attname)


def _is_surely_new(model: type[models.Model], instance: models.Model) -> bool:
    """Django inserts a new instance whose key has a default without looking whether it is there."""
    return instance._state.adding and (model._meta.pk.has_default() or model._meta.pk.has_db_default())


def on_child_saving(sender: type[models.Model], instance: models.Model, using: str, raw: bool, **kwargs: Any) -> None:
    """A child may be made of a parent row that was there before, which is then no new parent."""
    if raw or not instance._state.adding or recording.ignores(sender, using):
        return
    parents = {
        registration.model: key
        for registration in registry.registrations_touched(sender)
        if registration.model is not sender and (key := _key(registration, instance)) is not None
    }
    instance._webhooks_made_of = set(parents)  # type: ignore[attr-defined]
    for model, key in parents.items():
        label = model._meta.label_lower
        with Sparing(using, "%s %s is taken for one that was there: whether it was cannot be read", label, key):
            if not _is_stored(model, key, using):
                instance._webhooks_made_of.discard(model)  # type: ignore[attr-defined]


def _is_stored(model: type[models.Model], key: Any, using: str) -> bool:
    with savepoint(using):
        return model._base_manager.using(using).filter(pk=key).exists()


def on_saved(
    sender: type[models.Model], instance: models.Model, created: bool, using: str, raw: bool, **kwargs: Any
) -> None:
    made_of = instance.__dict__.pop("_webhooks_made_of", ())
    before = instance.__dict__.pop("_webhooks_prechange", None)
    instance.__dict__.pop("_webhooks_loaded", None)
    if raw:
        # Its relations to many are set next, and Django does not signal that they are of a fixture.
        instance._webhooks_loaded = True  # type: ignore[attr-defined]
    if raw or recording.ignores(sender, using):
        return  # no webhook wants it; or a fixture is loaded, and its rows may refer to others that do not exist yet
    for registration in registry.registrations_touched(sender):
        is_new = created and registration.model not in made_of
        action = Action.CREATED if is_new else Action.UPDATED
        lock = not registry.save_locks_row(sender)
        _record(registration, _key(registration, instance), action, using, lock, before)


def on_deleting(sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any) -> None:
    if recording.ignores(sender, using):
        return  # first: a deletion may cascade to thousands of rows that no webhook wants
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
    """Record changes of the objects that hold the field, from whichever side the relation is edited."""
    if "_webhooks_loaded" in instance.__dict__:
        return
    holders = model if reverse else type(instance)
    label = instance._meta.label_lower
    with Sparing(using, "No webhook will hear that %s of %s %s was edited", sender.__name__, label, instance.pk):
        if _is_elsewhere(label, instance.pk, action, using) or recording.ignores(holders, using, ask=True):
            return  # first: to find the objects may take a query, and load thousands of keys
        relation = Relation(sender, holders, reverse)
        changed = relation.changed(instance, action, pk_set, using)
        if action.startswith("post_"):
            _mirror(relation, instance, action, pk_set, using)
            recording.record_edit(changed, using)
        elif recording.looks_back(using):
            recording.snapshot_before(changed, using, {one: relation.names(one) for one in changed})


def _mirror(relation: Relation, instance: models.Model, action: str, pk_set: set[Any] | None, using: str) -> None:
    label = instance._meta.label_lower
    with Sparing(using, "The other ends of a relation of %s %s are not written yet", label, instance.pk):
        if action == "post_add":
            relation.mirror(instance, pk_set or set(), using)


def _record(
    registration: Registration,
    pk: Any,
    action: Action,
    using: str,
    lock: bool = False,
    before: recording.Prechange | None = None,
) -> None:
    if not _is_elsewhere(registration.label, pk, action, using):
        recording.record(registration, pk, action, using, lock, before)


def _is_elsewhere(label: str, pk: Any, action: str, using: str) -> bool:
    """Whether an object is on another database than the app's tables, which is logged."""
    if using == recording.database():
        return False
    logger.error(
        "%s %s had a change (%s) on the database %r, but webhooks keeps its tables on %r: nothing can be sent for it",
        label, pk, action, using, recording.database(),
    )  # fmt: skip
    return True


def on_object_types_changed(sender: Any, action: str, pk_set: set[int] | None, using: str, **kwargs: Any) -> None:
    if action == "pre_add" and pk_set:
        refuse_unregistered(pk_set)
    elif action.startswith("post_"):
        transaction.forget_subscriptions(using)


def on_webhook_changed(sender: Any, using: str, **kwargs: Any) -> None:
    transaction.forget_subscriptions(using)
