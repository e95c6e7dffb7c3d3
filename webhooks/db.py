"""The database: PostgreSQL and SQLite dialects, the clock, transactions that try again, ids and errors."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.models import DateTimeField, Func
from django.utils import timezone

T = TypeVar("T")

# Statements


def fetch_all(using: str, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def execute(using: str, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Run a statement that returns no rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)


def is_postgresql(using: str) -> bool:
    return connections[using].vendor == "postgresql"


# The most keys in one statement. SQLite takes 32,766 parameters by default, PostgreSQL 65,535 if the server binds them.
MAX_KEYS = 10_000


def in_chunks(using: str, keys: Collection[Any]) -> Iterator[list[Any]]:
    """Split keys into lists that fit into one statement. If the database has no limit, give a single list: one
    statement takes its row locks in one order."""
    known = list(keys)
    has_limit = not is_postgresql(using) or getattr(connections[using].features, "uses_server_side_binding", False)
    size = MAX_KEYS if has_limit else len(known)
    for start in range(0, len(known), size or 1):
        yield known[start : start + size]


# A list of ids is passed as one text parameter: psycopg takes longer to adapt an array than PostgreSQL to run the
# statement. Each ``*_sql`` below belongs to the ``*_value`` that makes its parameter.


def uuids_sql(using: str) -> str:
    """A subquery of UUIDs, for the parameter ``uuids_value``."""
    if is_postgresql(using):
        return "(SELECT unnest(string_to_array(%s, ',')::uuid[]))"
    return "(SELECT value FROM json_each(%s))"


def uuids_value(using: str, ids: Collection[uuid.UUID]) -> str:
    return ",".join([value.hex for value in ids]) if is_postgresql(using) else json.dumps([one.hex for one in ids])


def ids_sql(using: str) -> str:
    """A subquery of integer ids, for the parameter ``ids_value``."""
    if is_postgresql(using):
        return "(SELECT unnest(string_to_array(%s, ',')::bigint[]))"
    return "(SELECT value FROM json_each(%s))"


def ids_value(using: str, ids: Collection[int]) -> str:
    return ",".join(map(str, ids)) if is_postgresql(using) else json.dumps(list(ids))


def json_rows_sql(using: str, columns: Sequence[str], table: str) -> str:
    """A subquery of rows, in the column types of ``table``. Its parameter is a JSON list with an object for each row.

    An INSERT from it needs a WHERE after it: without one, SQLite reads ON CONFLICT as part of a join.
    """
    if is_postgresql(using):
        return f"(SELECT {', '.join(columns)} FROM json_populate_recordset(NULL::{table}, %s::json)) AS given"
    read = ", ".join(f"json_extract(value, '$.{column}') AS {column}" for column in columns)
    return f"(SELECT {read} FROM json_each(%s)) AS given"


def uuid_sql(using: str) -> str:
    """The placeholder of one UUID, given as hexadecimal text."""
    return "%s::uuid" if is_postgresql(using) else "%s"


def to_uuid(value: Any) -> uuid.UUID:
    """A UUID as a statement returned it: SQLite returns text."""
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


# Time


def elapsed() -> float:
    """Seconds since some fixed moment. On Linux they include the time the machine was suspended: leases run on then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def now_sql(using: str, seconds: float = 0) -> tuple[str, list[Any]]:
    """SQL and its parameters for the time ``seconds`` from now, by the database's clock. SQLite uses this process's."""
    if is_postgresql(using):
        return "(STATEMENT_TIMESTAMP() + make_interval(secs => %s))", [seconds]
    return "%s", [connections[using].ops.adapt_datetimefield_value(timezone.now() + timedelta(seconds=seconds))]


class DatabaseNow(Func):
    """The time ``seconds`` from now, by the database's clock, as an expression of the ORM."""

    output_field = DateTimeField()

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        return now_sql(connection.alias, self.seconds)


def to_utc(moment: datetime) -> datetime:
    """Convert to UTC. A naive datetime is in the time zone of the host."""
    aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return aware.astimezone(UTC)


def to_db_time(moment: datetime) -> datetime:
    """Convert an aware datetime for a column of the host: naive local time if ``USE_TZ`` is off."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def from_db_time(using: str, value: datetime | str) -> datetime:
    """Convert a column's value, read without the ORM, to the datetime that the ORM would return.

    SQLite returns text, or with ``USE_TZ`` a naive datetime in the time zone of the connection.
    """
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    needs_zone = settings.USE_TZ and timezone.is_naive(moment)
    return timezone.make_aware(moment, connections[using].timezone) if needs_zone else moment


# Ids of deliveries


def new_id() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of milliseconds since 1970 in UTC, the rest random. Such ids sort by
    time, so their index grows at one end."""
    return _version_7(time.time_ns() // 1_000_000, os.urandom(10))


def delivery_id(moment: datetime, event: int, webhook: int) -> uuid.UUID:
    """The id of the delivery of an event, recorded at the aware ``moment``, to a webhook. It is always the same: if a
    crash of the database loses the delivery, the next one has the id that the receiver may know already."""
    rest = hashlib.blake2b(b"%d:%d" % (event, webhook), digest_size=10).digest()
    return _version_7(int(moment.timestamp() * 1000), rest)


def _version_7(milliseconds: int, rest: bytes) -> uuid.UUID:
    value = milliseconds << 80 | int.from_bytes(rest, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def first_id(moment: datetime) -> uuid.UUID:
    """The lowest UUID of version 7 that can be made from this moment on."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


# Transactions

TRIES = 5

# PostgreSQL: serialization failure, deadlock, lock not available.
CONFLICTS = {"40001", "40P01", "55P03"}

# The transaction status of libpq, as psycopg 2 and 3 report it, for a transaction that PostgreSQL has aborted.
IN_ERROR = 3


def atomically(work: Callable[[], T], using: str) -> T:
    """Run ``work`` in a transaction, and again if it conflicted with another transaction.

    Raises IntegrityError or OperationalError after five conflicts in a row, and for any other reason at once.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            with transaction.atomic(using):
                return work()
        except (IntegrityError, OperationalError) as error:
            if not tries_left or not is_conflict(error):
                raise
        time.sleep(random.uniform(0, 0.02))  # noqa: S311 # nosec B311 # only spreads the tries
    raise AssertionError("unreachable")


def is_conflict(error: Exception) -> bool:
    """Whether a statement failed because of another transaction."""
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg 3, psycopg 2
    return isinstance(error, IntegrityError) or code in CONFLICTS


def savepoint(using: str) -> AbstractContextManager[Any]:
    """A savepoint in the open transaction. Nothing in autocommit mode: there a failed query ends nothing."""
    return nullcontext() if connections[using].get_autocommit() else transaction.atomic(using)


def is_aborted(using: str) -> bool:
    """Whether the open transaction can only be rolled back. Then its error must be raised again: the host's COMMIT
    would silently become a ROLLBACK."""
    connection = connections[using]
    if connection.needs_rollback:
        return True  # the connection is lost, and with it every savepoint
    if connection.vendor != "postgresql" or connection.connection is None:
        return False
    return bool(connection.connection.info.transaction_status == IN_ERROR)


def async_commit(using: str) -> None:
    """Let PostgreSQL commit this transaction without waiting for the disk.

    For work that a worker repeats in the same way if a crash of the database loses it. A crash of the worker loses
    nothing either way.
    """
    if is_postgresql(using):
        execute(using, "SET LOCAL synchronous_commit TO OFF")


# Errors

# PostgreSQL's codes of an undefined table and an undefined column, and SQLite's words for them.
UNDEFINED_CODES = ("42P01", "42703")
UNDEFINED_WORDS = re.compile(r"no such (table|column)|has no column named")

RUN_MIGRATE = "The tables of webhooks are missing, or older than its code: run manage.py migrate"


def is_missing_table(error: BaseException) -> bool:
    """Whether a statement failed because a table or a column does not exist: the app is not migrated."""
    is_undefined = getattr(error.__cause__, "sqlstate", None) in UNDEFINED_CODES or UNDEFINED_WORDS.search(str(error))
    return isinstance(error, DatabaseError) and bool(is_undefined)


def describe_error(error: BaseException) -> str:
    """The message of a database error on one line. If the tables are not migrated, it says first what to do."""
    message = " ".join(str(error).split())
    return f"{RUN_MIGRATE} ({message})" if is_missing_table(error) else message


def has_pending_migrations(using: str) -> bool:
    """Whether a migration of the app has not been applied. False if the database does not answer."""
    try:
        executor = MigrationExecutor(connections[using])
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == "webhooks"]
        return bool(executor.migration_plan(targets))
    except DatabaseError:
        return False
