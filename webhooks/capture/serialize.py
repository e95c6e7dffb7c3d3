"""Read objects again, and serialize them as JSON with the project's own serializers."""

from __future__ import annotations

import json
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from webhooks import hooks
from webhooks.capture.transaction import Change, Key, TransactionState
from webhooks.capture.watch import Watch, log_if_slow
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import PreparedRead, Statement, as_sql, fetch_each
from webhooks.ground.db.django_internals import (
    MergedSavepoint,
    PreparedMembers,
    prepare_members,
    reading_from,
    savepoint,
)
from webhooks.ground.db.host_rows import can_lock, in_chunks
from webhooks.ground.errors import get_logger, log_errors, reraise_job_timeout
from webhooks.ground.payloads import Unsendable, refuse_too_large, snapshots, snapshots_json, too_large
from webhooks.ground.payloads.snapshots import PrechangeState
from webhooks.ground.registry.keys import key_text, with_pks
from webhooks.ground.registry.registration import Registration
from webhooks.ground.registry.sources import without_hidden
from webhooks.ground.text import clean, last_line
from webhooks.ground.text.json_text import NotJSONSerializable, TooLong, dumps
from webhooks.models.columns import TRACE_LENGTH
from webhooks.models.event import Action, Event

logger = get_logger(__name__)

# The columns of an Event that the hooks ``payload_context`` get, in their order.
OF_CHANGE = ("action", "object_type", "object_id", "object_repr", "username", "request_id", "data")


@dataclass(frozen=True)
class Payload:
    """An object as one serializer shows it, as JSON texts.

    ``snapshot`` is the object as it is, ``prechange`` as it was, ``changed`` the names of the changed fields. The last
    two are empty if the prechange state is not known."""

    data: str
    snapshot: str
    prechange: str = ""
    changed: str = ""

    def columns(self, is_deleted: bool = False) -> dict[str, str]:
        """The columns of an Event. A deletion has the snapshot of the deleted object alone."""
        if is_deleted:
            return {"data": self.data, "snapshots": snapshots_json(self.snapshot, None), "changed": ""}
        return {"data": self.data, "snapshots": snapshots_json(self.prechange, self.snapshot), "changed": self.changed}


@dataclass(frozen=True)
class SerializedObject:
    """The payloads of the serializers that worked, by their names, or the ``error`` of all. ``errors`` has the
    others."""

    object_repr: str
    payloads: dict[str, Payload] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    error: str = ""

    def columns(self, action: Action) -> dict[str, dict[str, str]]:
        """The columns of an Event of this action, by the names of the serializers."""
        return {name: payload.columns(action == Action.DELETED) for name, payload in self.payloads.items()}


def reread_all(
    registration: Registration, pks: Sequence[Any], using: str, lock: bool = False, relations: Sequence[str] = ()
) -> dict[str, models.Model]:
    """The rows of these keys as the transaction sees them now, by their keys as text. Deleted ones are missing.

    The instances in memory may be stale: another transaction may have changed other columns since they were loaded.
    ``lock`` takes the lock of an UPDATE, and so waits for other transactions that change the rows. The members of the
    many-to-many ``relations`` of a single object are read in the same round trip, if the driver can do that.
    """
    model = registration.model
    instances: dict[str, models.Model] = {}
    for chunk in in_chunks(using, pks):
        rows, first = registration.rows(using), list[Statement]()
        if lock and can_lock(using, model):
            plain: models.QuerySet[Any] = models.QuerySet(model, using=using)
            locked = plain.select_for_update(no_key=True, of=("self",))
            if registration.reads_one_table:
                rows = locked
            else:
                # Annotations may group its rows, and PostgreSQL locks no groups. A statement that waited for a lock
                # sees other tables as before.
                first.append(as_sql(locked.filter(with_pks(model, chunk)).order_by("pk").values_list("pk")))
        # In the order of an UPDATE's locks. For a single row that would cost a fifth more.
        is_single = len(chunk) == 1
        rows = rows.filter(models.Q(pk=chunk[0]) if is_single else with_pks(model, chunk))
        rows = rows.order_by(*([] if is_single else ["pk"]))
        # A queryset of the project may read the members in its own way.
        has_own = registration.queryset or model._meta.base_manager_name
        members = prepare_members(model, chunk[0], using, relations) if is_single and not has_own else []
        if first or members:
            instances |= registration.by_pk(_read_together(using, first, rows, members))
        else:
            instances |= registration.by_pk(rows)
        if model._meta.base_manager_name and not registration.queryset:
            hidden = [pk for pk in chunk if key_text(pk) not in instances]  # by that manager, or deleted
            instances |= registration.by_pk(snapshots.rows_query(model, hidden, using, lock) if hidden else ())
    return instances


def _read_together(
    using: str, first: list[Statement], rows: models.QuerySet[Any], members: list[PreparedMembers]
) -> list[models.Model]:
    """Execute some statements, and read rows. If they are one row, read the members of its relations, too."""
    prepared = PreparedRead(rows)
    statements = [*first, prepared.statement, *(member.prepared.statement for member in members)]
    results = fetch_each(using, *statements)[len(first) :]
    objects = prepared.objects(results[0])
    for instance in objects:
        for member, given in zip(members, results[1:], strict=True):
            member.keep(instance, given)
    return objects


class NotRegistered(LookupError):
    """The model of a stored Event or skip is not registered any more."""


def reread_stored(label: str, object_id: str) -> tuple[Registration, models.Model | None]:
    """The object that a stored Event or skip names, locked. None if it has no row. Raises NotRegistered."""
    registration = registry.registration_by_label(label)
    if registration is None:
        raise NotRegistered(_("%(model)s is not registered any more") % {"model": label})
    instances = reread_all(registration, [registration.normalize_pk(object_id)], Event.objects.db, lock=True)
    return registration, next(iter(instances.values()), None)


def exists(change: Change, using: str) -> bool:
    """Whether the object of a change has a row."""
    with savepoint(using):
        return models.QuerySet(change.registration.model, using=using).filter(pk=change.pk).exists()


def serialize(
    registration: Registration, instance: models.Model, serializer: str = "", prechange: PrechangeState | None = None
) -> Payload:
    """Serialize an object with the serializer of this name, in the language and time zone of the settings. What the
    serializer reads comes from the database of the app.

    Raises what the serializer raises, and Unsendable.
    """
    what = f"the payload of {registration.label} {instance.pk}"
    watch = Watch(registration, serializer, what)
    try:
        with translation.override(settings.LANGUAGE_CODE), timezone.override(None), reading_from(Event.objects.db):
            writer = registration.build_serializer(serializer, instance)
            watch.follow(writer)
            written = writer.data
            watch.data_are_written()
            data = without_hidden(registration, writer, written)
            text = _json_text(registration, data)  # first: it may be too long
            taken = snapshots.snapshots_of(registration, serializer, writer, data, instance, prechange)
            payload = _payload(registration, text, taken)
    except NotJSONSerializable as error:
        raise Unsendable(f"{what} cannot be written as JSON: {error}") from error
    except TooLong as error:
        raise too_large(what) from error
    finally:
        watch.log_if_slow()
    refuse_too_large(what, len(payload.data) + len(payload.snapshot) + len(payload.prechange))
    return payload


def _payload(registration: Registration, data: str, taken: snapshots.Snapshots) -> Payload:
    """The payload with these snapshots. Raises NotJSONSerializable, and TooLong."""
    after = _json_text(registration, taken.after, is_exact=True)
    if taken.before is None:
        return Payload(data, after)
    before = _json_text(registration, taken.before, is_exact=True)
    # Compared as JSON: a difference that JSON does not show is no change.
    changed = {*snapshots.changed_fields(json.loads(before), json.loads(after)), *taken.unshown}
    return Payload(data, after, before, dumps(sorted(changed)))


def serialize_or_error(
    registration: Registration, instance: models.Model, serializer: str = "", prechange: PrechangeState | None = None
) -> Payload | str:
    """As ``serialize``, in a savepoint. Returns the last line of any error: a serializer may raise anything."""
    try:
        with transaction.atomic(Event.objects.db):
            return serialize(registration, instance, serializer, prechange)
    except Exception as error:
        reraise_job_timeout(error)
        return clean(last_line(f"{type(error).__name__}: {error}"))


def context_columns(columns: Mapping[str, Any], using: str) -> dict[str, str]:
    """The column ``context`` of a new Event with these columns, from the hooks. Empty if there is no such hook.

    A hook that fails, takes longer than ``SERIALIZE_TIMEOUT`` or returns too much is logged, and its keys are left out:
    they are an extra, and the change must reach the receiver all the same.
    """
    if not (listed := hooks.listed("payload_context")):
        return {}
    change = hooks.CapturedChange(*(columns.get(name, "") for name in OF_CHANGE))
    room = conf.payload_bytes - len(change.data_json) - len(columns.get("snapshots", ""))
    first, context, text = monotonic(), dict[str, Any](), ""
    for hook in listed:
        began = monotonic()
        message = "The hook %s failed, so the payload of %s %s goes without its context"
        with log_errors(using, message, hook.name, change.object_type, change.object_id), MergedSavepoint(using):
            with translation.override(settings.LANGUAGE_CODE), timezone.override(None), reading_from(using):
                more = context | dict(hook.method(change) or {})
            if (took := monotonic() - first) > conf.serialize_timeout:
                raise Unsendable(f"it took {took:.0f} s; SERIALIZE_TIMEOUT allows {conf.serialize_timeout:g}")
            written = dumps(more, most=max(room, 1)) if more else ""
            refuse_too_large("the payload with the context", conf.payload_bytes - room + len(written))
            text, context = written, more
        log_if_slow(f"hook {hook.name}", began)
    return {"context": text}


def trace_columns(columns: Mapping[str, Any]) -> dict[str, str | None]:
    """The column ``trace`` of a new Event with these columns, from the hooks. Empty if there is no such hook."""
    if not (listed := hooks.listed("trace_context")):
        return {}
    change = hooks.CapturedChange(*(columns.get(name, "") for name in OF_CHANGE))
    traces = (clean(str(hook.call(change) or ""), TRACE_LENGTH) for hook in listed)
    return {"trace": next(filter(None, traces), None)}


def stored_snapshot(registration: Registration, instance: models.Model) -> str:
    """A snapshot of the columns of an object as JSON, under their own names: for a model without a serializer."""
    return _json_text(registration, snapshots.stored_columns(registration, instance), is_exact=True)


def _json_text(registration: Registration, data: Any, is_exact: bool = False) -> str:
    """JSON text without excluded and sensitive fields."""
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if not registration.is_left_out(str(key))}
    return dumps(data, registration.is_sensitive, is_exact, conf.payload_bytes)


def serialize_object(state: TransactionState, change: Change, serializers: Sequence[str]) -> SerializedObject | None:
    """Read and serialize the object of a change. None if it was deleted.

    If there are several serializers, one that fails takes nothing from the others' webhooks. Raises the error if all
    fail.
    """
    relations = _relations_shown(change.registration, serializers)
    instances = reread_all(change.registration, [change.pk], state.using, change.needs_lock, relations)
    if not instances:
        return None
    [instance] = instances.values()  # under the key as its field spells it
    serialized = SerializedObject(change.registration.name_of(instance))
    for name in serializers:
        try:
            with MergedSavepoint(state.using) if len(serializers) > 1 else nullcontext():
                serialized.payloads[name] = _serialize(state, change, instance, name)
        except Exception as error:
            reraise_job_timeout(error)
            if len(serialized.errors) == len(serializers) - 1:
                raise
            title = name or "(default)"
            logger.error("The serializer %s of %s failed, its webhooks get nothing: %s", title, change, error)
            serialized.errors[name] = f"Serializer {title}: {_reason(error)}\n"
    return serialized


def _relations_shown(registration: Registration, serializers: Sequence[str]) -> list[str]:
    """The many-to-many relations that any of these serializers shows. A serializer that fails adds none."""
    relations = set[str]()
    for name in serializers:
        try:
            relations.update(snapshots.relations_shown(registration, name))
        except Exception as error:
            reraise_job_timeout(error)  # it is reported when it serializes the object
    return sorted(relations)


def serialize_all(state: TransactionState, changes: Sequence[Change]) -> dict[Key, SerializedObject | None]:
    """Read and serialize many objects, with all serializers that webhooks use for their models.

    Takes one query for each model, without the serializers' own. Raises the error of the first object that fails.
    """
    by_model: dict[Registration, list[Change]] = defaultdict(list)
    for change in changes:
        by_model[change.registration].append(change)
    serialized: dict[Key, SerializedObject | None] = {}
    for registration, group in by_model.items():
        lock = any(change.needs_lock for change in group)
        instances = reread_all(registration, [change.pk for change in group], state.using, lock)
        names = state.subscriptions.serializers(registration.label)
        for name in names if len(instances) > 1 else ():
            snapshots.prefetch_serialized(registration, name, list(instances.values()), state.using)
        is_complete = instances.keys() <= {key_text(change.pk) for change in group}
        for change in group:
            if instance := instances.get(key_text(change.pk)):
                payloads = {name: _serialize(state, change, instance, name) for name in names}
                serialized[change.key] = SerializedObject(registration.name_of(instance), payloads)
            else:
                # Deleted, unless the field of its key spells it in another way.
                serialized[change.key] = None if is_complete else serialize_object(state, change, names)
    return serialized


def serialize_or_failed(state: TransactionState, change: Change) -> SerializedObject | None:
    """Read and serialize an object with all serializers that webhooks use for its model."""
    try:
        with MergedSavepoint(state.using):
            return serialize_object(state, change, state.subscriptions.serializers(change.registration.label))
    except Exception as error:
        reraise_job_timeout(error)
        return failed(state, change, error)


def failed(state: TransactionState, change: Change, error: Exception) -> SerializedObject:
    """An object that cannot be serialized: its Event has the traceback, and the object's name if possible."""
    logger.error("The payload of %s cannot be created, its event is marked failed: %s", change, error)
    name = ""
    with log_errors(state.using, "The name of %s cannot be read either", change), transaction.atomic(state.using):
        for instance in reread_all(change.registration, [change.pk], state.using).values():
            name = change.registration.name_of(instance)
    return SerializedObject(name, error=clean(_reason(error)))


def _reason(error: Exception) -> str:
    # The message of Unsendable says it all.
    return f"{error}." if isinstance(error, Unsendable) else "".join(traceback.format_exception(error))


def _serialize(state: TransactionState, change: Change, instance: models.Model, serializer: str) -> Payload:
    """Serialize the object of a change with one serializer."""
    needs = state.needs_prechange(change.key)
    prechange = state.prechange.get(change.key) if needs else None
    payload = serialize(change.registration, instance, serializer, prechange)
    if change.action == Action.DELETED and needs and (prechange is None or payload.prechange):
        # If the transaction creates the object again, that is an update of this state. Each serializer adds its fields.
        # A field that is known already keeps the value of the first deletion.
        known = prechange.snapshot if prechange and prechange.snapshot else {}
        snapshot = json.loads(payload.prechange or payload.snapshot) | known
        state.prechange.keep(change.key, PrechangeState(snapshot=snapshot))
    return payload
