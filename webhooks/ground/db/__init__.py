"""The database: PostgreSQL and SQLite dialects, rows of the app, the clock, and transactions that try again.

All that the rows and decisions need. Four modules have the rest:

``session``           plans, time limits and connections
``host_rows``         rows of the project's models
``clock``             the database's time in a process
``django_internals``  all that Django does not promise
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from django.conf import settings
from django.core.exceptions import EmptyResultSet
from django.db import IntegrityError, OperationalError, connections, transaction
from django.db.models import DateTimeField, F, Func, Lookup, QuerySet
from django.utils import timezone

from webhooks.ground.errors import is_aborted, is_conflict

T = TypeVar("T")

# Statements

Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""


def fetch_all(using: str, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connections[using].cursor() as cursor:
        return _run(cursor, statement, parameters)


def execute(using: str, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> None:
    """Run a statement that returns no rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)


def fetch_each(using: str, *statements: Statement) -> list[list[tuple[Any, ...]]]:
    """Run statements in turn, in one round trip if the driver can send several at once. Returns the rows of each."""
    with connections[using].cursor() as cursor:
        if not sends_several(using, cursor.connection):
            return [_run(cursor, *statement) for statement in statements]
        parameters = [value for _, values in statements for value in values]
        results = [_run(cursor, "; ".join(statement for statement, _ in statements), parameters)]
        while cursor.nextset():
            results.append(rows_of(cursor))
    return results


def sends_several(using: str, driver: Any) -> bool:
    """Whether a connection of the driver sends several statements at once. psycopg 3 does so with parameters, too,
    unless it may prepare them."""
    is_bound_by_server = getattr(connections[using].features, "uses_server_side_binding", False)
    return getattr(driver, "prepare_threshold", 0) is None and not is_bound_by_server


def _run(cursor: Any, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    cursor.execute(statement, parameters)
    return rows_of(cursor)


def rows_of(cursor: Any) -> list[tuple[Any, ...]]:
    return cursor.fetchall() if cursor.description else []


def execute_safely(using: str, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Run a statement so that the open transaction goes on if it fails, and raise the error.

    On PostgreSQL it runs in a savepoint, in the same round trip if possible. SQLite needs none.
    """
    if not is_postgresql(using) or connections[using].get_autocommit():
        execute(using, statement, parameters)
        return
    release = "RELEASE SAVEPOINT webhooks", ()
    try:
        fetch_each(using, ("SAVEPOINT webhooks", ()), (statement, parameters), release)
    except Exception:
        if is_aborted(using):
            fetch_each(using, ("ROLLBACK TO SAVEPOINT webhooks", ()), release)
        raise


def is_postgresql(using: str) -> bool:
    return connections[using].vendor == "postgresql"


# Old statistics, and the dead rows that a long transaction keeps, lead planners to scan a whole table or index. Without
# these plans, PostgreSQL looks up each row by an index.
SCANS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
WHOLE_TABLE_PLANS = (*SCANS, "enable_sort", "enable_incremental_sort")


def among_sql(using: str, ids: Collection[Any], column_type: Literal["bigint", "uuid"] = "bigint") -> tuple[str, str]:
    """A condition that follows a column, for any number of ids, and its parameter.

    The parameter is one text: psycopg takes longer to adapt an array than PostgreSQL to run the statement.
    """
    plain = [pk.hex if isinstance(pk, uuid.UUID) else pk for pk in ids]
    if is_postgresql(using):
        return f"= ANY (string_to_array(%s, ',')::{column_type}[])", ",".join(map(str, plain))
    return "IN (SELECT value FROM json_each(%s))", json.dumps(plain)


class Among(Lookup):
    """Whether a column is among keys, as a condition of the ORM. It has one parameter, ``__in`` has one for each key:
    250 keys take longer to adapt than the statement takes to run.

    A lookup, because Django compares other conditions with true where the database has no type for it.
    """

    prepare_rhs = False

    def __init__(self, column: str, keys: Collection[Any], column_type: Literal["bigint", "uuid"] = "bigint") -> None:
        super().__init__(F(column), keys)
        self.column_type = column_type

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        column, parameters = compiler.compile(self.lhs)
        condition, keys_param = among_sql(connection.alias, self.rhs, self.column_type)
        return f"{column} {condition}", (*parameters, keys_param)


class QueryByKeys:
    """A query of the ORM for rows by their primary keys. It is built once: that takes longer than to run it.

    ``build`` returns the queryset.
    """

    def __init__(self, build: Callable[[], QuerySet[Any, Any]]) -> None:
        self._build = build
        self._built: tuple[Any, str] | None = None  # the compiler and the statement

    def fetch(
        self, using: str, keys: Collection[Any], keeps: bool = False, given: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """The columns of the rows, converted as the ORM does. With ``keeps``, no other transaction can delete these
        rows until the end of this one. Those that another transaction has locked are left out. ``given`` are the
        parameters of the columns."""
        if self._built is None or self._built[0].connection is not connections[using]:
            compiler = compiler_of(self._build().using(using).filter(Among("pk", ())))
            self._built = compiler, compiler.as_sql()[0]
        compiler, statement = self._built
        lock = " FOR KEY SHARE SKIP LOCKED" if keeps and is_postgresql(using) else ""
        rows = fetch_all(using, statement + lock, [*given, among_sql(using, keys)[1]])
        # Django's results_iter converts values of a statement that the compiler has not run: this one has more clauses.
        return list(compiler.results_iter([rows], tuple_expected=True))


def json_rows_sql(using: str, columns: Sequence[str], table: str) -> str:
    """A subquery of rows, in the column types of ``table``. Its parameter is a JSON list with an object for each row.

    An INSERT from it needs a WHERE after it: without one, SQLite reads ON CONFLICT as part of a join.
    """
    if is_postgresql(using):
        return f"(SELECT {', '.join(columns)} FROM json_populate_recordset(NULL::{table}, %s::json)) AS given"
    read = ", ".join(f"json_extract(value, '$.{column}') AS {column}" for column in columns)
    return f"(SELECT {read} FROM json_each(%s)) AS given"


def insert_rows_sql(using: str, columns: Sequence[str], table: str) -> str:
    """An INSERT of many rows. Its parameter is a JSON list with an object for each row. More clauses may follow."""
    names = ", ".join(columns)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {json_rows_sql(using, columns, table)} WHERE 1 = 1"


def insert_row_sql(columns: Sequence[str], table: str) -> str:
    """An INSERT of one row. It has a parameter for each column."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"


def with_new_sql(insert: str, also: str) -> str:
    """An INSERT that returns ids, and one that reads them from ``new``, as one statement of PostgreSQL."""
    return f"WITH new AS ({insert}), also AS ({also}) SELECT id FROM new"


def rows_by_id_sql(using: str) -> str:
    """A subquery of one row: a JSON object of rows by UUID, see ``rows_by_id``. Read it with ``value_by_id_sql``.

    A join would compare each row with each other: nested loops are all that workers allow.
    """
    return f"(SELECT {'%s::jsonb' if is_postgresql(using) else '%s'} AS rows) AS given"


def value_by_id_sql(using: str, column: str, name: str) -> str:
    """The value ``name`` of the row with the id in ``column``, as text."""
    if is_postgresql(using):
        return f"(given.rows -> {column}::text ->> '{name}')"
    return f"""json_extract(given.rows, '$."' || {column} || '".{name}')"""


def rows_by_id(using: str, rows: Mapping[uuid.UUID, Mapping[str, Any]]) -> str:
    """The parameter of ``rows_by_id_sql``."""
    return json.dumps({str(pk) if is_postgresql(using) else pk.hex: row for pk, row in rows.items()})


def delete_sql(
    using: str, table: str, column: str, ids: Collection[Any], column_type: Literal["bigint", "uuid"] = "bigint"
) -> Statement:
    """A DELETE of the rows with these ids in the column."""
    chosen, chosen_param = among_sql(using, ids, column_type)
    return f"DELETE FROM {table} WHERE {column} {chosen}", [chosen_param]


def delete_rows(rows: QuerySet[Any], using: str) -> None:
    """Delete rows in one statement, without their cascades and signals."""
    rows._raw_delete(using)  # Django's _raw_delete: its delete() reads the rows of models with receivers or cascades


NOTHING = "SELECT NULL WHERE 1 = 0"


def distinct_values(using: str, table: str, column: str) -> list[Any]:
    """The values of the first column of an index, sorted. It jumps from one to the next, and reads no other rows.

    The condition is for an index that has it: SQLite then uses the index."""
    least = f"SELECT MIN({column}) FROM {table} WHERE {column} IS NOT NULL"
    statement = f"""
        WITH RECURSIVE one (value) AS (
            {least} UNION ALL SELECT ({least} AND {column} > one.value) FROM one WHERE one.value IS NOT NULL
        ) SELECT value FROM one WHERE value IS NOT NULL
    """
    return [value for (value,) in fetch_all(using, statement)]


def compiler_of(rows: QuerySet[Any]) -> Any:
    """What makes the statement of a queryset, and objects of its rows."""
    return rows.query.get_compiler(rows.db)  # Django's get_compiler: str(query) has no parameters of the driver


def as_sql(rows: QuerySet[Any]) -> Statement:
    """The statement of a queryset, as a part of a larger one, and its parameters."""
    try:
        statement, parameters = compiler_of(rows).as_sql()
    except EmptyResultSet:  # the user may view none
        return NOTHING, ()
    return statement, parameters


class PreparedRead:
    """The statement of a queryset, to execute together with others, and the objects of the rows that it returns."""

    def __init__(self, rows: QuerySet[Any]) -> None:
        self.rows = rows
        self._compiler = compiler_of(rows)
        self.statement: Statement
        try:
            self.statement, self._is_empty = self._compiler.as_sql(), False
        except EmptyResultSet:
            self.statement, self._is_empty = as_sql(rows), True

    def objects(self, rows: list[tuple[Any, ...]]) -> list[Any]:
        """The objects, as the queryset would have made them of these rows."""
        query, compiler = self.rows.query, self._compiler
        # Django's get_compiler and its execute_sql: iteration calls them for the rows, with every kind of queryset.
        compiler.execute_sql = lambda *args, **kwargs: [[] if self._is_empty else rows]
        query.get_compiler = lambda *args, **kwargs: compiler  # type: ignore[method-assign]
        return list(self.rows)


def aggregate_sql(number: str, rows: QuerySet[Any]) -> Statement:
    """A subquery of one ``number`` of these rows, such as "COUNT(*)", which is 0 of no rows."""
    statement, parameters = as_sql(rows)
    if statement == NOTHING:  # it has none of the columns
        return "0", ()
    return f"(SELECT {number} FROM ({statement}) AS counted)", parameters


def exists_sql(condition: str, rows: QuerySet[Any]) -> Statement:
    """Whether one of these rows meets the condition. It reads them in their order, up to the first one that does."""
    statement, parameters = as_sql(rows)
    if statement == NOTHING:
        return "false", ()
    return f"EXISTS (SELECT 1 FROM ({statement}) AS found WHERE {condition})", parameters


def fingerprint_sql(for_postgresql: bool, *selects: tuple[Sequence[str], str]) -> str:
    """A SELECT of one text that differs if any of these rows does. Each is some columns, and the tables they are of.

    On PostgreSQL it is the sum of a hash of each row, in any order: a row that is updated moves.
    """
    row, text = "json_array", "GROUP_CONCAT(line, '')"
    if for_postgresql:
        row, text = "ROW", "SUM(HASHTEXTEXTENDED(line, 0))"
    lines = (f"SELECT CAST({row}({', '.join(columns)}) AS text) AS line FROM {tables}" for columns, tables in selects)
    return f"SELECT COALESCE(CAST({text} AS text), '') FROM ({' UNION ALL '.join(lines)}) AS lines"


def uuid_sql(using: str) -> str:
    """The placeholder of one UUID, given as hexadecimal text."""
    return "%s::uuid" if is_postgresql(using) else "%s"


def to_uuid(value: Any) -> uuid.UUID:
    """A UUID as a statement returned it: SQLite returns text."""
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


# Time


def now_sql(using: str, seconds: float = 0) -> str:
    """SQL for the time ``seconds`` from now, by the database's clock. SQLite uses this process's."""
    if is_postgresql(using):
        return f"(STATEMENT_TIMESTAMP() + make_interval(secs => {seconds:f}))"
    return f"'{connections[using].ops.adapt_datetimefield_value(timezone.now() + timedelta(seconds=seconds))}'"


class DatabaseNow(Func):
    """The time ``seconds`` from now, by the database's clock, as an expression of the ORM."""

    output_field = DateTimeField()

    def __init__(self, seconds: float = 0) -> None:
        super().__init__()
        self.seconds = seconds

    def as_sql(self, compiler: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        return now_sql(connection.alias, self.seconds), ()


def to_utc(moment: datetime) -> datetime:
    """Convert to UTC. A naive datetime is in the ``TIME_ZONE`` of the host."""
    if moment.tzinfo is UTC:  # nearly always, and the rest takes ten times as long
        return moment
    aware = timezone.make_aware(moment, timezone.get_default_timezone()) if timezone.is_naive(moment) else moment
    return aware.astimezone(UTC)


def stored_time(value: datetime | str) -> datetime:
    """A time that a statement of our own has read. SQLite returns the text that it stores, without a time zone."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if timezone.is_naive(moment) and settings.USE_TZ else moment


def to_db_time(moment: datetime) -> datetime:
    """Convert an aware datetime for a column of the host: naive, in its ``TIME_ZONE``, if ``USE_TZ`` is off."""
    return moment if settings.USE_TZ else timezone.make_naive(moment, timezone.get_default_timezone())


def time_as_text(using: str) -> Callable[[datetime], str]:
    """A function that returns an aware datetime as the text that a column of the host has, for JSON."""
    if is_postgresql(using) and settings.USE_TZ:
        return str  # as below, and each delivery needs it
    adapt = connections[using].ops.adapt_datetimefield_value
    return lambda moment: str(adapt(to_db_time(moment)))


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Seconds since some fixed moment. On Linux the time of a suspended machine counts, as it does for a lease."""
    return time.clock_gettime(_CLOCK)


def database_time(using: str) -> float:
    """Seconds since 1970, by the database's clock. SQLite uses this process's."""
    if not is_postgresql(using):
        return time.time()
    return float(fetch_all(using, "SELECT EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP())")[0][0])


# Transactions

TRIES = 5


def atomically(work: Callable[[], T], using: str) -> T:
    """Run ``work`` in a transaction, and again if it conflicted with another transaction.

    Raises IntegrityError or OperationalError after five conflicts in a row, and for any other reason at once.
    """
    for _ in range(TRIES - 1):
        try:
            with transaction.atomic(using):
                return work()
        except (IntegrityError, OperationalError) as error:
            if not is_conflict(error):
                raise
        time.sleep(random.uniform(0, 0.02))  # noqa: S311 # nosec B311 # only spreads the tries
    with transaction.atomic(using):
        return work()


def in_block(using: str) -> bool:
    """Whether a block of ``atomic()`` is open. After ``set_autocommit(False)``, a transaction may have none."""
    return bool(connections[using].atomic_blocks)  # Django's atomic_blocks: nothing documented says so


class _OpenSavepoints:
    """In place of the ids that Django keeps with a callback: these lack savepoints of ``transaction.savepoint()``."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __contains__(self, sid: str) -> bool:
        number = sid.rpartition("_x")[2]
        return number.isdecimal() and self._number >= int(number)


def on_commit(call: Callable[[], object], using: str) -> None:
    """As ``transaction.on_commit`` with ``robust``, and a rollback to any savepoint forgets the call."""
    transaction.on_commit(call, using, robust=True)
    connection: Any = connections[using]
    if in_block(using):
        # Django's run_on_commit and savepoint_state: see above.
        _, *rest = connection.run_on_commit[-1]
        connection.run_on_commit[-1] = (_OpenSavepoints(connection.savepoint_state), *rest)
