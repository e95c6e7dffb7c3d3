"""Turn new Events into Deliveries: one for each Webhook that matched when the Event happened."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from webhooks.conf import conf
from webhooks.db import (
    async_commit,
    atomically,
    delivery_id,
    execute,
    fetch_all,
    from_db_time,
    ids_sql,
    ids_value,
    is_postgresql,
    json_rows_sql,
    now_sql,
    to_utc,
)
from webhooks.delivery.claims import WorkerClaims
from webhooks.models import Event, State
from webhooks.models.claims import Claim, ClaimedRow, lock_heads, promote
from webhooks.models.event import lane_name

_UNDISPATCHED = "dispatched_at IS NULL AND error = ''"


class UndispatchedEvent(NamedTuple):
    id: int
    timestamp: datetime
    object_type: str
    object_id: str
    webhook_ids: list[int]


class NewDelivery(NamedTuple):
    id: uuid.UUID
    event_id: int
    webhook_id: int
    lane: str
    in_lane: bool
    state: str


def has_undispatched(using: str) -> bool:
    """Whether an Event waits to be dispatched."""
    return bool(fetch_all(using, f"SELECT 1 FROM webhooks_event WHERE {_UNDISPATCHED} LIMIT 1"))


def dispatch(claims: WorkerClaims | None = None) -> int:
    """Dispatch a batch of Events; several workers may do it at once. Returns how many.

    An Event waits until every earlier one of its object is dispatched, so that lanes fill in order. With ``claims``,
    the worker claims new heads of lanes in the same transaction, if it has capacity.
    """
    using = Event.objects.db
    if not has_undispatched(using):
        return 0
    count, claim, claimed = atomically(lambda: _dispatch(using, claims), using)
    if claims and claim:
        claims.add(claimed, claim)
    return count


def _dispatch(using: str, claims: WorkerClaims | None) -> tuple[int, Claim | None, Sequence[ClaimedRow]]:
    async_commit(using)
    if not (locked := _lock_undispatched(using, conf.batch)):
        return 0, None, ()
    blocked = _blocked_by_earlier(using, locked)
    events = [event for event in locked if event.id not in blocked]
    deliveries = _new_deliveries(using, events)
    _insert(using, deliveries)
    _mark_dispatched(using, [event.id for event in events])
    in_lanes = [delivery for delivery in deliveries if delivery.in_lane]
    if not in_lanes:
        return len(events), None, ()
    claim = claims.claim_for(Counter(delivery.webhook_id for delivery in in_lanes)) if claims else None
    ids = [delivery.id for delivery in in_lanes]
    lock_heads(using, ids)
    return len(events), claim, promote(using, ids, claim)


def _lock_undispatched(using: str, most: int) -> list[UndispatchedEvent]:
    """Lock the first undispatched Events, in order, and skip the ones that other workers have locked."""
    lock = "FOR UPDATE SKIP LOCKED" if is_postgresql(using) else ""
    found = fetch_all(
        using,
        f"""
        SELECT id, timestamp, object_type, object_id, webhook_ids FROM webhooks_event
        WHERE {_UNDISPATCHED} ORDER BY id LIMIT %s {lock}
        """,
        [most],
    )
    return [
        UndispatchedEvent(pk, to_utc(from_db_time(using, timestamp)), object_type, object_id, json.loads(webhook_ids))
        for pk, timestamp, object_type, object_id, webhook_ids in found
    ]


def _blocked_by_earlier(using: str, events: Sequence[UndispatchedEvent]) -> set[int]:
    """The ids of the events that must wait: an earlier one of the same object is undispatched and not in the batch."""
    found = fetch_all(
        using,
        f"""
        SELECT object_type, object_id, id FROM webhooks_event
        WHERE {_UNDISPATCHED} AND id < %s AND id NOT IN {ids_sql(using)} ORDER BY id DESC
        """,
        [max(event.id for event in events), ids_value(using, [event.id for event in events])],
    )
    first = {(object_type, object_id): pk for object_type, object_id, pk in found}
    return {event.id for event in events if first.get((event.object_type, event.object_id), event.id) < event.id}


def _new_deliveries(using: str, events: Sequence[UndispatchedEvent]) -> list[NewDelivery]:
    statement = f"SELECT id, ordered FROM webhooks_webhook WHERE deleted_at IS NULL AND id IN {ids_sql(using)}"
    wanted = {pk for event in events for pk in event.webhook_ids}
    is_ordered = {pk: bool(ordered) for pk, ordered in fetch_all(using, statement, [ids_value(using, wanted)])}
    return [
        NewDelivery(
            delivery_id(event.timestamp, event.id, webhook_id),
            event.id,
            webhook_id,
            lane_name(event.object_type, event.object_id),
            is_ordered[webhook_id],
            State.WAITING if is_ordered[webhook_id] else State.PENDING,
        )
        for event in events
        for webhook_id in dict.fromkeys(event.webhook_ids)
        if webhook_id in is_ordered
    ]


def _insert(using: str, deliveries: Sequence[NewDelivery]) -> None:
    """Insert deliveries. One that is there already stays as it is."""
    if not deliveries:
        return
    now, now_params = now_sql(using)
    names = ", ".join(NewDelivery._fields)
    given = json.dumps([delivery._asdict() | {"id": delivery.id.hex} for delivery in deliveries])
    execute(
        using,
        f"""
        INSERT INTO webhooks_delivery ({names}, created, next_attempt_at, attempt_count, failures, reason)
        SELECT {names}, {now}, {now}, 0, 0, '' FROM {json_rows_sql(using, NewDelivery._fields, "webhooks_delivery")}
        WHERE 1 = 1 ON CONFLICT (id) DO NOTHING
        """,
        [*now_params, *now_params, given],
    )


def _mark_dispatched(using: str, events: Collection[int]) -> None:
    now, now_params = now_sql(using)
    statement = f"UPDATE webhooks_event SET dispatched_at = {now} WHERE id IN {ids_sql(using)}"
    execute(using, statement, [*now_params, ids_value(using, events)])
