"""Insert, update or delete the Event of an object, so that it says what its transaction did to the object in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections, transaction
from django.utils import timezone

from webhooks import payloads
from webhooks.capture import serialize
from webhooks.capture.context import actor_columns, current_actor
from webhooks.capture.errors import log_errors
from webhooks.capture.matching import EventContext, Match, match
from webhooks.capture.serialize import SerializedObject
from webhooks.capture.transaction import Batch, Change, DeferredChange, Key, ObjectHistory, TransactionState
from webhooks.conf import conf
from webhooks.db import in_chunks, is_aborted
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action, Event
from webhooks.models.event import CUT
from webhooks.payloads import snapshots
from webhooks.registry.registration import Registration
from webhooks.text import clean, last_line

logger = get_logger(__name__)

# The largest value of the column ``depth``.
MAX_DEPTH = 32767

# The action of a transaction, by whether the object existed before and whether it exists now.
MERGED_ACTIONS = {
    (False, True): Action.CREATED,
    (True, True): Action.UPDATED,
    (True, False): Action.DELETED,
    (False, False): None,
}


def merged_action(history: ObjectHistory, change: Change) -> Action | None:
    """What the transaction did to the object in all; None if it created and deleted it."""
    return MERGED_ACTIONS[history.existed, change.action != Action.DELETED]


def record_event(state: TransactionState, change: Change, serialized: SerializedObject | None = None) -> None:
    """Update the object's Event to what the transaction did in all. Without ``serialized``, the object is read."""
    history = state.begin_history(change)
    action = merged_action(history, change)
    candidates = _candidates(state, change, action)
    if not (action and candidates):
        if history.event_ids or history.failed_ids:
            with transaction.atomic(state.using):
                delete_pending(state, {change.key: history})
        return
    try:
        # In a savepoint: an error of the database in a serializer must not abort the transaction of the change.
        with transaction.atomic(state.using):
            serializers = list(state.subscriptions.by_serializer(candidates))
            serialized = serialized or serialize.read(state, change, serializers)
            if serialized:
                write_events(state, change, history, action, _match(state, action, candidates, serialized), serialized)
    except Exception as error:
        reraise_job_timeout(error)
        with transaction.atomic(state.using):
            serialized = serialize.failed(state, change, error)
            write_events(state, change, history, action, Match(candidates), serialized)


def _candidates(state: TransactionState, change: Change, action: Action | None) -> list[int]:
    """The webhooks that want this action, filters aside."""
    username = current_actor().username
    return state.subscriptions.matching(change.registration.label, action, username) if action else []


def _match(state: TransactionState, action: Action, candidates: list[int], serialized: SerializedObject) -> Match:
    """Which candidates want the Event. Without a payload, filters cannot be applied: it fails for all of them."""
    if serialized.error:
        return Match(candidates)
    found = Match()
    state.budget.refill()
    for serializer, webhook_ids in state.subscriptions.by_serializer(candidates).items():
        if serializer in serialized.payloads:
            context = EventContext(action, **serialized.payloads[serializer], actor=current_actor())
            found.add(match(webhook_ids, state.subscriptions, context, state.budget))
        else:  # it failed, or a webhook began to use it after the object was read
            missing = f"Serializer {serializer} was not run.\n"
            found.add_error(webhook_ids, serialized.errors.get(serializer, missing))
    return found


def write_events(
    state: TransactionState,
    change: Change,
    history: ObjectHistory,
    action: Action,
    found: Match,
    serialized: SerializedObject,
) -> None:
    """Write the Event for the webhooks that matched, and a failed one for those with errors."""
    for event_ids, columns in _events_of(state, change, history, action, found, serialized):
        pending = _pending(state, change.key, event_ids) if event_ids else None
        if columns is None:
            if pending is not None:
                pending._raw_delete(state.using)
        # The UPDATE decides: a rollback that was not seen may have taken the row back.
        elif pending is None or not pending.update(**columns):
            event = _event(change, columns)
            event.insert(state.using)
            event_ids.append(event.pk)
            state.has_events = True


def _pending(state: TransactionState, key: Key, event_ids: Sequence[int]) -> Any:
    """Those Events that are still this object's: SQLite reuses the id of a row that was rolled back."""
    events = Event.objects.using(state.using).filter(object_type=key[0], object_id=key[1])
    return events.filter(pk__in=event_ids, dispatched_at=None)


def _events_of(
    state: TransactionState,
    change: Change,
    history: ObjectHistory,
    action: Action,
    found: Match,
    serialized: SerializedObject,
) -> Iterator[tuple[list[int], dict[str, Any] | None]]:
    """The ids so far and the columns of the object's Event, and of the failed one; None if it is not needed."""
    if found.errored:
        logger.error("The filters of webhooks %s failed for %s: %s", found.errored, change, last_line(found.error))
    for event_ids, webhook_ids, error in (
        (history.event_ids, found.matched, serialized.error),
        (history.failed_ids, found.errored, clean(found.error)),
    ):
        columns = None
        if webhook_ids:
            columns = payloads.serializer_columns(state.subscriptions.by_serializer(webhook_ids), serialized.payloads)
            columns |= {"object_repr": serialized.object_repr} | metadata_columns(action, webhook_ids, error)
        yield event_ids, columns


def _event(change: Change, columns: dict[str, Any]) -> Event:
    object_type, object_id = change.key
    return Event(object_type=object_type, object_id=object_id, **columns)


def metadata_columns(action: str, webhook_ids: list[int], error: str) -> dict[str, Any]:
    """The columns of an Event about who did what, and who wants it."""
    actor = current_actor()
    if not error and actor.depth > conf.max_depth:
        # Loop protection: receivers that write back would go on for ever.
        error = (
            f"{CUT}depth {actor.depth} of a chain of changes that webhooks caused; MAX_DEPTH allows {conf.max_depth}. "
            "Replay it to send it as the first of a new chain."
        )
    return actor_columns(actor) | {
        "action": action,
        "webhook_ids": webhook_ids,
        "timestamp": timezone.now(),
        "depth": min(actor.depth, MAX_DEPTH),
        "error": error,
    }


def delete_pending(state: TransactionState, histories: dict[Key, ObjectHistory]) -> None:
    """Delete the Events that the transaction has recorded of these objects so far."""
    ours = {(pk, *key) for key, history in histories.items() for pk in history.event_ids + history.failed_ids}
    pending = Event.objects.using(state.using).filter(dispatched_at=None)
    for chunk in in_chunks(state.using, [pk for pk, *_ in ours]):
        # SQLite reuses the id of a row that was rolled back: it may be the Event of another object by now.
        found = pending.filter(pk__in=chunk).values_list("pk", "object_type", "object_id")
        pending.filter(pk__in=[row[0] for row in found if row in ours])._raw_delete(state.using)


def record_batch(state: TransactionState, batch: Batch) -> None:
    """Record all changes of a batch together, with as few queries as for one. If that fails, each by itself, so that an
    object that cannot be serialized does not keep the others from being recorded."""
    entries = batch.latest()
    try:
        with transaction.atomic(state.using):
            _record_together(state, entries)
    except Exception as error:
        reraise_job_timeout(error)
        logger.warning("The changes of a batch cannot be recorded together, so each is by itself: %s", error)
        if is_aborted(state.using):
            raise
        for entry in entries:
            missed = entry if isinstance(entry, Event) else entry.change
            with log_missed(state.using, missed), transaction.atomic(state.using):
                if isinstance(entry, Event):
                    _insert(state, [entry])
                else:
                    record_event(state, entry.change, entry.serialized)


def log_missed(using: str, missed: Change | Event) -> log_errors:
    """Log the errors of recording a change or a custom event, and record it as failed later."""
    if isinstance(missed, Event):
        columns = {name: getattr(missed, name) for name in ("object_type", "object_id", "action", "data")}
    else:
        columns = dict(zip(("object_type", "object_id"), missed.key, strict=True)) | {"action": missed.action}
    return log_errors(using, "A change cannot be recorded, and no webhook gets it: %s", missed, missed=columns)


def _record_together(state: TransactionState, entries: Sequence[DeferredChange | Event]) -> None:
    changes = [entry for entry in entries if isinstance(entry, DeferredChange)]
    known = serialize.read_all(state, [entry.change for entry in changes if not entry.serialized])
    replaced: dict[Key, ObjectHistory] = {}
    new: list[tuple[list[int], Event]] = []
    for entry in entries:
        if isinstance(entry, Event):
            new.append(([], entry))
            continue
        change, history = entry.change, state.begin_history(entry.change)
        serialized, action = entry.serialized or known[change.key], merged_action(history, change)
        candidates = _candidates(state, change, action)
        if not (action and candidates):
            replaced[change.key] = history
        elif serialized:  # else the object was deleted without a signal
            replaced[change.key] = history
            found = _match(state, action, candidates, serialized)
            events = _events_of(state, change, history, action, found, serialized)
            new += [(event_ids, _event(change, columns)) for event_ids, columns in events if columns]
    delete_pending(state, replaced)
    _insert(state, [event for _, event in new])
    for event_ids, event in new:
        event_ids.append(event.pk)


def _insert(state: TransactionState, events: list[Event]) -> None:
    state.has_events = state.has_events or bool(events)
    Event.insert_all(events, state.using)


def record_custom(state: TransactionState, event: Event, registration: Registration | None = None) -> None:
    """Record a custom event for the webhooks that want it. It is merged with no other.

    ``registration`` is of its object. The row is locked, so that a later change of the object has a later
    Event, and is committed after this one.
    """
    candidates = state.subscriptions.for_custom_event(event.action, current_actor().username)
    if not candidates:
        return
    # A row that this transaction changed is locked already.
    if registration and not state.history((event.object_type, event.object_id)):
        _lock(state, registration, event.object_id)
    found = Match(candidates)
    if not event.error:
        state.budget.refill()
        context = EventContext(event.action, event.data, "", "", current_actor())
        found = match(candidates, state.subscriptions, context, state.budget)
    for webhook_ids, error in ((found.matched, event.error), (found.errored, clean(found.error))):
        if webhook_ids:
            columns = {name: getattr(event, name) for name in ("object_type", "object_id", "object_repr", "data")}
            new = Event(**columns, **metadata_columns(event.action, webhook_ids, error))
            if state.batch:
                state.defer(state.batch, new)
                continue
            with transaction.atomic(state.using):
                new.insert(state.using)
            state.has_events = True


def _lock(state: TransactionState, registration: Registration, pk: str) -> None:
    if not connections[state.using].features.has_select_for_update:
        return
    try:
        with transaction.atomic(state.using):
            snapshots.read_rows(registration, [pk], state.using, lock=True)
    except Exception as error:
        reraise_job_timeout(error)
        logger.warning("%s %s cannot be locked, its events may be out of order: %s", registration.label, pk, error)
