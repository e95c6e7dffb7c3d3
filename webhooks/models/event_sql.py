"""Writing an Event down, and reading those that deliveries are of."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from webhooks.db import fetch_all, from_db_time, ids_sql, ids_value, json_rows_sql

# Events that one statement inserts, and their bytes: PostgreSQL closes the connection at a gigabyte, and the
# transaction of the change ends with it.
MOST = 1000
MOST_BYTES = 16 * 2**20


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
    found = fetch_all(
        using,
        f"""
        SELECT id, timestamp, action, object_type, username, request_id, request, depth, replay_of, data, snapshots,
            changed, variants
        FROM webhooks_event WHERE id IN {ids_sql(using)}
        """,
        [ids_value(using, ids)],
    )
    return [EventRow(pk, from_db_time(using, timestamp), *rest) for pk, timestamp, *rest in found]


def insert(using: str, columns: Mapping[str, Any]) -> int:
    """Insert an Event of values that the database's adapter takes as they are. Returns its id."""
    names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
    statement = f"INSERT INTO webhooks_event ({names}) VALUES ({places}) RETURNING id"
    return cast(int, fetch_all(using, statement, list(columns.values()))[0][0])


def insert_all(using: str, columns: Sequence[str], new: Iterable[Mapping[str, Any]]) -> list[int]:
    """Insert Events of values that JSON can carry, many in one statement and as one parameter: SQLite, and Django with
    it, takes only so many. Returns their ids, which rise in the order given."""
    names, given = ", ".join(columns), json_rows_sql(using, columns, "webhooks_event")
    statement = f"INSERT INTO webhooks_event ({names}) SELECT {names} FROM {given} WHERE 1 = 1 RETURNING id"
    parts = _parts(map(json.dumps, new))
    return [pk for part in parts for (pk,) in sorted(fetch_all(using, statement, [f"[{','.join(part)}]"]))]


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """These texts in parts, of which one statement takes all."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and (len(part) == MOST or size + len(text) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield part
