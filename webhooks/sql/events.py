"""Writing an Event down, and reading those that deliveries are of."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from webhooks.clock import loaded
from webhooks.sql.dialect import number_list, numbers, rows, table


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


def insert_all(using: str, new: Sequence[Mapping[str, Any]]) -> list[int]:
    """Insert Events of values that JSON can carry, in one statement and as one parameter: SQLite, and Django with it,
    takes only so many. Returns their ids, which rise in the order given."""
    columns = list(new[0])
    names, given = ", ".join(columns), table(using, columns, "webhooks_event")
    statement = f"INSERT INTO webhooks_event ({names}) SELECT {names} FROM {given} WHERE 1 = 1 RETURNING id"
    return sorted(row[0] for row in rows(using, statement, [json.dumps(list(new))]))
