"""Reading the Events that deliveries are of."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from webhooks.clock import loaded
from webhooks.sql.dialect import number_list, numbers, rows


class EventRow(NamedTuple):
    """What of an Event goes into the body of a request."""

    pk: int
    timestamp: datetime
    action: str
    object_type: str
    username: str
    request_id: str
    request: str
    replay_of: int | None
    data: str
    snapshots: str


def read(using: str, ids: Collection[int]) -> list[EventRow]:
    found = rows(
        using,
        f"""
        SELECT id, timestamp, action, object_type, username, request_id, request, replay_of, data, snapshots
        FROM webhooks_event WHERE id IN {numbers(using)}
        """,
        [number_list(using, ids)],
    )
    return [EventRow(pk, loaded(timestamp), *rest) for pk, timestamp, *rest in found]
