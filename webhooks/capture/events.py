"""Record a change: each object has one Event in a transaction, for all changes of the object together.

A change that cannot be recorded is missed. It waits in the memory of the process until the tables can be written
again, and then becomes a failed Event. If the process ends before, only the log has it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from django.db import DataError, transaction
from django.utils import timezone

from webhooks.capture import serialize
from webhooks.capture.context import Actor, acting, actor_columns, current_actor, is_silenced
from webhooks.capture.matching import EventContext, Match, match
from webhooks.capture.recorded import notify_hooks
from webhooks.capture.serialize import SerializedObject
from webhooks.capture.skips import Skips
from webhooks.capture.subscriptions import Subscriptions
from webhooks.capture.transaction import (
    Change,
    ObjectHistory,
    TransactionState,
    current_or_new_state,
    current_state,
    is_batched,
)
from webhooks.ground import payloads
from webhooks.ground.conf import conf
from webhooks.ground.db import in_block
from webhooks.ground.db.django_internals import MergedSavepoint, reading_from
from webhooks.ground.db.host_rows import in_chunks
from webhooks.ground.errors import get_logger, log_errors, reraise_job_timeout
from webhooks.ground.registry.keys import key_text
from webhooks.ground.registry.registration import Registration
from webhooks.ground.text import clean, last_line
from webhooks.models.event import LOOP_PROTECTION, Action, Event
from webhooks.models.skip import Refusal, Rule

logger = get_logger(__name__)

# The largest value of the column ``depth``.
MAX_DEPTH = 32767

# If more changes than this are missed, the oldest are dropped.
MAX_MISSED = 10_000

MISSED = "This event could not be recorded when it happened, so nothing was sent. Replay it to send it.\n{}"


_missed: deque[Event] = deque(maxlen=MAX_MISSED)
_lock = threading.Lock()


@dataclass(frozen=True)
class MergedChange:
    """The last change of an object in a transaction, merged with the earlier ones.

    ``action`` is the one of its Event. ``candidates`` are the webhooks that want the Event before its data is known, by
    the names of their serializers. ``refusals`` has the reasons of others."""

    change: Change
    history: ObjectHistory
    action: Action
    actor: Actor
    candidates: dict[str, list[int]] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedEvent:
    """An Event as the transaction must leave it. ``ids`` are its rows so far, the list of the object's history.
    ``columns`` are empty if no webhook needs the Event."""

    ids: list[int]
    columns: dict[str, Any]


def records_later(using: str) -> bool:
    """Whether a save is recorded after the receivers of the project, and so with what they write.

    In autocommit mode it is recorded before them: each of their saves is a transaction after it. In a batch, all is
    read at the end.
    """
    return in_block(using) and not is_batched(using)


def announce(objects: Mapping[Registration, Collection[Any]], action: Action, using: str) -> None:
    """Note that objects were created or updated, before receivers of the project see it. ``record`` follows.

    A receiver may save or delete the same objects, and its changes are then recorded first. Errors are logged.
    """
    for registration, pks in objects.items():
        for pk in pks:
            with log_errors(using, "A save cannot be noted before its receivers: %s %s", registration.label, pk):
                state = current_or_new_state(using)
                if state.subscriptions.concerns(registration.model):
                    change = Change(registration, registration.normalize_pk(pk), action)
                    actor = state.note(change).actors[-1]
                    state.announce(change.key, partial(_record_late, change, using, actor))


def _record_late(change: Change, using: str, actor: Actor) -> None:
    """Record a save after its commit: a receiver of the project raised, and the project committed nevertheless."""
    with acting(actor):
        record({change.registration: [change.pk]}, change.action, using)


def record(
    objects: Mapping[Registration, Collection[Any]],
    action: Action,
    using: str,
    state: TransactionState | None = None,
    *,
    needs_lock: bool = False,
    is_relation: bool = False,
    may_be_absent: bool = False,
) -> None:
    """Record that objects were created or updated, or are about to be deleted, on database ``using``.

    ``objects`` has their primary keys. ``state`` is the result of ``read_prechange`` in autocommit mode. The others are
    fields of ``Change``. Errors are logged, and become failed Events if possible. Raises only what aborted the
    transaction.
    """
    if is_silenced():
        return
    for registration, pks in objects.items():
        for pk in pks:
            with log_missed(using, Change(registration, pk, action)), reading_from(using):
                state = current_or_new_state(using, state)
                if state.subscriptions.concerns(registration.model):
                    with state.begin() as is_new:
                        # In autocommit mode the change is committed already, and its lock released.
                        lock, key = needs_lock or is_new, registration.normalize_pk(pk)
                        _record_change(state, Change(registration, key, action, lock, is_relation, may_be_absent))


def _record_change(state: TransactionState, change: Change) -> None:
    if _missed and not state.records_missed:
        state.records_missed = True
        transaction.on_commit(partial(_record_missed, state.subscriptions, state.using), state.using)
    known = state.history(change.key)
    is_repeated = known and known.action == change.action == Action.DELETED and change.key not in state.deleting
    if is_repeated and not serialize.exists(change, state.using):
        state.begin_deletion(change)  # of no row, unless a receiver of the project creates it again
        return
    is_unread = change.may_be_absent and (known is None or known.is_assumed)
    was_announced = state.take_announcement(change.key)
    history = known if known and was_announced else state.note(change)
    if change.action == Action.DELETED:
        _record_deletion(state, change, history, is_first=known is None)
        if is_unread and not history.deleted and not serialize.exists(change, state.using):
            state.edit(history, existed=False)
    else:
        _record_update(state, change, history)


def _record_update(state: TransactionState, change: Change, history: ObjectHistory) -> None:
    """Record a save, or an edit of a relation."""
    state.serialized_for_deletion.pop(change.key, None)
    is_wanted = history.existed and state.subscriptions.subscribers(change.registration.label, Action.DELETED)
    if is_wanted and change.key in state.deleting and not change.is_relation:
        # A receiver of the project saves the object while it is deleted, such as a counter.
        saved = serialize.serialize_or_failed(state, state.deleting[change.key][-1])
        state.edit(history, deleted=saved or history.deleted)
    _record_or_defer(state, change)


def _record_deletion(state: TransactionState, change: Change, history: ObjectHistory, is_first: bool) -> None:
    """Record a deletion while the row can still be read. ``is_first``: it is the object's first change."""
    if not is_first:
        state.prechange.give_up(change.key)
    state.begin_deletion(change)
    if state.batch is not None and state.subscriptions.has_subscribers(change.registration.model):
        prepared = state.serialized_for_deletion.pop(change.key, None)
        serialized = prepared or serialize.serialize_or_failed(state, change)
        state.edit(history, deleted=serialized or history.deleted)
    _record_or_defer(state, change)


def finish_deletion(registration: Registration, pk: Any, using: str) -> None:
    """Record a deletion again if a receiver of the project has changed the object since it was announced.

    The row is gone now, so the changes are part of the deletion. Errors are logged, as by ``record``.
    """
    state = current_state(using)
    if state is None or not state.deleting:
        return  # first: a deletion may cascade to thousands of rows without subscribers
    with log_missed(using, Change(registration, pk, Action.DELETED)), reading_from(using):
        change = state.end_deletion((registration.label, key_text(registration.normalize_pk(pk))))
        if change is None:
            return
        history = state.begin_history(change)
        if history.action != Action.DELETED:
            state.note(change)
            _record_or_defer(state, change, history.deleted)
        if state.batch is None:
            history.deleted = None  # a cascade may have thousands


def _record_or_defer(state: TransactionState, change: Change, serialized: SerializedObject | None = None) -> None:
    """Record a change now, or at the end of the open batch."""
    if state.batch is None:
        record_now(state, change, serialized)
    else:
        state.defer(state.batch, change)


def record_now(state: TransactionState, change: Change, serialized: SerializedObject | None = None) -> None:
    """Insert, update or delete the Event of the object of a change. Reads the object if it is not given."""
    merged = merge(state, change)
    name, refusals = "", merged.refusals
    if merged.candidates:
        serialized, refused = _serialize_and_write(state, merged, serialized)
        if not serialized:
            deleted = merged.history.deleted
            if deleted and change.action != Action.DELETED:  # else no signal announced the deletion
                record_now(state, replace(change, action=Action.DELETED), deleted)
            return
        if change.action == Action.DELETED:
            state.edit(merged.history, deleted=serialized)
        name, refusals = serialized.object_repr, refusals | refused
    elif merged.history.event_ids or merged.history.failed_ids:
        if is_gone(change, state.using):
            return
        with transaction.atomic(state.using):
            delete_pending(state, [change])
    if refusals or merged.history.skip_ids:
        skips = Skips(state)
        skips.replace(change, merged.action, merged.actor, name, refusals)
        skips.store()


def _serialize_and_write(
    state: TransactionState, merged: MergedChange, serialized: SerializedObject | None
) -> tuple[SerializedObject | None, dict[int, Refusal]]:
    """Write the Events of a change, or a failed one. Returns the object, and why some candidates do not want it. The
    object is None if it has no row. Then nothing is written."""
    try:
        # In a savepoint: an error of the database in a serializer must not abort the transaction of the change.
        with MergedSavepoint(state.using) as savepoint:
            serialized = serialized or serialize.serialize_object(state, merged.change, [*merged.candidates])
            return serialized, _write_events(state, merged, serialized, savepoint) if serialized else {}
    except Exception as error:
        reraise_job_timeout(error)
        with MergedSavepoint(state.using) as savepoint:
            serialized = serialize.failed(state, merged.change, error)
            return serialized, _write_events(state, merged, serialized, savepoint)


def is_gone(change: Change, using: str) -> bool:
    """Whether an object has no row, although its deletion is not the change. Then its deletion is recorded already, and
    stays."""
    return change.action != Action.DELETED and not serialize.exists(change, using)


def merge(state: TransactionState, change: Change) -> MergedChange:
    """Merge a change with the object's earlier ones in the transaction."""
    history, action = state.begin_history(change), change.action
    if action != Action.DELETED:
        action = Action.UPDATED if history.existed else Action.CREATED
    elif not history.existed:
        return MergedChange(change, history, action, history.actors[-1])  # created and deleted: nothing is sent
    usernames = [actor.username for actor in history.actors]
    candidates, refusals = state.subscriptions.candidates(change.registration.label, action, usernames)
    actor = state.subscriptions.last_wanted(history.actors, candidates)
    return MergedChange(change, history, action, actor, state.subscriptions.by_serializer(candidates), refusals)


def _write_events(
    state: TransactionState, merged: MergedChange, serialized: SerializedObject, savepoint: MergedSavepoint
) -> dict[int, Refusal]:
    """Write the Events of a change, as the last step in a savepoint. Returns why some candidates do not want it."""
    events, refusals = plan_events(state, merged, serialized)
    label, pk = merged.change.key
    for planned in events:
        if planned.ids:
            # SQLite reuses the id of a row that was rolled back: it may be the Event of another object by now.
            rows = Event.objects.using(state.using).filter(pk__in=planned.ids, object_type=label, object_id=pk)
            if not planned.columns:
                rows.delete_undispatched()
                state.forget_recorded(planned.ids)
            elif rows.filter(undispatched__isnull=False).update(**planned.columns):
                state.note_recorded(Event(pk=pk, **planned.columns) for pk in planned.ids)
                continue
        if planned.columns:  # a new Event, or one that a rollback took back unseen
            event = Event(**planned.columns)
            with savepoint.last() if planned is events[-1] else nullcontext():  # one statement on PostgreSQL
                state.insert_event(event)
            planned.ids.append(event.pk)
    return refusals


def plan_events(
    state: TransactionState, merged: MergedChange, serialized: SerializedObject
) -> tuple[list[PlannedEvent], dict[int, Refusal]]:
    """The Events of a change, and why some candidates do not want it.

    One Event is for the webhooks that match, a second one for the webhooks with filters that failed.
    """
    matched, planned = _match_candidates(state, merged, serialized), list[PlannedEvent]()
    label, pk = merged.change.key
    if matched.errored:
        reason = last_line(matched.error)
        logger.error("The filters of webhooks %s failed for %s: %s", matched.errored, merged.change, reason)
    problem = serialized.error or stop_loop(state, matched, merged.actor)
    for ids, webhook_ids, error in (
        (merged.history.event_ids, matched.matched, problem),
        (merged.history.failed_ids, matched.errored, matched.error),
    ):
        columns: dict[str, Any] = {}
        if webhook_ids:
            by_serializer = state.subscriptions.by_serializer(webhook_ids)
            columns = payloads.serializer_columns(by_serializer, serialized.columns(merged.action))
            columns |= {"object_type": label, "object_id": pk, "object_repr": serialized.object_repr}
            columns = complete_columns(state, columns, merged.action, webhook_ids, error, merged.actor)
        if ids or columns:
            planned.append(PlannedEvent(ids, columns))
    return planned, matched.refusals


def _match_candidates(state: TransactionState, merged: MergedChange, serialized: SerializedObject) -> Match:
    """Which candidates want the Event. Without a payload, filters cannot be applied: it fails for all of them."""
    if serialized.error:
        return Match(sorted(pk for webhook_ids in merged.candidates.values() for pk in webhook_ids))
    judged, columns_by_serializer = Match(), serialized.columns(merged.action)
    for serializer, webhook_ids in merged.candidates.items():
        if columns := columns_by_serializer.get(serializer):
            context = EventContext(merged.action, **columns, actor=merged.actor)
            judged.add(match(webhook_ids, state.subscriptions, context, state.budget))
        else:  # it failed, or a webhook began to use it after the object was read
            missing = f"Serializer {serializer} was not run.\n"
            judged.add_error(webhook_ids, serialized.errors.get(serializer, missing))
    return judged


def complete_columns(
    state: TransactionState, of_object: dict[str, Any], action: str, webhook_ids: list[int], error: str, actor: Actor
) -> dict[str, Any]:
    """The columns of an Event: the given ones of its object, who did what, who wants it, and what the hooks add."""
    columns = of_object | actor_columns(actor)
    columns |= {"action": action, "webhook_ids": webhook_ids, "error": error}
    columns |= {"timestamp": timezone.now(), "depth": min(actor.depth, MAX_DEPTH)}
    return columns | serialize.context_columns(columns, state.using) | serialize.trace_columns(columns)


def stop_loop(state: TransactionState, matched: Match, actor: Actor) -> str:
    """Why loop protection stops the Event of this actor; empty if it does not. Adds that to the refusals."""
    if actor.depth <= (most := conf.max_depth):
        return ""
    # Receivers that write back would go on for ever.
    if state.subscriptions.keeps_skips:
        refusal = Refusal.because(Rule.LOOP_PROTECTION, depth=actor.depth, limit=most)
        matched.refusals |= dict.fromkeys(matched.matched, refusal)
    return (
        f"{LOOP_PROTECTION}depth {actor.depth} of a chain of changes that webhooks caused; MAX_DEPTH allows {most}. "
        "Replay it to send it as the first of a new chain."
    )


def delete_pending(state: TransactionState, changes: Iterable[Change]) -> None:
    """Delete the Events that the transaction has recorded of these objects so far."""
    histories = {change.key: state.begin_history(change) for change in changes}
    ours = {(pk, *key) for key, history in histories.items() for pk in history.event_ids + history.failed_ids}
    pending = Event.objects.using(state.using)
    for chunk in in_chunks(state.using, [pk for pk, *_ in ours]):
        # SQLite reuses ids, as above.
        rows = pending.filter(pk__in=chunk).values_list("pk", "object_type", "object_id")
        pending.filter(pk__in=[row[0] for row in rows if row in ours]).delete_undispatched()
    state.forget_recorded(pk for pk, *_ in ours)


@contextmanager
def log_missed(using: str, missed: Change | Event, actor: Actor | None = None) -> Iterator[None]:
    """Log an error of recording a change or a custom event, and record it as failed later. The default ``actor`` is the
    current one."""
    try:
        yield
    except Exception as error:
        with log_errors(using, "A change cannot be recorded, and no webhook gets it: %s", missed):
            raise
        with log_errors(using, "The missed change cannot be kept either: %s", missed):
            if isinstance(missed, Event):
                names = ("object_type", "object_id", "action", "data", "webhook_ids")
                columns = {name: getattr(missed, name) for name in names}
            else:
                label, pk = missed.key
                columns = {"object_type": label, "object_id": pk, "action": missed.action}
            reason = clean(MISSED.format(last_line(str(error)) or type(error).__name__))
            event = Event(**columns, **actor_columns(actor or current_actor()), error=reason)
            # Only if its transaction is committed.
            transaction.on_commit(partial(_missed.append, event), using, robust=True)


def _record_missed(subscriptions: Subscriptions, using: str) -> None:
    """Record the missed changes as failed Events, for the webhooks that want them by now. Raises nothing but the time
    limit of a job."""
    with _lock:
        events = list(_missed)
        _missed.clear()
    try:
        for event in events:
            if event.webhook_ids:
                continue  # of a rule outside this app
            event.webhook_ids, _ = subscriptions.candidates(event.object_type, event.action, [event.username])
        wanted = [event for event in events if event.webhook_ids]
        with transaction.atomic(using):
            notify_hooks(_insert_fitting(wanted, using), using)
    except Exception as error:
        _missed.extend(events)
        reraise_job_timeout(error)
        logger.warning("%d missed changes still cannot be recorded: %s", len(events), error)


def _insert_fitting(events: list[Event], using: str) -> list[Event]:
    """Insert events, and return them. Leaves out those that fit into no row, such as one with a key that is too long:
    it would keep the others out forever."""
    try:
        with transaction.atomic(using):
            Event.insert_all(events, using)
        return events
    except DataError:
        if len(events) > 1:
            return [event_id for event in events for event_id in _insert_fitting([event], using)]
        return []  # it was logged when it was missed
