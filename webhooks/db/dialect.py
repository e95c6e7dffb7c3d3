"""What PostgreSQL and SQLite write differently."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.db import connections


def rows(using: str, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def run(using: str, statement: str, parameters: Sequence[Any] = ()) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)


def relax(using: str) -> None:
    """Let this transaction commit without waiting for the disk: for what workers do, and would do again in the same way
    after a crash of the database took it back. That a crash of a worker loses nothing does not depend on it."""
    if is_postgresql(using):
        run(using, "SET LOCAL synchronous_commit TO OFF")


def is_postgresql(using: str) -> bool:
    return connections[using].vendor == "postgresql"


def server_binds(using: str) -> bool:
    """Whether PostgreSQL puts the parameters in, and not its driver."""
    return bool(getattr(connections[using].features, "uses_server_side_binding", False))


# Keys that one statement names: SQLite takes 32,766 parameters, where it was not built to take more, and PostgreSQL
# 65,535, where it is the server that puts them in.
KEYS = 10_000


def in_chunks(using: str, keys: Collection[Any]) -> Iterator[list[Any]]:
    """These keys in parts of which one statement takes all; at once where the database has no limit, so that locks are
    taken in one order."""
    known = list(keys)
    most = KEYS if _has_limit(using) else len(known)
    for start in range(0, len(known), most or 1):
        yield known[start : start + most]


def _has_limit(using: str) -> bool:
    return not is_postgresql(using) or server_binds(using)


# A list is one parameter of text: adapting arrays item by item takes longer than running the statement.


def uuids(using: str) -> str:
    """A subquery of the ids that ``uuid_list`` gives as its parameter."""
    if is_postgresql(using):
        return "(SELECT unnest(string_to_array(%s, ',')::uuid[]))"
    return "(SELECT value FROM json_each(%s))"


def uuid_list(using: str, ids: Collection[uuid.UUID]) -> str:
    return ",".join([value.hex for value in ids]) if is_postgresql(using) else json.dumps([one.hex for one in ids])


def numbers(using: str) -> str:
    """A subquery of the numbers that ``number_list`` gives as its parameter."""
    if is_postgresql(using):
        return "(SELECT unnest(string_to_array(%s, ',')::bigint[]))"
    return "(SELECT value FROM json_each(%s))"


def number_list(using: str, numbers: Collection[int]) -> str:
    return ",".join(map(str, numbers)) if is_postgresql(using) else json.dumps(list(numbers))


def uuid_parameter(using: str) -> str:
    return "%s::uuid" if is_postgresql(using) else "%s"


def to_uuid(value: Any) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def table(using: str, columns: Sequence[str], of: str) -> str:
    """A subquery of rows from one parameter, JSON text with an object for each, in the types of the table ``of``.

    Where it is inserted, a WHERE must follow: SQLite would take what comes next for a clause on conflicts."""
    if is_postgresql(using):
        return f"(SELECT {', '.join(columns)} FROM json_populate_recordset(NULL::{of}, %s::json)) AS given"
    read = ", ".join(f"json_extract(value, '$.{column}') AS {column}" for column in columns)
    return f"(SELECT {read} FROM json_each(%s)) AS given"
