"""Makes an object's Event what its transaction has come to: new, changed, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections, transaction
from django.utils import timezone

from webhooks.capture import serialize
from webhooks.capture.changes import Announced, Batch, Change, ObjectState, Pending
from webhooks.capture.context import current_actor, made_by
from webhooks.capture.matching import Occasion, Selection, select
from webhooks.capture.transaction import Scope, Trace
from webhooks.conf import conf
from webhooks.db import in_chunks
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action, Event
from webhooks.models.event import CUT, EventQuerySet
from webhooks.payloads import snapshots
from webhooks.registry.registration import Registration
from webhooks.text import clean, last_line

logger = get_logger(__name__)

# What the column holds; however deep a host says that something is.
DEEPEST = 32767


# What whoever announces an Event says of it.
TOLD = ("object_type", "object_id", "object_repr", "data")

# What a transaction did to an object in all, by whether it existed before and whether it exists now.
NET_ACTION = {
    (False, True): Action.CREATED,
    (True, True): Action.UPDATED,
    (True, False): Action.DELETED,
    (False, False): None,
}


def settle(scope: Scope, change: Change, trace: Trace, state: ObjectState | None) -> None:
    """Make the object's Event what the transaction has come to; ``state`` is the object's, where it is known."""
    action, candidates = _net(scope, change, trace)
    if not (action and candidates):
        _withdraw(scope, change, trace.event_ids + trace.undecided_ids)
        return
    try:
        # The savepoint: an error of the database inside a serializer must not abort the change's transaction.
        with transaction.atomic(scope.using):
            serializers = list(scope.wanted.by_serializer(candidates))
            known = serialize.read(scope, change, serializers) if state is None else state
            if known:
                _conclude(scope, change, trace, _selected(scope, action, candidates, known), known)
    except Exception as error:
        reraise_job_timeout(error)
        with transaction.atomic(scope.using):
            _conclude(scope, change, trace, Selection(action, candidates), serialize.failed(scope, change, error))


def _selected(scope: Scope, action: Action, candidates: list[int], state: ObjectState) -> Selection:
    """Which candidates want the object's Event as it is. Nobody can look into a payload that could not be made."""
    if state["error"]:
        return Selection(action, candidates)
    selection = Selection(action)
    scope.budget.fill_up()
    for serializer, those in scope.wanted.by_serializer(candidates).items():
        if serializer not in state["shown"]:
            # It failed, or somebody chose it after the state was read.
            selection.leave_undecided(those, state["spoilt"].get(serializer, f"Serializer {serializer} was not run.\n"))
        else:
            occasion = Occasion(action, actor=current_actor(), **state["shown"][serializer])
            selection.add(select(those, scope.wanted, occasion, scope.budget))
    return selection


def _conclude(scope: Scope, change: Change, trace: Trace, selection: Selection, state: ObjectState) -> None:
    """Write the Event for those who want it, and one of their own for those of whom that cannot be told."""
    for event_ids, columns in _told(scope, change, trace, selection, state):
        if columns:
            _upsert(scope, change, event_ids, columns)
        else:
            _withdraw(scope, change, event_ids)


def _told(
    scope: Scope, change: Change, trace: Trace, selection: Selection, state: ObjectState
) -> Iterator[tuple[list[int], dict[str, Any] | None]]:
    """The columns of these two Events, None for one that is not needed, each with the ids that it had so far."""
    if selection.undecided:
        logger.error(
            "It cannot be told whether webhooks %s want %s: %s", selection.undecided, change, last_line(selection.error)
        )
    for event_ids, webhook_ids, error in (
        (trace.event_ids, selection.wanting, state["error"]),
        (trace.undecided_ids, selection.undecided, clean(selection.error)),
    ):
        is_needed = bool(webhook_ids)
        yield event_ids, _columns(scope, selection.action, webhook_ids, state | {"error": error}) if is_needed else None


def _withdraw(scope: Scope, change: Change, event_ids: Sequence[int]) -> None:
    if event_ids:
        with transaction.atomic(scope.using):
            _recorded(scope, change, event_ids)._raw_delete(scope.using)


def _recorded(scope: Scope, change: Change, event_ids: Sequence[int]) -> EventQuerySet:
    """Those of the Events that are this object's still, and this transaction's: SQLite gives the id of a row that was
    rolled back to another one, and in manual mode a transaction may have been committed without a word."""
    mine = Event.objects.using(scope.using).filter(object_type=change.label, object_id=str(change.pk))
    return mine.filter(pk__in=event_ids, dispatched_at=None)


def _net(scope: Scope, change: Change, trace: Trace) -> tuple[Action | None, list[int]]:
    action = NET_ACTION[trace.existed, change.action != Action.DELETED]
    return action, scope.wanted.matching(change.label, action, current_actor().username) if action else []


def settle_together(scope: Scope, gathered: Batch) -> None:
    """The same for all objects of a batch, with as few queries as for one."""
    everything = gathered.pending()
    pending = [one for one in everything if isinstance(one, Pending)]
    unknown = [one.change for one in pending if one.state is None]
    known = {one.change.key: one.state for one in pending if one.state is not None} | serialize.read_all(scope, unknown)
    new: list[tuple[list[int], Event]] = []
    replaced: list[tuple[Change, Trace]] = []
    for one in everything:
        if isinstance(one, Announced):
            new.append(([], one.event))
            continue
        change, trace, state = one.change, scope.trace(one.change), known[one.change.key]
        action, candidates = _net(scope, change, trace)
        if not (action and candidates):
            replaced.append((change, trace))
        elif state:  # else the object is gone
            replaced.append((change, trace))
            told = _told(scope, change, trace, _selected(scope, action, candidates, state), state)
            new += [(event_ids, _event(change, columns)) for event_ids, columns in told if columns]
    _withdraw_all(scope, replaced)
    for event_ids, event in zip((ids for ids, _ in new), _insert(scope, [event for _, event in new]), strict=True):
        event_ids.append(event.pk)


def _withdraw_all(scope: Scope, replaced: Sequence[tuple[Change, Trace]]) -> None:
    """Delete the Events that the transaction has recorded of these objects so far."""
    mine = {(pk, *change.key) for change, trace in replaced for pk in trace.event_ids + trace.undecided_ids}
    recorded = Event.objects.using(scope.using).filter(dispatched_at=None)
    for some in in_chunks(scope.using, [pk for pk, *_ in mine]):
        # An id may be that of another object's Event by now: SQLite uses those that were rolled back again.
        found = recorded.filter(pk__in=some).values_list("pk", "object_type", "object_id")
        recorded.filter(pk__in=[row[0] for row in found if row in mine])._raw_delete(scope.using)


def settle_one(scope: Scope, one: Pending | Announced) -> None:
    """The same for one of a batch by itself."""
    if isinstance(one, Announced):
        _insert(scope, [one.event])
    else:
        settle(scope, one.change, scope.trace(one.change), one.state)


def _insert(scope: Scope, events: list[Event]) -> list[Event]:
    scope.has_events = scope.has_events or bool(events)
    Event.insert_all(events, scope.using)
    return events


def _columns(scope: Scope, action: str, webhook_ids: list[int], state: ObjectState) -> dict[str, Any]:
    told = serialize.columns(state, scope.wanted.by_serializer(webhook_ids))
    return told | _circumstances(action, webhook_ids, state["error"])


def _circumstances(action: str, webhook_ids: list[int], error: str) -> dict[str, Any]:
    actor = current_actor()
    return made_by(actor) | {
        "action": action,
        "webhook_ids": webhook_ids,
        "timestamp": timezone.now(),
        "depth": min(actor.depth, DEEPEST),
        "error": error or _cut(actor.depth),
    }


def _cut(depth: int) -> str:
    """Why a change is not sent that is too deep in a chain: receivers that write back would go on for ever."""
    if depth <= conf.max_depth:
        return ""
    return (
        f"{CUT}depth {depth} of a chain of changes that webhooks caused; MAX_DEPTH allows {conf.max_depth}. "
        "Replay it to send it as the first of a new chain."
    )


def _upsert(scope: Scope, change: Change, event_ids: list[int], columns: dict[str, Any]) -> None:
    # The UPDATE decides, not the memory: the row may be gone with a savepoint that was rolled back.
    if not event_ids or not _recorded(scope, change, event_ids).update(**columns):
        event = _event(change, columns)
        event.insert(scope.using)
        event_ids.append(event.pk)
    scope.has_events = True


def _event(change: Change, columns: dict[str, Any]) -> Event:
    return Event(object_type=change.label, object_id=str(change.pk), **columns)


def announce(scope: Scope, event: Event, lock: Registration | None = None) -> None:
    """Record an Event that is no change, for the webhooks that want its action. It is merged with no other. ``lock``
    holds the row of its object, so that a later change has a later Event and is committed after this one."""
    candidates = scope.wanted.listening(event.action, current_actor().username)
    if not candidates:
        return
    if lock and not scope.traced((event.object_type, event.object_id)):  # what the transaction changed is locked
        _lock(scope, lock, event.object_id)
    if event.error:
        _insert_announced(scope, event, _circumstances(event.action, candidates, event.error))
        return
    occasion = Occasion(event.action, event.data, "", "", current_actor())
    scope.budget.fill_up()
    selection = select(candidates, scope.wanted, occasion, scope.budget)
    for webhook_ids, error in ((selection.wanting, ""), (selection.undecided, clean(selection.error))):
        if webhook_ids:
            _insert_announced(scope, event, _circumstances(event.action, webhook_ids, error))


def _lock(scope: Scope, registration: Registration, pk: str) -> None:
    if not connections[scope.using].features.has_select_for_update:
        return
    try:
        with transaction.atomic(scope.using):
            snapshots.read_rows(registration, [pk], scope.using, lock=True)
    except Exception as error:
        reraise_job_timeout(error)
        logger.warning("%s %s cannot be locked, its events may be out of order: %s", registration.label, pk, error)


def _insert_announced(scope: Scope, event: Event, columns: dict[str, Any]) -> None:
    told = Event(**{name: getattr(event, name) for name in TOLD}, **columns)
    if scope.batch:
        scope.announce(scope.batch, told)
        return
    with transaction.atomic(scope.using):
        told.insert(scope.using)
    scope.has_events = True
