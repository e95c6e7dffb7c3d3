"""Records Events in the transaction of the change itself, one for each object and transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections, models, router, transaction
from django.utils import timezone

from webhooks import jobs, registry, states, subscriptions
from webhooks.context import current_actor
from webhooks.models import Action, Event
from webhooks.registry import Registration
from webhooks.scopes import Batch, Change, ObjectState, Scope, Trace, batching, existing, open_scope
from webhooks.selection import Guard, Occasion, Selection, Spoilt, select
from webhooks.texts import clean

logger = logging.getLogger(__name__)

# Events that one statement inserts.
INSERT_MOST = 1000

# What a transaction did to an object in all, by whether it existed before and whether it exists now.
NET_ACTION = {
    (False, True): Action.CREATED,
    (True, True): Action.UPDATED,
    (True, False): Action.DELETED,
    (False, False): None,
}


def database() -> str:
    """The alias of the database that the app's tables are in."""
    return router.db_for_write(Event)


def record(registration: Registration, pk: Any, action: Action, using: str, lock: bool = False) -> None:
    """Record that an object was created or updated, or is about to be deleted, on database ``using``.

    ``lock`` is for a change that did not lock the object's row itself. Never raises: what goes wrong is
    logged, and stands in a failed Event where that can still be written.
    """
    try:
        scope = existing(using)  # first: a deletion that cascades comes here for each row, most of which nobody wants
        if scope is None and connections[using].in_atomic_block:
            scope = open_scope(using, jobs.wake_up)
        if scope is None:
            _record_alone(Change(registration, pk, action, lock=True), using)
        elif scope.wanted.touch(registration.label):
            _record(scope, Change(registration, pk, action, lock))
    except Exception:
        logger.exception("No webhook will hear that %s %s was %s", registration.label, pk, action)


def wants(model: type[models.Model], using: str) -> bool:
    """Whether any enabled webhook wants anything of this model, or of those that it inherits rows from."""
    scope = existing(using)
    wanted = scope.wanted if scope else subscriptions.current(using)
    return any(wanted.touch(item.label) for item in registry.registrations_touched(model))


def _record_alone(change: Change, using: str) -> None:
    """Record a change that is committed already: in autocommit mode Django signals a save after its commit."""
    wanted = subscriptions.current(using)
    if wanted.touch(change.label):
        with transaction.atomic(using):
            _record(open_scope(using, jobs.wake_up, wanted), change)


@contextmanager
def batch(using: str | None = None) -> Iterator[None]:
    """Record the changes of this block together at its end: for bulk work. Opens a transaction.

    The objects are read again at the end, all of a model in one query, and their Events inserted in one more.
    A batch within a batch adds to the outer one.
    """
    using = using or database()
    with transaction.atomic(using):
        scope = open_scope(using, jobs.wake_up)
        with batching(scope) as gathered:
            yield
        if gathered:
            _close(scope, gathered)


def _close(scope: Scope, gathered: Batch) -> None:
    try:
        with transaction.atomic(scope.using):
            _record_together(scope, gathered)
    except Exception:
        logger.exception("No webhook will hear of %d changes of a batch", len(scope.pending(gathered)))


def prepare_deletion(changes: Sequence[Change], using: str) -> None:
    """Within a batch: read objects that are about to be deleted all at once, not one by one."""
    scope = open_scope(using, jobs.wake_up)
    if scope.batch:
        wanted = [change for change in changes if scope.wanted.touch(change.label)]
        scope.batch.prepared.update(states.read_all(scope, wanted))


def _record(scope: Scope, change: Change) -> None:
    trace = scope.trace(change)
    if scope.batch is None:
        _settle(scope, change, trace, None)
    elif change.action == Action.DELETED:
        state = scope.batch.prepared.pop(change.key, None)
        scope.postpone(scope.batch, change, state or states.read_or_failed(scope, change))
    else:
        scope.postpone(scope.batch, change, None)


def _settle(scope: Scope, change: Change, trace: Trace, state: ObjectState | None, guard: Guard | None = None) -> None:
    """Make the object's Event what the transaction has come to; ``state`` is the object's, where it is known."""
    action, candidates = _net(scope, change, trace)
    if not (action and candidates):
        _withdraw(scope, trace.event_ids + trace.undecided_ids)
        return
    try:
        # The savepoint: an error of the database inside a serializer must not abort the change's transaction.
        with transaction.atomic(scope.using):
            known = states.read(scope, change) if state is None else state
            if known:
                _conclude(scope, change, trace, _selected(scope, action, candidates, known, guard), known)
    except Spoilt:
        _settle(scope, change, trace, state, guard=_savepoint(scope))
    except Exception as error:
        with transaction.atomic(scope.using):
            _conclude(scope, change, trace, Selection(action, candidates), states.failed(scope, change, error))


def _savepoint(scope: Scope) -> Guard:
    return lambda: transaction.atomic(scope.using)


def _selected(
    scope: Scope, action: Action, candidates: list[int], state: ObjectState, guard: Guard | None
) -> Selection:
    """Which candidates want the object's Event as it is. Nobody can look into a payload that could not be made."""
    if state["error"]:
        return Selection(action, candidates)
    occasion = Occasion(action, state["data"], state["snapshots"], current_actor())
    return select(candidates, scope.wanted, occasion, guard)


def _conclude(scope: Scope, change: Change, trace: Trace, selection: Selection, state: ObjectState) -> None:
    """Write the Event for those who want it, and one of their own for those of whom that cannot be told."""
    for event_ids, webhook_ids, error in (
        (trace.event_ids, selection.wanting, state["error"]),
        (trace.undecided_ids, selection.undecided, clean(selection.error)),
    ):
        if webhook_ids:
            columns = _columns(selection.action, webhook_ids, state | {"error": error})
            _upsert(scope, change, event_ids, columns)
        else:
            _withdraw(scope, event_ids)


def _withdraw(scope: Scope, event_ids: Sequence[int]) -> None:
    if event_ids:
        with transaction.atomic(scope.using):
            Event.objects.using(scope.using).filter(pk__in=event_ids)._raw_delete(scope.using)


def _net(scope: Scope, change: Change, trace: Trace) -> tuple[Action | None, list[int]]:
    action = NET_ACTION[trace.existed, change.action != Action.DELETED]
    return action, scope.wanted.matching(change.label, action) if action else []


def _record_together(scope: Scope, gathered: Batch) -> None:
    pending = scope.pending(gathered)
    unknown = [one.change for one in pending if one.state is None]
    known = {one.change.key: one.state for one in pending if one.state is not None} | states.read_all(scope, unknown)
    new: list[tuple[list[int], Event]] = []
    for change in (one.change for one in pending):
        trace, state = scope.trace(change), known[change.key]
        selection = _plainly(scope, change, trace, state)
        if selection is None:
            _settle(scope, change, trace, state)
        elif selection.wanting:
            new.append((trace.event_ids, _event(change, _columns(selection.action, selection.wanting, state))))
    for event_ids, event in zip((ids for ids, _ in new), _insert(scope, [event for _, event in new]), strict=True):
        event_ids.append(event.pk)


def _plainly(scope: Scope, change: Change, trace: Trace, state: ObjectState) -> Selection | None:
    """Who wants the new Event of an object; None where there is more to it, or less."""
    action, candidates = _net(scope, change, trace)
    if not (action and candidates and state) or trace.event_ids or trace.undecided_ids:
        return None
    guard = _savepoint(scope) if scope.wanted.demanding(candidates) else None
    selection = _selected(scope, action, candidates, state, guard)
    return None if selection.undecided else selection


def _insert(scope: Scope, events: list[Event]) -> list[Event]:
    scope.has_events = scope.has_events or bool(events)
    return Event.objects.using(scope.using).bulk_create(events, batch_size=INSERT_MOST)


def _columns(action: Action, webhook_ids: list[int], state: ObjectState) -> dict[str, Any]:
    actor = current_actor()
    return {
        **state,
        "action": action,
        "webhook_ids": webhook_ids,
        "timestamp": timezone.now(),
        "username": clean(actor.username, 150),
        "request_id": clean(actor.request_id, 200),
        "request": json.dumps(actor.request) if actor.request else "",
    }


def _upsert(scope: Scope, change: Change, event_ids: list[int], columns: dict[str, Any]) -> None:
    # The UPDATE decides, not the memory: the row may be gone with a savepoint that was rolled back.
    recorded = Event.objects.using(scope.using).filter(pk__in=event_ids) if event_ids else None
    if recorded is None or not recorded.update(**columns):
        event = _event(change, columns)
        event.insert(scope.using)
        event_ids.append(event.pk)
    scope.has_events = True


def _event(change: Change, columns: dict[str, Any]) -> Event:
    return Event(object_type=change.label, object_id=str(change.pk), **columns)
