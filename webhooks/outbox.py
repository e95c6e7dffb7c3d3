"""Records Events in the transaction of the change itself, one for each object and transaction.

What a transaction has seen so far lives in a ``Scope``, which is the transaction's own on_commit callback:
Django drops it with a rollback, of a savepoint too. It may remember more than there is, for Django does not
know of ``transaction.savepoint()``: so it is only a hint, and the rows decide.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, router, transaction
from django.utils import timezone

from webhooks import jobs, payloads, subscriptions
from webhooks.clock import DatabaseNow
from webhooks.context import current_actor
from webhooks.managers import DeliveryQuerySet
from webhooks.models import Action, Delivery, Event, State, Webhook
from webhooks.registry import Registration
from webhooks.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

# Deliveries that one transaction retries or discards.
CHUNK = 1000

# What a transaction did to an object in all, by whether it existed before and whether it exists now.
NET_ACTION = {
    (False, True): Action.CREATED,
    (True, True): Action.UPDATED,
    (True, False): Action.DELETED,
    (False, False): None,
}


@dataclass(frozen=True)
class Change:
    """One signalled change. ``lock`` is set where the change itself did not lock the object's row."""

    registration: Registration
    pk: Any
    action: Action
    lock: bool

    @property
    def label(self) -> str:
        return self.registration.label

    def __str__(self) -> str:
        return f"{self.label} {self.pk} {self.action}"


@dataclass
class Trace:
    """What one transaction did to one object: whether it was there before, and the Events recorded for it."""

    existed: bool
    event_ids: list[int] = field(default_factory=list)


@dataclass
class Scope:
    """What one transaction has recorded so far. Django calls it when the transaction commits."""

    using: str
    wanted: Subscriptions
    traces: dict[tuple[str, str], Trace] = field(default_factory=dict)
    has_events: bool = False

    def __call__(self) -> None:
        if self.has_events:
            jobs.wake_up()

    def trace(self, change: Change) -> Trace:
        first = Trace(existed=change.action != Action.CREATED)
        return self.traces.setdefault((change.label, str(change.pk)), first)


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
            _record(_open_scope(using), Change(registration, pk, action, lock))
        else:
            _record_alone(Change(registration, pk, action, lock=True), using)
    except Exception:
        logger.exception("No webhook will hear that %s %s was %s", registration.label, pk, action)


def _record_alone(change: Change, using: str) -> None:
    """Record a change that is committed already: in autocommit mode Django signals a save after its commit."""
    wanted = subscriptions.current(using)
    if wanted.touch(change.label):
        with transaction.atomic(using):
            _record(_open_scope(using, wanted), change)


def _open_scope(using: str, wanted: Subscriptions | None = None) -> Scope:
    """The scope of the transaction that is open on this connection, made at its first change."""
    for _, callback, _ in reversed(connections[using].run_on_commit):
        if isinstance(callback, Scope):
            return callback
    scope = Scope(using, wanted or subscriptions.current(using))
    transaction.on_commit(scope, using=using, robust=True)
    return scope


def retry(deliveries: DeliveryQuerySet) -> int:
    """Send failed or discarded ones among these again, in their lanes, and wake a worker. Returns how many.

    Webhooks of theirs that are paused are probed at once."""
    chosen = deliveries.filter(state__in=(State.FAILED, State.DISCARDED))
    webhooks = set(chosen.order_by().values_list("webhook", flat=True).distinct())
    retried = _in_chunks(chosen, DeliveryQuerySet.retry)
    Webhook.objects.filter(pk__in=webhooks).paused().update(probe_at=DatabaseNow())
    return retried


def discard(deliveries: DeliveryQuerySet) -> int:
    """End those among these that are not under way, without sending them. Returns how many."""
    chosen = deliveries.filter(state__in=(State.WAITING, State.PENDING, State.FAILED))
    return _in_chunks(chosen, DeliveryQuerySet.discard)


def _in_chunks(deliveries: DeliveryQuerySet, change: Callable[[DeliveryQuerySet], int]) -> int:
    """Change them a few at a time: there may be a hundred thousand, and workers wait for the rows meanwhile."""
    changed = 0
    ids = list(deliveries.values_list("pk", flat=True))
    for start in range(0, len(ids), CHUNK):
        changed += change(Delivery.objects.filter(pk__in=ids[start : start + CHUNK]))
    transaction.on_commit(jobs.wake_up, using=deliveries.db, robust=True)
    return changed


def forget_subscriptions(using: str) -> None:
    """Look the subscriptions up again, since a webhook was changed in the transaction that is open."""
    for _, callback, _ in connections[using].run_on_commit:
        if isinstance(callback, Scope):
            callback.wanted = subscriptions.current(using)


def _record(scope: Scope, change: Change) -> None:
    if not scope.wanted.touch(change.label):
        return
    trace = scope.trace(change)
    action = NET_ACTION[trace.existed, change.action != Action.DELETED]
    webhook_ids = scope.wanted.matching(change.label, action) if action else []
    if action and webhook_ids:
        _write(scope, change, trace, action, webhook_ids)
    elif trace.event_ids:
        Event.objects.using(scope.using).filter(pk__in=trace.event_ids)._raw_delete(scope.using)


def _write(scope: Scope, change: Change, trace: Trace, action: Action, webhook_ids: list[int]) -> None:
    try:
        # The savepoint: an error of the database inside a serializer must not abort the change's transaction.
        with transaction.atomic(scope.using):
            state = _freeze(change, action, scope.using)
            if state:
                _upsert(scope, change, trace, {"action": action, "webhook_ids": webhook_ids, "error": "", **state})
    except Exception as error:
        # The traceback stands in the event, where an admin sees it.
        logger.error("The payload of %s could not be made, its event stands as failed: %s", change, error)
        failed = {"data": "", "snapshots": "", "error": _clean("".join(traceback.format_exception(error)))}
        with transaction.atomic(scope.using):
            _upsert(scope, change, trace, {"action": action, "webhook_ids": webhook_ids, **failed})


def _freeze(change: Change, action: Action, using: str) -> dict[str, Any] | None:
    instance = payloads.reread(change.registration, change.pk, using, change.lock)
    if instance is None:
        return None
    frozen = payloads.freeze(change.registration, instance)
    is_deleted = action == Action.DELETED
    snapshots = payloads.snapshots(frozen.state, None) if is_deleted else payloads.snapshots(None, frozen.state)
    return {"data": frozen.data, "snapshots": snapshots, "object_repr": _clean(frozen.name, 200)}


def _upsert(scope: Scope, change: Change, trace: Trace, values: dict[str, Any]) -> None:
    actor = current_actor()
    values |= {
        "timestamp": timezone.now(),
        "username": _clean(actor.username, 150),
        "request_id": _clean(actor.request_id, 200),
        "request": json.dumps(actor.request) if actor.request else "",
    }
    events = Event.objects.using(scope.using)
    # The UPDATE decides, not the memory: the row may be gone with a savepoint that was rolled back.
    if not (trace.event_ids and events.filter(pk__in=trace.event_ids).update(**values)):
        event = events.create(object_type=change.label, object_id=str(change.pk), **values)
        trace.event_ids.append(event.pk)
    scope.has_events = True


def _clean(text: str, length: int | None = None) -> str:
    """Text as every database takes it: no NUL, no lone surrogates, no longer than its column."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:length]
