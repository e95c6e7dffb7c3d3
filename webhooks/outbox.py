"""Records Events in the transaction of the change itself, one for each object and transaction."""

from __future__ import annotations

import json
import logging
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections, models, router, transaction
from django.utils import timezone

from webhooks import jobs, payloads, registry, subscriptions
from webhooks.context import current_actor
from webhooks.models import Action, Event
from webhooks.registry import Registration
from webhooks.scopes import Batch, Change, ObjectState, Scope, Trace, batching, existing, open_scope
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
        if connections[using].in_atomic_block:
            scope = open_scope(using, jobs.wake_up)
            if scope.wanted.touch(registration.label):
                _record(scope, Change(registration, pk, action, lock))
        else:
            _record_alone(Change(registration, pk, action, lock=True), using)
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
        scope.batch.prepared.update(_states(scope, wanted))


def _record(scope: Scope, change: Change) -> None:
    trace = scope.trace(change)
    if scope.batch is None:
        _settle(scope, change, trace, None)
    elif change.action == Action.DELETED:
        state = scope.batch.prepared.pop(change.key, None)
        scope.postpone(scope.batch, change, state or _read_or_failed(scope, change))
    else:
        scope.postpone(scope.batch, change, None)


def _settle(scope: Scope, change: Change, trace: Trace, state: ObjectState | None) -> None:
    """Make the object's Event what the transaction has come to; ``state`` is the object's, where it is known."""
    action, webhook_ids = _net(scope, change, trace)
    if not (action and webhook_ids):
        _withdraw(scope, trace)
        return
    try:
        # The savepoint: an error of the database inside a serializer must not abort the change's transaction.
        with transaction.atomic(scope.using):
            known = _read(scope, change) if state is None else state
            if known:
                _upsert(scope, change, trace, _columns(action, webhook_ids, known))
    except Exception as error:
        with transaction.atomic(scope.using):
            _upsert(scope, change, trace, _columns(action, webhook_ids, _failed(scope, change, error)))


def _withdraw(scope: Scope, trace: Trace) -> None:
    if trace.event_ids:
        with transaction.atomic(scope.using):
            Event.objects.using(scope.using).filter(pk__in=trace.event_ids)._raw_delete(scope.using)


def _net(scope: Scope, change: Change, trace: Trace) -> tuple[Action | None, list[int]]:
    action = NET_ACTION[trace.existed, change.action != Action.DELETED]
    return action, scope.wanted.matching(change.label, action) if action else []


def _record_together(scope: Scope, gathered: Batch) -> None:
    pending = scope.pending(gathered)
    unknown = [one.change for one in pending if one.state is None]
    states = {one.change.key: one.state for one in pending if one.state is not None} | _states(scope, unknown)
    new: list[tuple[Trace, Event]] = []
    for change in (one.change for one in pending):
        trace, state = scope.trace(change), states[change.key]
        action, webhook_ids = _net(scope, change, trace)
        if action and webhook_ids and state and not trace.event_ids:
            new.append((trace, _event(change, _columns(action, webhook_ids, state))))
        else:
            _settle(scope, change, trace, state)
    for trace, event in zip((trace for trace, _ in new), _insert(scope, [event for _, event in new]), strict=True):
        trace.event_ids.append(event.pk)


def _insert(scope: Scope, events: list[Event]) -> list[Event]:
    scope.has_events = scope.has_events or bool(events)
    return Event.objects.using(scope.using).bulk_create(events, batch_size=INSERT_MOST)


def _states(scope: Scope, changes: Sequence[Change]) -> dict[tuple[str, str], ObjectState]:
    """The states of many objects, in one query for each model beside the serializer's own."""
    try:
        with transaction.atomic(scope.using):
            return dict(_states_at_once(scope, changes))
    except Exception:
        # One of them cannot be serialized: each by itself, so that the others can.
        return {change.key: _read_or_failed(scope, change) for change in changes}


def _states_at_once(scope: Scope, changes: Sequence[Change]) -> Iterator[tuple[tuple[str, str], ObjectState]]:
    by_model: dict[Registration, list[Change]] = defaultdict(list)
    for change in changes:
        by_model[change.registration].append(change)
    for registration, those in by_model.items():
        lock = any(change.lock for change in those)
        instances = payloads.reread_all(registration, [change.pk for change in those], scope.using, lock)
        for change in those:
            instance = instances.get(str(change.pk))
            yield change.key, _object_columns(change, instance) if instance else {}


def _read_or_failed(scope: Scope, change: Change) -> ObjectState:
    try:
        with transaction.atomic(scope.using):
            return _read(scope, change)
    except Exception as error:
        return _failed(scope, change, error)


def _read(scope: Scope, change: Change) -> ObjectState:
    """The object's columns of an Event; none when the object is gone. Raises whatever its serializer raises."""
    instances = payloads.reread_all(change.registration, [change.pk], scope.using, change.lock)
    return _object_columns(change, instances[str(change.pk)]) if instances else {}


def _failed(scope: Scope, change: Change, error: Exception) -> ObjectState:
    """The columns of an Event whose payload cannot be made: an admin sees the traceback there."""
    logger.error("The payload of %s could not be made, its event stands as failed: %s", change, error)
    trace = clean("".join(traceback.format_exception(error)))
    return {"data": "", "snapshots": "", "object_repr": _name(scope, change), "error": trace}


def _name(scope: Scope, change: Change) -> str:
    """What the object is called, or nothing where that cannot be read either."""
    try:
        with transaction.atomic(scope.using):
            instances = payloads.reread_all(change.registration, [change.pk], scope.using)
            return clean(str(instances[str(change.pk)]), 200)
    except Exception as error:
        logger.warning("The name of %s cannot be read either: %s", change, error)
        return ""


def _object_columns(change: Change, instance: models.Model) -> ObjectState:
    frozen = payloads.freeze(change.registration, instance)
    before, after = (frozen.state, None) if change.action == Action.DELETED else (None, frozen.state)
    snapshots = payloads.snapshots(before, after)
    return {"data": frozen.data, "snapshots": snapshots, "object_repr": clean(frozen.name, 200), "error": ""}


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


def _upsert(scope: Scope, change: Change, trace: Trace, columns: dict[str, Any]) -> None:
    # The UPDATE decides, not the memory: the row may be gone with a savepoint that was rolled back.
    recorded = Event.objects.using(scope.using).filter(pk__in=trace.event_ids) if trace.event_ids else None
    if recorded is None or not recorded.update(**columns):
        event = _event(change, columns)
        event.insert(scope.using)
        trace.event_ids.append(event.pk)
    scope.has_events = True


def _event(change: Change, columns: dict[str, Any]) -> Event:
    return Event(object_type=change.label, object_id=str(change.pk), **columns)
