"""Writing an Event down, and reading those that deliveries are of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple, cast

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
    depth: int
    replay_of: int | None
    data: str
    snapshots: str
    changed: str
    variants: str


def read(using: str, ids: Collection[int]) -> list[EventRow]:
    found = rows(
        using,
        f"""
        SELECT id, timestamp, action, object_type, username, request_id, request, depth, replay_of, data, snapshots,
            changed, variants
        FROM webhooks_event WHERE id IN {numbers(using)}
        """,
        [number_list(using, ids)],
    )
    return [EventRow(pk, loaded(timestamp), *rest) for pk, timestamp, *rest in found]


def insert(using: str, columns: Mapping[str, Any]) -> int:
    """Insert an Event of values that the database's adapter takes as they are. Returns its id."""
    names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
    statement = f"INSERT INTO webhooks_event ({names}) VALUES ({places}) RETURNING id"
    return cast(int, rows(using, statement, list(columns.values()))[0][0])
