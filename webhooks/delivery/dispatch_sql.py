"""Finding Events that wait for their deliveries, and adding those."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from webhooks.db import (
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
from webhooks.models.event import lane_name

_UNDISPATCHED = "dispatched_at IS NULL AND error = ''"


class Undispatched(NamedTuple):
    """An Event that waits for its deliveries; ``timestamp`` is aware."""

    id: int
    timestamp: datetime
    object_type: str
    object_id: str
    webhook_ids: list[int]

    @property
    def lane(self) -> str:
        return lane_name(self.object_type, self.object_id)


class New(NamedTuple):
    """A delivery that is to be added."""

    id: uuid.UUID
    event_id: int
    webhook_id: int
    lane: str
    in_lane: bool
    state: str


def has_undispatched(using: str) -> bool:
    """Whether an Event waits to be dispatched."""
    return bool(fetch_all(using, f"SELECT 1 FROM webhooks_event WHERE {_UNDISPATCHED} LIMIT 1"))


def lock_undispatched(using: str, most: int) -> list[Undispatched]:
    """The first Events that wait to be dispatched, in order, without those that another worker has locked."""
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
        Undispatched(pk, to_utc(from_db_time(using, timestamp)), label, key, json.loads(webhook_ids))
        for pk, timestamp, label, key, webhook_ids in found
    ]


def overtaking(using: str, events: Sequence[Undispatched]) -> set[int]:
    """Those for which an earlier Event of the same object, not among them, is not dispatched yet."""
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


def are_ordered(using: str, webhooks: Collection[int]) -> dict[int, bool]:
    """Whether these webhooks are ordered; those that were deleted are left out."""
    statement = f"SELECT id, ordered FROM webhooks_webhook WHERE deleted_at IS NULL AND id IN {ids_sql(using)}"
    return {pk: bool(ordered) for pk, ordered in fetch_all(using, statement, [ids_value(using, webhooks)])}


def add_deliveries(using: str, deliveries: Sequence[New]) -> None:
    if not deliveries:
        return
    now, now_params = now_sql(using)
    names = ", ".join(New._fields)
    given = json.dumps([one._asdict() | {"id": one.id.hex} for one in deliveries])
    execute(
        using,
        f"""
        INSERT INTO webhooks_delivery ({names}, created, next_attempt_at, attempt_count, failures, reason)
        SELECT {names}, {now}, {now}, 0, 0, '' FROM {json_rows_sql(using, New._fields, "webhooks_delivery")} WHERE 1 = 1
        """,
        [*now_params, *now_params, given],
    )


def mark_dispatched(using: str, events: Collection[int]) -> None:
    now, now_params = now_sql(using)
    statement = f"UPDATE webhooks_event SET dispatched_at = {now} WHERE id IN {ids_sql(using)}"
    execute(using, statement, [*now_params, ids_value(using, events)])
