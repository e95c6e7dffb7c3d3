"""Receivers of Django's signals. Each finds the objects that change, and records them.

Some steps take two signals. The first leaves an attribute on the instance, and the last one removes it:

=====================  ===============================================================================================
``_webhooks_state``    the state that ``pre_save`` began in autocommit mode, for ``post_save``
``_webhooks_loaded``   the last save was of a fixture, so its many-to-many relations are as well; until the next save
``_webhooks_cleared``  the objects that a clearing removes, for the signal after it (``relations``)
=====================  ===============================================================================================
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models import signals

from webhooks import registry
from webhooks.capture.batch import batch
from webhooks.capture.events import record
from webhooks.capture.prechange import read_prechange
from webhooks.capture.relations import RelationEdit
from webhooks.capture.transaction import current_state, may_be_wanted
from webhooks.conf import conf
from webhooks.errors import log_errors
from webhooks.models import Action, Event, Webhook
from webhooks.registry.keys import has_key
from webhooks.registry.registration import Registration


def connect() -> None:
    """Connect the receivers for the app's own models always, the others only if webhooks are enabled."""
    _connect_receiver(signals.m2m_changed, on_object_types_changed, Webhook.object_types.through)
    if not conf.enabled:
        return
    _connect_receiver(signals.post_save, on_webhook_changed, Webhook)
    _connect_receiver(signals.post_delete, on_webhook_changed, Webhook)
    registry.registered.connect(on_registered, dispatch_uid="webhooks.on_registered")
    signals.class_prepared.connect(on_class_prepared, dispatch_uid="webhooks.on_class_prepared")
    for model in registry.registered_models().values():
        on_registered(None, model)


def on_registered(sender: Any, model: type[models.Model], **kwargs: Any) -> None:
    """Connect the receivers for a registered model, its proxies, and the models that inherit its rows.

    They are connected for each class, not for all senders. With any receiver of ``pre_delete``, Django loads rows that
    it could otherwise delete at once.
    """
    for sender in apps.get_models(include_auto_created=True):
        if sender is not model and issubclass(sender, model):
            _watch_class(sender)
    _watch_class(model)
    for field in model._meta.many_to_many:
        if field.remote_field.through is not None:
            _connect_receiver(signals.m2m_changed, on_many_to_many_changed, field.remote_field.through)


def _watch_class(sender: type[models.Model]) -> None:
    _connect_receiver(signals.pre_save, on_saving, sender)
    _connect_receiver(signals.post_save, on_saved, sender)
    _connect_receiver(signals.pre_delete, on_deleting, sender)


def _connect_receiver(signal: Any, receiver: Any, sender: Any) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"webhooks.{receiver.__name__}")


def on_class_prepared(sender: type[models.Model], **kwargs: Any) -> None:
    """A model class that is created at runtime may be a proxy or a child of a registered one."""
    if any(issubclass(sender, model) for model in registry.registered_models().values()):
        _watch_class(sender)


def on_saving(
    sender: type[models.Model],
    instance: models.Model,
    using: str,
    raw: bool,
    update_fields: Collection[str] | None = None,
    **kwargs: Any,
) -> None:
    """Read the prechange state if a webhook may need it."""
    state = current_state(using)
    if raw or (state and not state.subscriptions.prechange_types) or using != Event.objects.db:
        return
    objects = {}
    for registration in registry.registrations_touched(sender):
        pk, key = registration.model._meta.pk, _key(registration, instance)
        # If a key has a default, Django inserts a new instance without looking for its row.
        is_new = instance._state.adding and (pk.has_default() or pk.has_db_default())
        if has_key(key) and not is_new:
            objects[registration] = [key]
    if objects:
        # No savepoint is needed if the save itself takes the same lock and writes all columns that are read.
        in_savepoint = update_fields is not None or not registry.save_locks_row(sender)
        state = read_prechange(objects, using, in_savepoint=in_savepoint)
        if state and not state.is_open:
            instance._webhooks_state = state  # type: ignore[attr-defined]


def _key(registration: Registration, instance: models.Model) -> Any:
    # A child has the key of an inherited row in an attribute named like the parent's key.
    return getattr(instance, registration.model._meta.pk.attname)


def on_saved(
    sender: type[models.Model], instance: models.Model, created: bool, using: str, raw: bool, **kwargs: Any
) -> None:
    """Record that an instance was created or updated, and the rows that it inherits."""
    state = instance.__dict__.pop("_webhooks_state", None)
    instance.__dict__.pop("_webhooks_loaded", None)
    if raw:
        # A row of a fixture may refer to rows that do not exist yet, so it is not recorded. ``loaddata`` sets the row's
        # many-to-many relations next, and their signal does not say ``raw``.
        instance._webhooks_loaded = True  # type: ignore[attr-defined]
    elif may_be_wanted(sender, using):
        # Of a created child, a parent row counts as created as well: Django does not signal which parents are new.
        action = Action.CREATED if created else Action.UPDATED
        needs_lock = not registry.save_locks_row(sender)
        objects = {one: [_key(one, instance)] for one in registry.registrations_touched(sender)}
        record(objects, action, using, needs_lock, state)


def on_deleting(sender: type[models.Model], instance: models.Model, using: str, **kwargs: Any) -> None:
    """Record the deletion of an instance while its row can still be read."""
    if not may_be_wanted(sender, using):
        return  # first: a deletion may cascade to thousands of rows without subscribers
    # Django signals the deletion of each inherited row, so only the sender's own model counts.
    registration = registry.registration_of(sender)
    if registration is not None:
        # The row is locked from here on, so that no update comes between this Event and the deletion.
        record({registration: [instance.pk]}, Action.DELETED, using, needs_lock=True)


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
    """Record changes of the objects that have the field, from either side of the relation."""
    if "_webhooks_loaded" in instance.__dict__:
        return
    holders = model if reverse else type(instance)
    label = instance._meta.label_lower
    message = "An edit of %s of %s %s cannot be recorded, and no webhook gets it; save the object again to send it"
    with log_errors(using, message, sender.__name__, label, instance.pk):
        # First: finding the objects may take a query, and load thousands of keys.
        if not may_be_wanted(holders, using, look_up=True):
            return
        edit = RelationEdit(sender, holders, instance, reverse, using)
        changed = edit.changed(action, pk_set)
        if action == "post_add":
            message = "Objects that were added to %s of %s %s may be sent without it; save them again to send it"
            with log_errors(using, message, sender.__name__, label, instance.pk):
                edit.mirror(pk_set or set())
        if action.startswith("post_"):
            is_many = sum(map(len, changed.values())) > 1
            with batch(using) if is_many else nullcontext():
                record(changed, Action.UPDATED, using, needs_lock=True)
        elif (state := current_state(using)) is None or state.subscriptions.prechange_types:
            relations = {registration: edit.names(registration) for registration in changed}
            read_prechange(changed, using, relations)


def on_object_types_changed(sender: Any, action: str, pk_set: set[int] | None, using: str, **kwargs: Any) -> None:
    if action == "pre_add" and pk_set:
        registry.refuse_unregistered(pk_set)
    elif action.startswith("post_"):
        on_webhook_changed(sender, using)


def on_webhook_changed(sender: Any, using: str, **kwargs: Any) -> None:
    if state := current_state(using):
        state.forget_subscriptions()
