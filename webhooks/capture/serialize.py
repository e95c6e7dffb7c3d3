"""Objects as JSON, by the project's own serializers: as they are, and as they were before the transaction."""

from __future__ import annotations

import json
import traceback
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone, translation

from webhooks.capture.transaction import Change, Key, TransactionState
from webhooks.db import in_chunks, savepoint
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action
from webhooks.payloads import Unsendable, refuse_too_large, snapshots, snapshots_json
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration
from webhooks.registry.serializer_context import serializer_context
from webhooks.text import NotJSONSerializable, clean, dumps

logger = get_logger(__name__)


@dataclass(frozen=True)
class Payload:
    """An object as one serializer shows it, as JSON texts: the data, the snapshots of the object as it is and as it
    was, and the names of the changed fields. The last two are empty if the previous state is not known."""

    data: str
    snapshot: str
    previous: str = ""
    changed: str = ""

    def columns(self, is_deleted: bool = False) -> dict[str, str]:
        """The columns of an Event. A deletion has the snapshot of the deleted object alone."""
        if is_deleted:
            return {"data": self.data, "snapshots": snapshots_json(self.snapshot, None), "changed": ""}
        return {"data": self.data, "snapshots": snapshots_json(self.previous, self.snapshot), "changed": self.changed}


@dataclass(frozen=True)
class SerializedObject:
    """The columns from each serializer that worked, by its name, and the errors of the others. ``error``: there are no
    columns at all."""

    object_repr: str
    payloads: dict[str, dict[str, str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    error: str = ""


def reread_all(
    registration: Registration, pks: Sequence[Any], using: str, lock: bool = False
) -> dict[str, models.Model]:
    """The rows of these keys as the transaction sees them now, by their keys as text. Deleted ones are missing.

    The instances in memory may be stale: another transaction may have changed other columns since they were loaded.
    ``lock`` takes the lock of an UPDATE, and so waits for other transactions that change the rows.
    """
    model = registration.model
    found: dict[str, models.Model] = {}
    for chunk in in_chunks(using, pks):
        rows = (registration.queryset or model._base_manager.all)().using(using)
        if lock:
            plain: models.QuerySet[Any] = models.QuerySet(model, using=using)
            locked = plain.select_for_update(no_key=True, of=("self",))
            if registration.queryset or model._meta.base_manager_name:
                # Annotations may group its rows, and PostgreSQL locks no groups.
                list(locked.filter(pk__in=chunk).order_by("pk").values_list("pk"))
            else:
                rows = locked
        # In the order in which an UPDATE locks them. For a single row that would cost a fifth more.
        rows = rows.filter(pk=chunk[0]).order_by() if len(chunk) == 1 else rows.filter(pk__in=chunk).order_by("pk")
        found |= registration.by_pk(rows)
    return found


def serialize(
    registration: Registration, instance: models.Model, serializer: str = "", previous: PreviousState | None = None
) -> Payload:
    """Serialize an object with the serializer of this name, in the language and time zone of the settings.

    Raises what the serializer raises, and Unsendable.
    """
    with translation.override(settings.LANGUAGE_CODE), timezone.override(None):
        writer = registration.serializer_class(serializer)(instance, context=serializer_context())
        data = writer.data
        snapshot = snapshots.snapshot_of(writer, data, instance)
        earlier = snapshots.previous_snapshot(writer, data, snapshot, previous) if previous else None
        what = f"the payload of {registration.label} {instance.pk}"
        try:
            payload = Payload(_write(registration, data), _write(registration, snapshot, is_exact=True))
            if earlier is not None:
                before = _write(registration, earlier, is_exact=True)
                # Compared as JSON: a difference that JSON does not show is no change.
                changed = snapshots.changed_fields(json.loads(before), json.loads(payload.snapshot))
                payload = Payload(payload.data, payload.snapshot, before, dumps(changed))
        except NotJSONSerializable as error:
            raise Unsendable(f"{what} cannot be written as JSON: {error}") from error
        refuse_too_large(what, len(payload.data) + len(payload.snapshot) + len(payload.previous))
        return payload


def _write(registration: Registration, data: Any, is_exact: bool = False) -> str:
    """JSON text without excluded and sensitive fields."""
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if not registration.is_left_out(str(key))}
    return dumps(data, registration.is_sensitive, is_exact)


def read(state: TransactionState, change: Change, serializers: Sequence[str]) -> SerializedObject | None:
    """Read and serialize the object of a change. None if it was deleted. Raises the error if all serializers fail."""
    found = reread_all(change.registration, [change.pk], state.using, change.needs_lock)
    for instance in found.values():  # one at most, under the key as its field spells it
        return _serialize_each(state, change, instance, serializers)
    return None


def read_all(state: TransactionState, changes: Sequence[Change]) -> dict[Key, SerializedObject | None]:
    """Read and serialize many objects, with all serializers that webhooks use for their models.

    Takes one query for each model, without the serializers' own. Raises the error of the first object that fails.
    """
    by_model: dict[Registration, list[Change]] = defaultdict(list)
    for change in changes:
        by_model[change.registration].append(change)
    found: dict[Key, SerializedObject | None] = {}
    for registration, group in by_model.items():
        lock = any(change.needs_lock for change in group)
        instances = reread_all(registration, [change.pk for change in group], state.using, lock)
        names = state.subscriptions.serializers(registration.label)
        for name in names if len(instances) > 1 else ():
            snapshots.prefetch_serialized(registration, name, list(instances.values()), state.using)
        is_complete = instances.keys() <= {str(change.pk) for change in group}
        for change in group:
            instance = instances.get(str(change.pk))
            if instance:
                found[change.key] = SerializedObject(
                    registration.name_of(instance), {name: _columns(state, change, instance, name) for name in names}
                )
            else:
                # Deleted, unless the field of its key spells it in another way.
                found[change.key] = None if is_complete else read(state, change, names)
    return found


def read_or_failed(state: TransactionState, change: Change) -> SerializedObject | None:
    """Read and serialize an object with all serializers that webhooks use for its model."""
    try:
        with transaction.atomic(state.using):
            return read(state, change, state.subscriptions.serializers(change.registration.label))
    except Exception as error:
        reraise_job_timeout(error)
        return failed(state, change, error)


def failed(state: TransactionState, change: Change, error: Exception) -> SerializedObject:
    """What an Event has of an object that cannot be serialized: the traceback."""
    logger.error("The payload of %s cannot be created, its event is marked failed: %s", change, error)
    name = ""
    try:
        with transaction.atomic(state.using):
            for instance in reread_all(change.registration, [change.pk], state.using).values():
                name = change.registration.name_of(instance)
    except Exception as problem:
        reraise_job_timeout(problem)
        logger.warning("The name of %s cannot be read either: %s", change, problem)
    return SerializedObject(name, error=clean(_reason(error)))


def _reason(error: Exception) -> str:
    # The message of Unsendable says it all.
    return f"{error}." if isinstance(error, Unsendable) else "".join(traceback.format_exception(error))


def _serialize_each(
    state: TransactionState, change: Change, instance: models.Model, serializers: Sequence[str]
) -> SerializedObject:
    """Serialize with each serializer. If there are several, one that fails takes nothing from the others' webhooks: one
    savepoint for all of them is enough, because they only read."""
    serialized = SerializedObject(change.registration.name_of(instance))
    savepoint_id = state.connection.savepoint() if len(serializers) > 1 else None
    for name in serializers:
        try:
            serialized.payloads[name] = _columns(state, change, instance, name)
        except Exception as error:
            reraise_job_timeout(error)
            if savepoint_id is None or len(serialized.errors) == len(serializers) - 1:
                raise
            title = name or "(default)"
            logger.error("The serializer %s of %s failed, its webhooks get nothing: %s", title, change, error)
            serialized.errors[name] = f"Serializer {title}: {_reason(error)}\n"
            state.connection.needs_rollback = False
            state.connection.savepoint_rollback(savepoint_id)
    if savepoint_id:
        state.connection.savepoint_commit(savepoint_id)
    return serialized


def _columns(state: TransactionState, change: Change, instance: models.Model, serializer: str) -> dict[str, str]:
    previous = state.previous(change.key) if needs_prechange(state, change.key) else None
    payload = serialize(change.registration, instance, serializer, previous)
    is_deleted = change.action == Action.DELETED
    if is_deleted and (payload.previous or previous is None) and needs_prechange(state, change.key):
        # If the transaction creates the object again, that is an update of this state. Each serializer adds its fields.
        # A field that is known already keeps the value of the first deletion.
        known = state.previous(change.key)
        earlier = known.snapshot if known and known.snapshot else {}
        deleted = json.loads(payload.previous or payload.snapshot) | earlier
        state.set_previous(change.key, PreviousState(snapshot=deleted))
    return payload.columns(is_deleted)


# The previous state


def needs_prechange(state: TransactionState, key: Key) -> bool:
    """Whether a webhook needs the state before an update, and the object may be older than the transaction."""
    if key[0] not in state.subscriptions.prechange_types:
        return False
    history = state.history(key)
    return history is None or history.existed


def snapshot_before(
    state: TransactionState,
    registration: Registration,
    pks: Collection[Any],
    relations: Collection[str] = (),
    in_savepoint: bool = True,
    lock: bool = True,
) -> None:
    """Read rows that are about to change, and what these ``relations`` to many hold, once for each transaction.

    ``in_savepoint``: an error leaves the transaction usable. A save that waits for the same lock next does not need
    that. If reading fails, the previous state stays unknown, and the error is raised.
    """
    keys = {(registration.label, str(pk)): pk for pk in map(registration.normalize_pk, pks)}
    keys = {key: pk for key, pk in keys.items() if needs_prechange(state, key)}
    unread = [pk for key, pk in keys.items() if state.previous(key) is None and state.history(key) is None]
    known = [previous for previous in map(state.previous, keys) if previous]
    try:
        if unread or any(previous.lacks(relation) for previous in known for relation in relations):
            with savepoint(state.using) if in_savepoint else nullcontext():
                for chunk in in_chunks(state.using, unread):
                    rows = snapshots.read_rows(registration, chunk, state.using, lock)
                    for pk in map(str, chunk):
                        state.set_previous((registration.label, pk), PreviousState(rows.get(pk)))
                for relation in relations:
                    _read_relation(state, keys, relation)
    finally:
        for key in keys:
            if state.previous(key) is None:
                # It was not read before the first change. The row may have half of the change by now.
                state.set_previous(key, PreviousState())
            state.previous(key).edited.update(relations)  # type: ignore[union-attr]


def _read_relation(state: TransactionState, keys: Collection[Key], relation: str) -> None:
    # In a separate query, after the lock: a statement that waited for it sees other tables as before its wait.
    lacking = [previous for previous in map(state.previous, keys) if previous and previous.lacks(relation)]
    models.prefetch_related_objects([previous.row for previous in lacking if previous.row is not None], relation)
    for previous in lacking:
        previous.known.add(relation)
