"""Receivers of Django's signals. Each is thin: it finds the objects that change, and calls ``recording``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import signals

from webhooks import registry
from webhooks.capture import recording, transaction
from webhooks.capture.errors import log_errors
from webhooks.capture.transaction import TransactionState
from webhooks.conf import conf
from webhooks.db import savepoint
from webhooks.logs import get_logger
from webhooks.models import Action, Webhook
from webhooks.registry.registration import Registration
from webhooks.registry.relations import Relation

logger = get_logger(__name__)


def connect() -> None:
    """Connect the receivers for the app's own models always, the others only if webhooks are enabled."""
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
    """Connect the receivers for a registered model, its proxies, and the models that inherit its rows.

    They are connected for each class, not for all senders: with any receiver of ``pre_delete``, Django loads rows that
    it could otherwise delete at once.
    """
    for sender in apps.get_models(include_auto_created=True):
        if sender is not model and issubclass(sender, model):
            _watch_class(sender)
    _watch_class(model)
    for field in model._meta.many_to_many:
        if field.remote_field.through is not None:
            _connect(signals.m2m_changed, on_many_to_many_changed, field.remote_field.through)


def _watch_class(sender: type[models.Model]) -> None:
    if sender._meta.parents:
        _connect(signals.pre_save, on_child_saving, sender)
    _connect(signals.pre_save, on_saving, sender)
    _connect(signals.post_save, on_saved, sender)
    _connect(signals.pre_delete, on_deleting, sender)


def _connect(signal: Any, receiver: Any, sender: Any) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"webhooks.{receiver.__name__}")


def on_registered(sender: Any, model: type[models.Model], **kwargs: Any) -> None:
    watch(model)


def on_class_prepared(sender: type[models.Model], **kwargs: Any) -> None:
    """A model class that is created at runtime may be a proxy or a child of a registered one."""
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
    """Read the previous state if a webhook may need it."""
    state = transaction.current(using)
    if raw or (state and not state.subscriptions.prechange_types) or using != recording.database():
        return
    objects = {
        registration: [key]
        for registration in registry.registrations_touched(sender)
        if (key := _key(registration, instance)) is not None and not _is_surely_new(registration.model, instance)
    }
    if objects:
        # No savepoint is needed if the save itself takes the same lock and writes all columns that are read.
        in_savepoint = update_fields is not None or not registry.save_locks_row(sender)
        read = recording.snapshot_before(objects, using, in_savepoint=in_savepoint)
        if not transaction.in_transaction(using):
            instance._webhooks_state = read  # type: ignore[attr-defined]


def _key(registration: Registration, instance: models.Model) -> Any:
    # A child has the key of an inherited row in an attribute named like the parent's key.
    return getattr(instance, registration.model._meta.pk.attname)


def _is_surely_new(model: type[models.Model], instance: models.Model) -> bool:
    """If a key has a default, Django inserts a new instance without looking for its row."""
    return instance._state.adding and (model._meta.pk.has_default() or model._meta.pk.has_db_default())


def on_child_saving(sender: type[models.Model], instance: models.Model, using: str, raw: bool, **kwargs: Any) -> None:
    """Note the parents whose rows exist already: a child that is created for them does not create these."""
    if raw or not instance._state.adding or not recording.has_subscribers(sender, using):
        return
    existing: set[type[models.Model]] = set()
    instance._webhooks_parents = existing  # type: ignore[attr-defined]
    for registration in registry.registrations_touched(sender):
        model, key = registration.model, _key(registration, instance)
        if model is not sender and key is not None:
            existing.add(model)
            label = registration.label
            with (
                log_errors(using, "%s %s is recorded as updated: its row cannot be read", label, key),
                savepoint(using),
            ):
                if not model._base_manager.using(using).filter(pk=key).exists():
                    existing.remove(model)


def on_saved(
    sender: type[models.Model], instance: models.Model, created: bool, using: str, raw: bool, **kwargs: Any
) -> None:
    parents = instance.__dict__.pop("_webhooks_parents", ())
    state = instance.__dict__.pop("_webhooks_state", None)
    instance.__dict__.pop("_webhooks_loaded", None)
    if raw:
        # Rows of a fixture may refer to rows that do not exist yet. Its relations to many are set next, and Django does
        # not signal that they are of a fixture.
        instance._webhooks_loaded = True  # type: ignore[attr-defined]
        return
    if not recording.has_subscribers(sender, using):
        return
    needs_lock = not registry.save_locks_row(sender)
    for registration in registry.registrations_touched(sender):
        action = Action.CREATED if created and registration.model not in parents else Action.UPDATED
        _record(registration, _key(registration, instance), action, using, needs_lock, state)


def on_deleting(sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any) -> None:
    if not recording.has_subscribers(sender, using):
        return  # first: a deletion may cascade to thousands of rows without subscribers
    # Django signals the deletion of each inherited row, so only the sender's own model counts.
    registration = registry.registration_of(sender)
    if registration is not None:
        # The row is locked from here on, so that no update comes between this Event and the deletion.
        _record(registration, instance.pk, Action.DELETED, using, needs_lock=True)


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
    """Record changes of the objects that have the field, from whichever side the relation is edited."""
    if "_webhooks_loaded" in instance.__dict__:
        return
    holders = model if reverse else type(instance)
    label = instance._meta.label_lower
    with log_errors(using, "No webhook gets an edit of %s of %s %s", sender.__name__, label, instance.pk):
        # First: finding the objects may take a query, and load thousands of keys.
        if _is_elsewhere(label, instance.pk, action, using) or not recording.has_subscribers(holders, using, True):
            return
        relation = Relation(sender, holders, reverse)
        changed = relation.changed(instance, action, pk_set, using)
        if action == "post_add":
            with log_errors(using, "The other ends of a relation of %s %s are not written yet", label, instance.pk):
                relation.mirror(instance, pk_set or set(), using)
        if action.startswith("post_"):
            recording.record_edit(changed, using)
        elif (state := transaction.current(using)) is None or state.subscriptions.prechange_types:
            fields = {registration: relation.names(registration) for registration in changed}
            recording.snapshot_before(changed, using, fields)


def _record(
    registration: Registration,
    pk: Any,
    action: Action,
    using: str,
    needs_lock: bool,
    state: TransactionState | None = None,
) -> None:
    if not _is_elsewhere(registration.label, pk, action, using):
        recording.record(registration, pk, action, using, needs_lock, state)


def _is_elsewhere(label: str, pk: Any, action: str, using: str) -> bool:
    """Whether an object is on another database than the app's tables, which is logged."""
    if using == recording.database():
        return False
    logger.error(
        "%s %s had a change (%s) on the database %r, but the tables of webhooks are on %r: nothing can be sent for it",
        label, pk, action, using, recording.database(),
    )  # fmt: skip
    return True


def on_object_types_changed(sender: Any, action: str, pk_set: set[int] | None, using: str, **kwargs: Any) -> None:
    if action == "pre_add" and pk_set:
        registry.refuse_unregistered(pk_set)
    elif action.startswith("post_"):
        transaction.forget_subscriptions(using)


def on_webhook_changed(sender: Any, using: str, **kwargs: Any) -> None:
    transaction.forget_subscriptions(using)
