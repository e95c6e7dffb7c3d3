"""Changes of other models that update a registered one: ``register(Device, also_on=[Interface])``.

A change of an interface is an update of its device, once for each transaction. If the interface moves, both devices are
updated.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from django.apps import apps
from django.db import models, router
from django.db.models import signals

from webhooks import registry
from webhooks.capture.events import record
from webhooks.capture.prechange import read_prechange
from webhooks.capture.transaction import current_state, may_be_wanted
from webhooks.db import savepoint
from webhooks.errors import log_errors
from webhooks.models import Action, Event
from webhooks.registry.keys import has_key, key_text
from webhooks.registry.registration import Registration

ForeignKey = models.ForeignKey[Any, Any]

# An attribute of an instance between two signals, by receiver: the keys of its parents before the change, and in
# autocommit mode the state in which they were read.
BEFORE = "_webhooks_parents"


def connect(registration: Registration) -> None:
    """Connect receivers for the models whose changes update this one. A later registration replaces them."""
    for field in registration.parents_of:
        for sender in (field.model, *apps.get_models(include_auto_created=True)):
            if issubclass(sender, field.model):
                _watch(sender, registration, field)


def _watch(sender: Any, registration: Registration, field: ForeignKey) -> None:
    name = f"{registration.label}.{field}"
    for signal, receiver in (
        (signals.pre_save, before_save),
        (signals.post_save, after_change),
        (signals.pre_delete, before_deletion),
        (signals.post_delete, after_change),
    ):
        uid = f"webhooks.{receiver.__name__}.{name}"
        signal.disconnect(sender=sender, dispatch_uid=uid)
        signal.connect(partial(receiver, registration, field, name), sender=sender, dispatch_uid=uid, weak=False)


def before_save(
    registration: Registration,
    field: ForeignKey,
    name: str,
    sender: Any,
    instance: models.Model,
    raw: bool = False,
    using: str = "",
    update_fields: Collection[str] | None = None,
    **kwargs: Any,
) -> None:
    """Note the parent that the row has now, if the save may change it."""
    using = using or router.db_for_write(sender, instance=instance)
    if raw or not _is_wanted(registration, using):
        return
    parents = {getattr(instance, field.attname)}
    may_move = update_fields is None or not {field.name, field.attname}.isdisjoint(update_fields)
    if may_move and not instance._state.adding and has_key(instance.pk):
        message = "The %s before a change of %s %s cannot be read; it is not updated"
        with log_errors(using, message, field.name, instance._meta.label_lower, instance.pk), savepoint(using):
            rows = sender._base_manager.using(using).filter(pk=instance.pk)
            parents.update(rows.values_list(field.attname, flat=True))
    _note(registration, field, name, instance, parents, using)


def before_deletion(
    registration: Registration,
    field: ForeignKey,
    name: str,
    sender: Any,
    instance: models.Model,
    using: str = "",
    **kwargs: Any,
) -> None:
    using = using or router.db_for_write(sender, instance=instance)
    if _is_wanted(registration, using):
        _note(registration, field, name, instance, {getattr(instance, field.attname)}, using)


def _is_wanted(registration: Registration, using: str) -> bool:
    is_registered = registry.registration_of(registration.model) is registration
    return is_registered and using == Event.objects.db and may_be_wanted(registration.model, using, look_up=True)


def _note(
    registration: Registration, field: ForeignKey, name: str, instance: models.Model, parents: set[Any], using: str
) -> None:
    keys = _keys(registration, field, parents, using)
    state = read_prechange({registration: keys}, using) if keys else None
    instance.__dict__.setdefault(BEFORE, {})[name] = parents, None if state and state.is_open else state


def after_change(
    registration: Registration,
    field: ForeignKey,
    name: str,
    sender: Any,
    instance: models.Model,
    raw: bool = False,
    using: str = "",
    **kwargs: Any,
) -> None:
    """Record that the parents of a row were updated: the ones before the change and now."""
    using = using or router.db_for_write(sender, instance=instance)
    parents, state = instance.__dict__.get(BEFORE, {}).pop(name, (set(), None))
    if raw or not _is_wanted(registration, using):
        return
    parents.add(getattr(instance, field.attname))
    if keys := _keys(registration, field, parents, using):
        record({registration: keys}, Action.UPDATED, using, state, needs_lock=True)


def _keys(registration: Registration, field: ForeignKey, parents: set[Any], using: str) -> list[Any]:
    """The primary keys of these parents. Without one that is being deleted: its children go with it."""
    values = {value for value in parents if value is not None}
    if field.target_field != registration.model._meta.pk:  # ``to_field``
        rows = registration.model._base_manager.using(using)
        values = set(rows.filter(**{f"{field.target_field.attname}__in": values}).values_list("pk", flat=True))
    state = current_state(using)
    deleting = state.deleting if state else {}
    return [pk for pk in values if (registration.label, key_text(registration.normalize_pk(pk))) not in deleting]
