"""Changes of other models that update a registered one: ``register(Device, also_on=[Interface])``.

A change of an interface is an update of its device, once for each transaction. If the interface moves, both devices are
updated.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models, router
from django.db.models import signals

from webhooks.capture.events import record
from webhooks.capture.prechange import read_prechange
from webhooks.capture.transaction import Key, TransactionState, current_state, may_be_wanted
from webhooks.ground import registry
from webhooks.ground.db.django_internals import savepoint
from webhooks.ground.errors import log_errors
from webhooks.ground.registry.keys import has_key, is_inserted, key_text
from webhooks.ground.registry.registration import Registration
from webhooks.models.event import Action, Event

# An attribute of an instance between two signals: what the first one noted, by the foreign key and the kind of change.
BEFORE = "_webhooks_parents"


@dataclass
class Noted:
    """The parents that a change of a row updates, as far as its first signal knows them."""

    values: list[Any] = field(default_factory=list)
    """What the foreign key has in the row, and what it is about to have."""
    keys: dict[Key, Any] = field(default_factory=dict)
    """The primary keys of these parents."""
    state: TransactionState | None = None
    """In autocommit mode: the state in which the parents were read."""


def connect(registration: Registration) -> None:
    """Connect receivers for the models whose changes update this one. A later registration replaces them."""
    for link in registration.parents_of:
        receivers = Receivers(registration, link)
        for sender in (link.model, *apps.get_models(include_auto_created=True)):
            if issubclass(sender, link.model):
                receivers.connect(sender)


class Receivers:
    """Receivers for the rows that point to a registered model, their parent, by one foreign key."""

    def __init__(self, registration: Registration, link: models.ForeignKey[Any, Any]) -> None:
        self._registration, self._link, self._name = registration, link, f"{registration.label}.{link}"

    def connect(self, sender: Any) -> None:
        for signal, receiver in (
            (signals.pre_save, self.before_save),
            (signals.post_save, self.after_save),
            (signals.pre_delete, self.before_deletion),
            (signals.post_delete, self.after_deletion),
        ):
            uid = f"webhooks.{receiver.__name__}.{self._name}"
            signal.disconnect(sender=sender, dispatch_uid=uid)
            signal.connect(receiver, sender=sender, dispatch_uid=uid, weak=False)

    def before_save(self, sender: Any, instance: models.Model, raw: bool = False, using: str = "", **save: Any) -> None:
        """Note the parent that the row has now, and the one that the save is about to give it.

        The row is read for each save: what the instance has may be stale, or assigned and not saved.
        """
        using = using or router.db_for_write(sender, instance=instance)
        if raw or not self._is_wanted(using):
            return
        values = self._assigned(instance, save.get("update_fields"))
        stored = []
        if has_key(instance.pk) and not is_inserted(instance, sender._meta.pk):
            stored = self._stored(sender, instance, using)
        self._note("save", instance, values + stored, using, locks=bool(stored))

    def after_save(self, sender: Any, instance: models.Model, raw: bool = False, using: str = "", **save: Any) -> None:
        """Record that the parents of a row were updated: the ones before the save and now."""
        using = using or router.db_for_write(sender, instance=instance)
        noted = self._take_note("save", instance)
        if raw or not self._is_wanted(using):
            return
        # A receiver of the project may have assigned another one meanwhile.
        values = [value for value in self._assigned(instance, save.get("update_fields")) if value not in noted.values]
        self._record(noted.keys | self._keys(values, using), using, noted.state)

    def before_deletion(
        self, sender: Any, instance: models.Model, using: str = "", origin: Any = None, **kwargs: Any
    ) -> None:
        """Note the parent of the row. Django has just read the rows that a deletion cascades to, or that a queryset
        has."""
        using = using or router.db_for_write(sender, instance=instance)
        if not self._is_wanted(using):
            return
        name = self._link.attname
        is_fresh = origin is not None and origin is not instance and name in instance.__dict__
        values = [instance.__dict__[name]] if is_fresh else self._stored(sender, instance, using)
        self._note("deletion", instance, values, using, locks=True)

    def after_deletion(self, sender: Any, instance: models.Model, using: str = "", **kwargs: Any) -> None:
        """Record that the parent of a deleted row was updated."""
        using = using or router.db_for_write(sender, instance=instance)
        noted = self._take_note("deletion", instance)
        if self._is_wanted(using):
            self._record(noted.keys, using, noted.state)

    def _is_wanted(self, using: str) -> bool:
        model = self._registration.model
        is_registered = registry.registration_of(model) is self._registration
        return is_registered and using == Event.objects.db and may_be_wanted(model, using, look_up=True)

    def _assigned(self, instance: models.Model, update_fields: Collection[str] | None) -> list[Any]:
        """What a save writes into the foreign key. Empty if it does not."""
        link = self._link
        is_written = update_fields is None or not {link.name, link.attname}.isdisjoint(update_fields)
        return [instance.__dict__.get(link.attname)] if is_written else []

    def _stored(self, sender: Any, instance: models.Model, using: str) -> list[Any]:
        """What the row has in the foreign key. Empty without a row."""
        message = "The %s before a change of %s %s cannot be read; it is not updated"
        with log_errors(using, message, self._link.name, instance._meta.label_lower, instance.pk), savepoint(using):
            rows: models.QuerySet[Any] = models.QuerySet(sender, using=using).filter(pk=instance.pk)
            return list(rows.values_list(self._link.attname, flat=True))
        return []

    def _note(self, change: str, instance: models.Model, values: list[Any], using: str, locks: bool) -> None:
        """``locks``: the change locks a row that another transaction may have locked after the parent's."""
        keys = self._keys(values, using)
        known = _without_deleted(keys, using)
        state = read_prechange({self._registration: known}, using) if known else None
        if state and locks:
            state.lock_with_next(self._registration, known)
        notes = instance.__dict__.setdefault(BEFORE, {})
        # A receiver of the project may save the instance again between the two signals of its save.
        outer = notes.get((change, self._name), Noted())
        state = None if state and state.is_open else state
        notes[change, self._name] = Noted([*outer.values, *values], outer.keys | keys, state)

    def _take_note(self, change: str, instance: models.Model) -> Noted:
        """What ``_note`` has left, which is then forgotten."""
        notes = instance.__dict__.get(BEFORE, {})
        noted: Noted = notes.pop((change, self._name), Noted())
        if not notes:
            instance.__dict__.pop(BEFORE, None)
        return noted

    def _record(self, keys: dict[Key, Any], using: str, state: TransactionState | None) -> None:
        if known := _without_deleted(keys, using):
            record({self._registration: known}, Action.UPDATED, using, state, needs_lock=True, may_be_absent=True)

    def _keys(self, values: list[Any], using: str) -> dict[Key, Any]:
        """The primary keys of the parents with these values, each once. Without a value that no parent can have: the
        database refuses it, too."""
        registration = self._registration
        values = [value for value in values if value is not None]
        if values and self._link.target_field != registration.model._meta.pk:  # ``to_field``
            values = self._pks(values, using)
        keys = {}
        for value in values:
            with suppress(ValidationError):
                pk = registration.normalize_pk(value)
                keys[registration.label, key_text(pk)] = pk
        return keys

    def _pks(self, values: list[Any], using: str) -> list[Any]:
        registration, link = self._registration, self._link
        message = "The %s of %s cannot be found; it is not updated"
        with log_errors(using, message, registration.label, link), savepoint(using):
            rows: models.QuerySet[Any] = models.QuerySet(registration.model, using=using)
            return list(rows.filter(**{f"{link.target_field.attname}__in": values}).values_list("pk", flat=True))
        return []


def _without_deleted(keys: dict[Key, Any], using: str) -> list[Any]:
    """The primary keys of the parents, unless a parent is being deleted: its children go with it."""
    state = current_state(using)
    deleting = state.deleting if state else {}
    return [pk for key, pk in keys.items() if key not in deleting]
