"""Receivers of Django's signals. Each finds the objects that change, and records them.

Some steps take two signals. The first leaves an attribute on the instance, and the last one removes it:

=====================  ===============================================================================================
``_webhooks_state``    the state that ``pre_save`` began in autocommit mode, for ``post_save``
``_webhooks_loaded``   the last save was raw, as that of a fixture, which may edit many-to-many relations next
``_webhooks_cleared``  the objects that a clearing removes, for the signal after it
=====================  ===============================================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

from django.apps import apps
from django.core.serializers.base import DeserializedObject
from django.db import models, router
from django.db.models import Q, signals

from webhooks.capture import related
from webhooks.capture.batch import batch, end_transaction
from webhooks.capture.context import is_silenced
from webhooks.capture.events import announce, finish_deletion, record, records_later
from webhooks.capture.prechange import forget_models, read_before_deletion, read_prechange
from webhooks.capture.transaction import TransactionState, current_state, may_be_wanted
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db.django_internals import call_before_commits, delete_within, savepoint
from webhooks.ground.errors import log_errors
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.keys import has_key, is_inserted, is_same_pk
from webhooks.ground.registry.registration import Registration
from webhooks.models import webhook_states
from webhooks.models.event import Action, Event
from webhooks.models.webhook import Webhook

Model = type[models.Model]


def connect() -> None:
    """Connect the receivers for the app's own models always, the others only if webhooks are enabled."""
    _connect_receiver(signals.m2m_changed, on_object_types_changed, Webhook.object_types.through)
    if not conf.enabled:
        return
    _connect_receiver(signals.post_save, on_webhook_changed, Webhook)
    _connect_receiver(signals.post_delete, on_webhook_changed, Webhook)
    _connect_receiver(webhook_states.deleted, on_webhook_changed, Webhook)
    call_before_commits(end_transaction)
    delete_within(read_before_deletion)
    registry.registered.connect(on_registered, dispatch_uid="webhooks.on_registered")
    signals.class_prepared.connect(on_class_prepared, dispatch_uid="webhooks.on_class_prepared")
    for model in registry.registered_models().values():
        on_registered(None, model)


def on_registered(sender: Any, model: Model, **kwargs: Any) -> None:
    """Connect the receivers for a registered model, its proxies, and the models that inherit its rows.

    They are connected for each class, not for all senders. With any receiver of ``pre_delete``, Django loads rows that
    it could otherwise delete at once.
    """
    for sender in (model, *apps.get_models(include_auto_created=True)):  # the model itself may be swapped out
        if issubclass(sender, model):
            _watch_class(sender)
    for field in model._meta.many_to_many:
        if field.remote_field.through is not None:
            _connect_receiver(signals.m2m_changed, on_many_to_many_changed, field.remote_field.through)
    if registration := registry.registration_of(model):
        related.connect(registration)


def _watch_class(sender: Model) -> None:
    """Connect the receivers of a model's rows. All but the last see a signal before the receivers of the project."""
    _connect_first(signals.pre_save, on_saving, sender)
    _connect_first(signals.post_save, on_saved, sender)
    _connect_first(signals.pre_delete, on_deleting, sender)
    _connect_first(signals.post_delete, on_deleted, sender)
    _connect_receiver(signals.post_save, after_saved, sender)


def _connect_receiver(signal: Any, receiver: Any, sender: Any) -> None:
    signal.connect(receiver, sender=sender, dispatch_uid=f"webhooks.{receiver.__name__}")


def _connect_first(signal: Any, receiver: Any, sender: Any) -> None:
    """Connect a receiver before all others: Django calls receivers in the order of this list."""
    count = len(signal.receivers)
    _connect_receiver(signal, receiver, sender)
    with signal.lock:
        if len(signal.receivers) > count:
            signal.receivers.insert(0, signal.receivers.pop())
            signal.sender_receivers_cache.clear()


def on_class_prepared(sender: Model, **kwargs: Any) -> None:
    """A model class that is created at runtime may be a proxy or a child of a registered one, or point to one."""
    forget_models()
    is_created = registry.register_created(sender)
    if is_created or any(issubclass(sender, model) for model in registry.registered_models().values()):
        _watch_class(sender)


# A project may send these signals itself, and leave out arguments.


def _using(sender: Model, instance: models.Model, using: str) -> str:
    """The database of a change."""
    return using or router.db_for_write(sender, instance=instance)


def on_saving(
    sender: Model,
    instance: models.Model,
    using: str = "",
    raw: bool = False,
    update_fields: Collection[str] | None = None,
    **kwargs: Any,
) -> None:
    """Read the prechange state if a webhook may need it."""
    using = _using(sender, instance, using)
    instance.__dict__.pop("_webhooks_state", None)  # of a save that failed
    state = current_state(using)
    locks_row = registry.save_locks_row(sender)
    if state and locks_row and not state.subscriptions.prechange_types:
        return  # first: nearly all saves end here
    if _is_loaded(raw) or using != Event.objects.db or is_silenced():
        return
    objects = {}
    for registration in registry.registrations_touched(sender):
        key = _key(registration, instance)
        if has_key(key) and not is_inserted(instance, registration.model._meta.pk):
            objects[registration] = [key]
    if objects:
        # No savepoint is needed if the save itself takes the same lock and writes all columns that are read.
        in_savepoint = update_fields is not None or not locks_row
        state = read_prechange(objects, using, in_savepoint=in_savepoint)
        if state and not state.is_open:
            instance._webhooks_state = state  # type: ignore[attr-defined]
        elif state and not locks_row:
            for registration in registry.unlocked_before(sender, update_fields):
                if state.subscriptions.subscribers(registration.label, Action.UPDATED):
                    state.lock_with_next(registration, objects.get(registration, ()))


def _key(registration: Registration, instance: models.Model) -> Any:
    # A child has the key of an inherited row in an attribute named like the parent's key.
    key = getattr(instance, registration.model._meta.pk.attname)
    if not has_key(key) and (link := instance._meta.get_ancestor_link(registration.model)):
        key = getattr(instance, link.attname)  # Django copies it between pre_save and the first statement
    return key


def on_saved(
    sender: Model, instance: models.Model, created: bool = False, using: str = "", raw: bool = False, **kwargs: Any
) -> None:
    """Record that an instance was created or updated, and the rows that it inherits. Or note it for ``after_saved``."""
    using = _using(sender, instance, using)
    state = instance.__dict__.pop("_webhooks_state", None)
    instance.__dict__.pop("_webhooks_loaded", None)
    if _is_loaded(raw):
        # A row of a fixture may refer to rows that do not exist yet, so it is not recorded. ``loaddata`` sets the row's
        # many-to-many relations next, and their signal does not say ``raw``.
        instance._webhooks_loaded = True  # type: ignore[attr-defined]
    elif may_be_wanted(sender, using):
        if records_later(using):
            announce(_saved(sender, instance), _action_of(created), using)
        else:
            _record_saved(sender, instance, created, using, state)


def after_saved(
    sender: Model, instance: models.Model, created: bool = False, using: str = "", raw: bool = False, **kwargs: Any
) -> None:
    """Record a save, with what the receivers of the project have written to the row."""
    if _is_loaded(raw):
        return
    using = _using(sender, instance, using)
    if may_be_wanted(sender, using) and records_later(using):
        _record_saved(sender, instance, created, using)


def _is_loaded(raw: bool) -> bool:
    """Whether a save loads an object of a fixture."""
    return raw and not framework().records_raw_saves()


def _record_saved(
    sender: Model, instance: models.Model, created: bool, using: str, state: TransactionState | None = None
) -> None:
    needs_lock = not registry.save_locks_row(sender)
    record(_saved(sender, instance), _action_of(created), using, state, needs_lock=needs_lock)


def _saved(sender: Model, instance: models.Model) -> dict[Registration, list[Any]]:
    """The key of the instance and of each row that it inherits. None if a receiver has deleted the instance itself."""
    keys = {registration: _key(registration, instance) for registration in registry.registrations_touched(sender)}
    return {registration: [key] for registration, key in keys.items() if has_key(key)}


def _action_of(created: bool) -> Action:
    # Of a created child, a parent row counts as created as well: Django does not signal which parents are new.
    return Action.CREATED if created else Action.UPDATED


def on_deleting(sender: Model, instance: models.Model, using: str = "", origin: Any = None, **kwargs: Any) -> None:
    """Record the deletion of an instance while its row can still be read."""
    if is_silenced():
        return
    using = _using(sender, instance, using)
    if not may_be_wanted(sender, using):
        return  # first: a deletion may cascade to thousands of rows without subscribers
    # Django signals the deletion of each inherited row, so only the sender's own model counts.
    registration = registry.registration_of(sender)
    if registration is not None:
        # The row is locked from here on, so that no update comes between this Event and the deletion.
        objects = {registration: [instance.pk]}
        # Django reads what a deletion cascades to, and neither the origin nor the rows that it inherits.
        is_unread = isinstance(origin, sender) and _key(registration, origin) == instance.pk
        record(objects, Action.DELETED, using, needs_lock=True, may_be_absent=is_unread)


def on_deleted(sender: Model, instance: models.Model, using: str = "", **kwargs: Any) -> None:
    """Finish the deletion of an instance: its row is gone."""
    registration = registry.registration_of(sender)
    if registration is not None:
        finish_deletion(registration, instance.pk, _using(sender, instance, using))


def on_many_to_many_changed(
    sender: Model,
    instance: models.Model,
    action: str = "",
    reverse: bool = False,
    model: Model | None = None,
    pk_set: set[Any] | None = None,
    using: str = "",
    **kwargs: Any,
) -> None:
    """Record changes of the objects that have the field, from either side of the relation."""
    using = _using(sender, instance, using)
    if "_webhooks_loaded" in instance.__dict__ and _is_being_loaded(instance):
        return
    holders: Any = model if reverse else type(instance)
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
                record(changed, Action.UPDATED, using, needs_lock=True, is_relation=True, may_be_absent=True)
        elif (state := current_state(using)) is None or state.subscriptions.prechange_types:
            relations = {registration: edit.names(registration) for registration in changed}
            read_prechange(changed, using, relations)
            if action in ("pre_remove", "pre_clear") and (state := current_state(using)):
                state.prechange.signalled.add(sender)


def _is_being_loaded(instance: models.Model) -> bool:
    """Whether ``DeserializedObject.save()`` of this instance is running. It does not mark its edits as ``raw``."""
    frame = sys._getframe().f_back
    while frame and frame.f_code is not DeserializedObject.save.__code__:
        frame = frame.f_back
    return frame is not None and frame.f_locals["self"].object is instance


def on_object_types_changed(
    sender: Any, action: str = "", pk_set: set[int] | None = None, using: str = "", **kwargs: Any
) -> None:
    if action == "pre_add" and pk_set:
        registry.refuse_unregistered(pk_set)
    elif action.startswith("post_"):
        on_webhook_changed(sender, using)


def on_webhook_changed(sender: Any, using: str = "", **kwargs: Any) -> None:
    if state := current_state(using or Event.objects.db):
        state.forget_subscriptions()


# Which objects an edit of a many-to-many relation changes


class RelationEdit:
    """An edit of the many-to-many relation of the model ``through``, as ``m2m_changed`` describes it.

    The model ``holders`` has the field. ``reverse``: the edit comes from the other side, which the field points to."""

    def __init__(
        self, through: Any, holders: type[models.Model], instance: models.Model, reverse: bool, using: str
    ) -> None:
        # Several only if fields share their ``through``: Django does not say which of them is edited.
        self._fields: list[Any] = [m2m for m2m in holders._meta.many_to_many if m2m.remote_field.through is through]
        self._declared_by = self._fields[0].model
        self._holders = holders
        self._instance = instance
        self._reverse = reverse
        self._using = using
        self._is_symmetrical = not reverse and any(map(_joins_both_ends, self._fields))

    def changed(self, action: str, pk_set: set[Any] | None) -> dict[Registration, list[Any]]:
        """The primary keys of the changed objects by registration."""
        touched = [registered for registered in registry.registrations_touched(self._holders) if self.names(registered)]
        is_empty = pk_set is not None and not pk_set  # None: all are cleared, or a sender by hand does not say which
        if not touched or is_empty:
            return {}
        has_others = self._reverse or self._is_symmetrical
        others = self._others(action, pk_set or set()) if has_others else []
        return {registration: self._pks(registration.model, others) for registration in touched}

    def names(self, registration: Registration) -> list[str]:
        """The names of the relation's fields on a registered model. A parent may lack a field of its child."""
        held = {relation.name for relation in registration.model._meta.many_to_many}
        return [field.name for field in self._fields if field.name in held]

    def mirror(self, pks: set[Any]) -> None:
        """Write the other direction of an addition to a symmetrical relation.

        Django signals the addition first, and writes the other direction afterwards. So the payloads of the other ends
        would lack it."""
        field, through = self._fields[0], self._fields[0].remote_field.through
        if self._is_symmetrical and through._meta.auto_created:
            here, there = f"{field.m2m_field_name()}_id", f"{field.m2m_reverse_field_name()}_id"
            key = getattr(self._instance, self._declared_by._meta.pk.attname)
            rows = [through(**{here: pk, there: key}) for pk in pks]
            with savepoint(self._using):
                through._base_manager.using(self._using).bulk_create(rows, ignore_conflicts=True)

    def _others(self, action: str, pk_set: set[Any]) -> list[Any]:
        """The primary keys of the objects that point to the instance, or did or will. Before a clearing they are read:
        afterwards it is too late."""
        if action == "post_clear":
            return list(self._instance.__dict__.pop("_webhooks_cleared", ()))
        if action == "pre_clear":
            pointing_here = Q(*((field.name, self._instance) for field in self._fields), _connector=Q.OR)
            pks = self._read_pks(self._declared_by, pointing_here)
            self._instance._webhooks_cleared = pks  # type: ignore[attr-defined]
            return pks
        field = self._fields[0]
        # The through model may refer to another field than the primary key.
        name = field.m2m_target_field_name() if self._reverse else field.m2m_reverse_target_field_name()
        if name == self._declared_by._meta.pk.name:
            return list(pk_set)
        return self._read_pks(self._declared_by, Q((f"{name}__in", pk_set)))

    def _pks(self, model: type[models.Model], others: list[Any]) -> list[Any]:
        """The primary keys of the changed objects in ``model``: a child may have another key than its parent."""
        pk, pk_of_field = model._meta.pk, self._declared_by._meta.pk
        if others and not is_same_pk(pk, pk_of_field):
            others = self._read_pks(model, Q((f"{pk_of_field.name}__in", others)))
        own = []
        if not self._reverse:
            # An instance that was created from its key alone lacks the key of the row that it inherits.
            is_same = is_same_pk(pk, self._instance._meta.pk)
            own = [self._instance.pk if is_same else getattr(self._instance, pk.attname)]
        keys = {pk.to_python(key) for key in [*own, *others]}  # an instance may have its key as text
        return sorted(keys)  # so that two transactions lock the same objects in the same order

    def _read_pks(self, model: type[models.Model], condition: Q) -> list[Any]:
        with savepoint(self._using):
            rows: models.QuerySet[Any] = models.QuerySet(model, using=self._using).filter(condition).order_by()
            return list(rows.values_list("pk", flat=True))


def _joins_both_ends(field: models.ManyToManyField[Any, Any]) -> bool:
    """Whether both ends have the relation. django-taggit says so for all its relations, so compare the models too."""
    ends = (field.model, field.related_model)
    first, second = (end._meta.concrete_model for end in ends)
    return first is second and bool(getattr(field.remote_field, "symmetrical", False))
