"""The database: PostgreSQL and SQLite dialects, the clock, and transactions that try again."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cache, wraps
from typing import Any, Literal, Self, TypeVar

from django.conf import settings
from django.core.exceptions import EmptyResultSet
from django.db import DatabaseError, IntegrityError, OperationalError, connections, router, transaction
from django.db.models import CompositePrimaryKey, DateTimeField, F, Func, Lookup, Model, QuerySet
from django.db.models.base import ModelState
from django.db.models.deletion import Collector
from django.db.transaction import Atomic
from django.utils import timezone

from webhooks.errors import get_logger, is_aborted, is_conflict, log_errors, reraise_job_timeout

logger = get_logger(__name__)

T = TypeVar("T")

# Statements

Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""


def fetch_all(using: str, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def execute(using: str, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> None:
    """Run a statement that returns no rows."""
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)


def fetch_each(using: str, *statements: Statement) -> list[list[tuple[Any, ...]]]:
    """Run statements in turn, in one round trip if the driver can send several at once. Returns the rows of each."""
    with connections[using].cursor() as cursor:
        if _sends_several(using, cursor.connection):
            parameters = [value for _, values in statements for value in values]
            cursor.execute("; ".join(statement for statement, _ in statements), parameters)
            found = [_rows(cursor)]
            while cursor.nextset():
                found.append(_rows(cursor))
        else:
            found = []
            for statement in statements:
                cursor.execute(*statement)
                found.append(_rows(cursor))
    return found


def _sends_several(using: str, driver: Any) -> bool:
    """Whether a connection of the driver sends several statements at once. psycopg 3 does so with parameters, too,
    unless it may prepare them."""
    is_bound_by_server = getattr(connections[using].features, "uses_server_side_binding", False)
    return getattr(driver, "prepare_threshold", 0) is None and not is_bound_by_server


def _rows(cursor: Any) -> list[tuple[Any, ...]]:
    return cursor.fetchall() if cursor.description else []


def _may_go_with(statement: Any, parameters: Any, many: bool, context: Any) -> bool:
    """Whether other statements may go with this one, which code of the project executes, in one round trip."""
    is_plain = isinstance(statement, str) and isinstance(parameters, list | tuple) and not many
    return is_plain and not getattr(context["cursor"], "name", None)


class ReadWithNext:
    """A SELECT that goes to the database with the next statement of the connection, in one round trip if possible.

    ``use`` gets its rows. ``is_wanted``: a rollback may have made it needless.
    """

    def __init__(
        self,
        using: str,
        statement: Statement,
        use: Callable[[list[tuple[Any, ...]]], object],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._using, self._statement, self._use, self._is_wanted = using, statement, use, is_wanted
        self._wrappers = connections[using].execute_wrappers
        self._join()

    def _join(self) -> None:
        self._wrappers.insert(0, self)  # Django removes the last one at the end of its blocks

    def now(self) -> None:
        """Read it now, unless it was read already."""
        if self._is_taken() and self._is_wanted():
            self._use(fetch_all(self._using, *self._statement))

    def __call__(self, execute: Any, statement: Any, parameters: Any, many: bool, context: Any) -> Any:
        if not self._is_taken() or not self._is_wanted():
            return execute(statement, parameters, many, context)
        cursor = context["cursor"]
        is_alone = not all(map(self._goes_with, self._wrappers)) or not _sends_several(self._using, cursor.connection)
        if is_alone or not _may_go_with(statement, parameters, many, context):
            self._run_alone()
            return execute(statement, parameters, many, context)
        return self._run_with(execute, statement, parameters, many, context)

    def _goes_with(self, wrapper: Any) -> bool:
        """Whether another wrapper of the connection may see two statements as one. One of the project may not."""
        return isinstance(wrapper, ReleaseWithNext | ReadWithNext)

    def _run_alone(self) -> None:
        self._use(fetch_all(self._using, *self._statement))

    def _run_with(self, execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        cursor = context["cursor"]
        text, values = self._statement
        result = execute(f"{text}; {statement}", [*values, *parameters], many, context)
        found = _rows(cursor)
        cursor.nextset()
        self._use(found)
        return result

    def _is_taken(self) -> bool:
        """Take it out of the connection. False if it was taken before."""
        if self not in self._wrappers:
            return False
        self._wrappers.remove(self)
        return True


class LockWithNext(ReadWithNext):
    """Locks of rows that the next statement of the open transaction takes along, as ``ReadWithNext`` does. PostgreSQL
    takes them before the statement.

    In a savepoint: if they cannot be had, the error is logged, and the statement is executed without them. ``take``
    returns the statements that lock the rows, as of that moment.
    """

    def __init__(self, using: str, take: Callable[[], Sequence[Statement]], is_wanted: Callable[[], bool]) -> None:
        self._take = take
        super().__init__(using, ("", ()), lambda rows: None, is_wanted)

    @property
    def is_pending(self) -> bool:
        """Whether no statement has taken it along yet."""
        return self in self._wrappers

    def _join(self) -> None:
        # After the reads, so that its locks come before theirs in the text.
        reads = next((n for n, one in enumerate(self._wrappers) if not isinstance(one, ReadWithNext)), None)
        self._wrappers.insert(len(self._wrappers) if reads is None else reads, self)

    def _goes_with(self, wrapper: Any) -> bool:
        return super()._goes_with(wrapper) or _begins_savepoint(wrapper)

    def _run_alone(self) -> None:
        with locking_errors(self._using), transaction.atomic(self._using):
            fetch_each(self._using, *self._take())

    def _run_with(self, execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        connection: Any = connections[self._using]
        locks = self._take()
        sid = new_savepoint_id(connection)
        texts = [f"SAVEPOINT {connection.ops.quote_name(sid)}", *(text for text, _ in locks)]
        values = [value for _, given in locks for value in given]
        try:
            result = execute("; ".join([*texts, statement]), [*values, *parameters], many, context)
        except DatabaseError as error:
            if not is_aborted(self._using):
                raise
            connection._savepoint_rollback(sid)
            result = execute(statement, parameters, many, context)  # it may have been the one that failed
            with locking_errors(self._using):
                raise error
            return result
        for _ in texts:
            context["cursor"].nextset()
        if not any(map(_begins_savepoint, self._wrappers)):  # else it ends with the outer one
            ReleaseWithNext(connection, sid)
        return result


def locking_errors(using: str) -> log_errors:
    return log_errors(using, "The objects of a change cannot be locked before it")


def new_savepoint_id(connection: Any) -> str:
    """A name as Django gives it to savepoints. It ends in a number that rises with each of them."""
    connection.savepoint_state += 1
    return f"s{threading.get_ident()}_x{connection.savepoint_state}"


def execute_safely(using: str, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Run a statement so that the open transaction goes on if it fails, and raise the error.

    On PostgreSQL it runs in a savepoint, in the same round trip if possible. SQLite needs none.
    """
    if not is_postgresql(using) or connections[using].get_autocommit():
        execute(using, statement, parameters)
        return
    with MergedSavepoint(using) as savepoint, savepoint.last():
        execute(using, statement, parameters)


@contextmanager
def closing_new_connections() -> Iterator[None]:
    """Close the connections that the block opens, and before it the failed ones.

    For code that may run outside of requests, in a thread that ends or in one that stays: Django does it for requests.
    """
    for one in connections.all(initialized_only=True):
        if one.errors_occurred:
            one.close_if_unusable_or_obsolete()
    kept = {one.alias for one in connections.all(initialized_only=True) if one.connection is not None}
    try:
        yield
    finally:
        for one in connections.all(initialized_only=True):
            if one.alias not in kept:
                one.close()


def is_postgresql(using: str) -> bool:
    return connections[using].vendor == "postgresql"


# Replicas

_reads_from: ContextVar[str | None] = ContextVar("webhooks_reads_from", default=None)


@contextmanager
def reading_from(using: str | None) -> Iterator[None]:
    """Let the project's code in this block read from the database that is written to, whatever its routers say: a
    replica lacks what the open transaction has written.

    Models that are written to other databases are read where the routers say.
    """
    before = _reads_from.get()
    _reads_from.set(using)
    try:
        yield
    finally:
        _reads_from.set(before)


def route_reads() -> None:
    """Let Django ask for ``reading_from`` before the routers of the project. The project may change its routers later:
    Django replaces their list, and keeps this function."""
    if "db_for_read" in vars(router):
        return
    route = router.db_for_read

    def db_for_read(model: type[Model], **hints: Any) -> str:
        using = _reads_from.get()
        return using if using is not None and _is_written_to(using, model, hints) else route(model, **hints)

    router.db_for_read = db_for_read  # type: ignore[method-assign]


def _is_written_to(using: str, model: type[Model], hints: Mapping[str, Any]) -> bool:
    try:
        with reading_from(None):  # a router of the project may ask where to read
            return bool(router.db_for_write(model, **hints) == using)
    except Exception as error:  # a project may refuse to write a model that it reads from elsewhere
        reraise_job_timeout(error)
        return False


# Old statistics, and the dead rows that a long transaction keeps, lead planners to scan a whole table or index. Without
# these plans, PostgreSQL looks up each row by an index.
SCANS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
WHOLE_TABLE_PLANS = (*SCANS, "enable_sort", "enable_incremental_sort")


def can_lock(using: str, model: type[Model]) -> bool:
    """Whether rows of a model can be locked. PostgreSQL refuses that for a database view with DISTINCT or groups, and
    an unmanaged model may have such a view. An unmanaged table can be locked. Takes one query for each such table and
    process."""
    concrete: Any = model._meta.concrete_model
    unmanaged = [one for one in (concrete, *concrete._meta.all_parents) if not one._meta.managed]
    return not any(_is_view(using, one._meta.db_table) for one in unmanaged)


@cache
def _is_view(using: str, table: str) -> bool:
    if not is_postgresql(using):
        return False
    name = connections[using].ops.quote_name(table)
    kinds = fetch_all(using, "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [name])
    return kinds in ([("v",)], [("m",)])  # a view, a materialized view


@contextmanager
def index_plans(using: str, may_sort: bool = False, seconds: float | None = None) -> Iterator[None]:
    """Let PostgreSQL look up rows by indexes, and in the order of an index, against its statistics.

    For statements with a LIMIT: they stop early. With ``may_sort`` it may also find few rows first and sort them.
    Inside a host's transaction, the settings are as before afterwards. ``seconds`` as for ``statement_limit``.
    """
    plans = dict.fromkeys(SCANS if may_sort else WHOLE_TABLE_PLANS, "'off'")
    with _set_for_block(using, plans, seconds):
        yield


@contextmanager
def statement_limit(using: str, seconds: float) -> Iterator[None]:
    """Let PostgreSQL stop each statement that takes longer than ``seconds``, see ``is_statement_timeout``.

    A shorter limit of the host stays. The statements run in a savepoint, so the host's transaction can go on.
    """
    with _set_for_block(using, {}, seconds):
        yield


@contextmanager
def _set_for_block(using: str, settings: Mapping[str, str], seconds: float | None) -> Iterator[None]:
    """Change settings of PostgreSQL to these values in SQL."""
    if not is_postgresql(using):
        yield
        return
    is_nested = connections[using].in_atomic_block
    if seconds is not None:
        limit = int(seconds * 1000)
        shorter = f"""(
            SELECT CASE WHEN setting::int BETWEEN 1 AND {limit} THEN setting ELSE '{limit}' END
            FROM pg_settings WHERE name = 'statement_timeout'
        )"""
        settings = {**settings, "statement_timeout": shorter}
    with transaction.atomic(using, savepoint=seconds is not None):
        before = ", ".join(f"current_setting('{name}')" for name in settings)
        change = ", ".join(f"set_config('{name}', {value}, true)" for name, value in settings.items())
        [found] = fetch_all(using, f"SELECT {before}, {change}")
        yield
        if is_nested:
            change = ", ".join(f"set_config('{name}', %s, true)" for name in settings)
            fetch_all(using, f"SELECT {change}", found[: len(settings)])


# The most keys in one statement. SQLite takes 32,766 parameters by default, PostgreSQL 65,535 if the server binds them.
MAX_KEYS = 10_000


def in_chunks(using: str, keys: Collection[Any]) -> Iterator[list[Any]]:
    """Split keys into lists that fit into one statement. Without a limit it is one list: then locks have one order."""
    known = list(keys)
    has_limit = not is_postgresql(using) or getattr(connections[using].features, "uses_server_side_binding", False)
    size = MAX_KEYS if has_limit else len(known)
    for start in range(0, len(known), size or 1):
        yield known[start : start + size]


def among_sql(using: str, ids: Collection[Any], column_type: Literal["bigint", "uuid"] = "bigint") -> tuple[str, str]:
    """A condition that follows a column, for any number of ids, and its parameter.

    The parameter is one text: psycopg takes longer to adapt an array than PostgreSQL to run the statement.
    """
    plain = [one.hex if isinstance(one, uuid.UUID) else one for one in ids]
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


class AmongKeys(Lookup):
    """Whether the primary key of a row is among these, as a condition of the ORM. It has one parameter for each column
    of the key, so there may be any number of keys."""

    prepare_rhs = False

    def __init__(self, pks: Any, lhs: Any = None) -> None:
        super().__init__(F("pk") if lhs is None else lhs, pks)

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        columns, parameters = compiler.compile(self.lhs)
        key = self.lhs.output_field
        fields, rows = [key], [(pk,) for pk in self.rhs]
        if isinstance(key, CompositePrimaryKey):
            columns, fields, rows = f"({columns})", list(key.fields), self.rhs
        values = [[field.get_db_prep_value(row[n], connection) for row in rows] for n, field in enumerate(fields)]
        if is_postgresql(connection.alias):
            arrays = ", ".join(f"%s::{field.rel_db_type(connection)}[]" for field in fields)
            condition = f"IN (SELECT * FROM unnest({arrays}))" if len(fields) > 1 else f"= ANY ({arrays})"
            return f"{columns} {condition}", (*parameters, *values)
        if all(_is_exact_in_json(value) for column in values for value in column):
            read = ", ".join(f"json_extract(value, '$[{n}]')" for n in range(len(fields)))
            given = json.dumps(list(zip(*values, strict=True)))
            return f"{columns} IN (SELECT {read} FROM json_each(%s))", (*parameters, given)
        row = f"({', '.join(['%s'] * len(fields))})"
        given_rows = [value for one in zip(*values, strict=True) for value in one]
        return f"{columns} IN (VALUES {', '.join([row] * len(rows))})", (*parameters, *given_rows)


def _is_exact_in_json(value: Any) -> bool:
    """Whether SQLite reads the same value from JSON. Of the others, it may round numbers, and JSON has no bytes."""
    return "\0" not in value if isinstance(value, str) else isinstance(value, int)


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
            compiler = self._build().using(using).filter(Among("pk", ())).query.get_compiler(using)
            self._built = compiler, compiler.as_sql()[0]
        compiler, statement = self._built
        lock = " FOR KEY SHARE SKIP LOCKED" if keeps and is_postgresql(using) else ""
        found = fetch_all(using, statement + lock, [*given, among_sql(using, keys)[1]])
        return list(compiler.results_iter([found], tuple_expected=True))


@contextmanager
def written_keys(chosen: Collection[type[Model]], using: str) -> Iterator[defaultdict[type[Model], list[Any]]]:
    """The primary keys that the UPDATE statements of this block write into the tables of these models."""
    found: defaultdict[type[Model], list[Any]] = defaultdict(list)
    connection = connections[using]
    quote = connection.ops.quote_name
    starts = {f"UPDATE {quote(model._meta.db_table)} SET ": model for model in chosen}

    def add_returning(execute: Any, statement: str, parameters: Any, many: bool, context: Any) -> Any:
        model = next((model for start, model in starts.items() if statement.startswith(start)), None)
        if model is None:
            return execute(statement, parameters, many, context)
        columns = ", ".join(quote(str(field.column)) for field in model._meta.pk_fields)
        result = execute(f"{statement} RETURNING {columns}", parameters, many, context)
        rows: Any = QuerySet(model, using=using).values_list(*(field.attname for field in model._meta.pk_fields))
        compiler = rows.query.get_compiler(using)
        compiler.as_sql()  # it chooses the converters
        keys = compiler.results_iter([context["cursor"].fetchall()], tuple_expected=True)
        found[model] += keys if model._meta.is_composite_pk else (pk for (pk,) in keys)
        return result

    if not chosen:
        yield found
        return
    with connection.execute_wrapper(add_returning):
        yield found


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


def as_sql(rows: QuerySet[Any]) -> Statement:
    """The statement of a queryset, as a part of a larger one, and its parameters."""
    try:
        statement, parameters = rows.query.get_compiler(rows.db).as_sql()
    except EmptyResultSet:  # the user may view none
        return NOTHING, ()
    return statement, parameters


class PreparedRead:
    """The statement of a queryset, to execute together with others, and the objects of the rows that it returns."""

    def __init__(self, rows: QuerySet[Any]) -> None:
        self.rows = rows
        self._compiler = rows.query.get_compiler(rows.db)
        self.statement: Statement
        try:
            self.statement, self._is_empty = self._compiler.as_sql(), False
        except EmptyResultSet:
            self.statement, self._is_empty = as_sql(rows), True

    def objects(self, found: list[tuple[Any, ...]]) -> list[Any]:
        """The objects, as the queryset would have made them of these rows."""
        query, compiler = self.rows.query, self._compiler
        compiler.execute_sql = lambda *args, **kwargs: [[] if self._is_empty else found]
        query.get_compiler = lambda *args, **kwargs: compiler  # type: ignore[method-assign]
        return list(self.rows)


class PreparedMembers:
    """The members of a many-to-many relation of one object, to read in one round trip with its row.

    Raises AttributeError, TypeError or ValueError if the primary key does not suffice, or the manager cannot do it.
    """

    def __init__(self, model: type[Model], pk: Any, using: str, relation: str) -> None:
        self._relation = relation
        instance: Any = model.__new__(model)  # without the code that a project runs for each instance
        instance._state = ModelState()
        instance._state.db, instance._state.adding = using, False
        setattr(instance, model._meta.pk.attname, pk)
        rows, _, _, _, self._cache_name, _ = getattr(instance, relation).get_prefetch_querysets([instance])
        self.prepared = PreparedRead(rows.using(using))

    def keep(self, instance: Any, found: list[tuple[Any, ...]]) -> None:
        """Let the object know its members, as ``prefetch_related`` does."""
        members: Any = getattr(instance, self._relation).get_queryset()
        members._result_cache = self.prepared.objects(found)
        members._prefetch_done = True
        instance.__dict__.setdefault("_prefetched_objects_cache", {})[self._cache_name] = members


def prepare_members(model: type[Model], pk: Any, using: str, relations: Sequence[str]) -> list[PreparedMembers]:
    """The members of these relations of one object, unless Django can only read them with the object."""
    found = []
    for relation in relations:
        with suppress(AttributeError, TypeError, ValueError):
            found.append(PreparedMembers(model, pk, using, relation))
    return found


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


# The database's time in a process. Signatures and attempts of a worker carry it, so a wrong clock does no harm.

# Seconds between two comparisons with the database. ``elapsed`` counts in between: no step of a clock moves it.
COMPARE_EVERY = 30

# A clock that differs by more seconds than this is reported.
CLOCK_TOLERANCE = 5

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Seconds since some fixed moment. On Linux the time of a suspended machine counts, as it does for a lease."""
    return time.clock_gettime(_CLOCK)


def database_time(using: str) -> float:
    """Seconds since 1970, by the database's clock. SQLite uses this process's."""
    if not is_postgresql(using):
        return time.time()
    return float(fetch_all(using, "SELECT EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP())")[0][0])


class DatabaseClock:
    """Counts on from the last comparison with the database. Other threads may read it meanwhile."""

    def __init__(self) -> None:
        self._origin = time.time() - elapsed()
        """The database's time at which ``elapsed`` was 0; before the first comparison, this machine's."""
        self._compared = -float(COMPARE_EVERY)
        self._is_reported = False
        self.offset = 0.0
        """Seconds that this machine's clock was ahead of the database's."""

    def compare(self, using: str) -> None:
        """Ask the database for its time, if the last answer is old. Raises django.db.Error if the database is away."""
        before = elapsed()
        if before - self._compared < COMPARE_EVERY:
            return
        answer = database_time(using)
        self._compared = elapsed()
        self._origin = answer - (before + self._compared) / 2  # the answer was true halfway
        self.offset = time.time() - self.now().timestamp()
        if abs(self.offset) > CLOCK_TOLERANCE and not self._is_reported:
            logger.warning(
                "The clock of this machine differs by %.0f s from the database's. Requests carry the database's time",
                self.offset,
            )
            self._is_reported = True

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._origin + elapsed(), UTC)


# Transactions

TRIES = 5

IN_TRANSACTION = 2  # the transaction status of libpq


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
    if connection.in_atomic_block:
        _, *rest = connection.run_on_commit[-1]
        connection.run_on_commit[-1] = (_OpenSavepoints(connection.savepoint_state), *rest)


_before_commit: list[Callable[[Any, bool], None]] = []


def call_before_commits(call: Callable[[Any, bool], None]) -> None:
    """Let ``call`` get the connection of each outermost block of ``atomic()`` before the block ends, and whether the
    block is to be committed. If it raises, the block is rolled back. Django itself calls nothing before a commit."""
    if not _before_commit:
        Atomic.__exit__ = _exit_after_calls(Atomic.__exit__)  # type: ignore[method-assign]
    if call not in _before_commit:
        _before_commit.append(call)


def _exit_after_calls(exit_block: Callable[[Atomic, Any, Any, Any], None]) -> Any:
    """``exit_block`` with the calls before it. It need not be Django's: django-cachalot has one of its own."""

    def exit_atomic(block: Atomic, kind: Any, error: Any, traceback: Any) -> None:
        connection = transaction.get_connection(block.using)
        blocks: list[Any] = connection.atomic_blocks
        if len(blocks) == 1 or (blocks and blocks[-2]._from_testcase):  # a TestCase runs in blocks of its own
            try:
                for call in _before_commit:
                    call(connection, kind is None and not connection.needs_rollback)
            except BaseException as raised:
                exit_block(block, type(raised), raised, raised.__traceback__)
                raise
        exit_block(block, kind, error, traceback)

    return exit_atomic


_around_deletions: list[Callable[[Collector], AbstractContextManager[None]]] = []


def delete_within(block: Callable[[Collector], AbstractContextManager[None]]) -> None:
    """Let Django delete what a collector has found within ``block``. Django signals only the deletions of models with
    receivers, and no key that it sets to null. A receiver would make it load the rows of cascades."""
    if block in _around_deletions:
        return
    _around_deletions.append(block)
    delete = Collector.delete

    @wraps(delete)
    def delete_in_block(collector: Collector) -> Any:
        with block(collector):
            return delete(collector)

    Collector.delete = delete_in_block  # type: ignore[method-assign,assignment]


def savepoint(using: str) -> AbstractContextManager[Any]:
    """A savepoint in the open transaction. Nothing in autocommit mode: there a failed query ends nothing."""
    return nullcontext() if connections[using].get_autocommit() else MergedSavepoint(using)


class ReleaseWithNext:
    """A RELEASE that goes to the database with the next statement of the transaction, in one round trip.

    If there is none, or it must not be joined, the savepoint stays open. That does no harm: a savepoint around it, or
    the end of the transaction, ends it.
    """

    def __init__(self, connection: Any, sid: str) -> None:
        self._connection, self.sid = connection, sid
        # The next transaction has another block, or another list. The list itself would keep much in memory.
        self._block, self._callbacks = weakref.ref(connection.atomic_blocks[0]), id(connection.run_on_commit)
        connection.execute_wrappers.insert(0, self)

    @classmethod
    def take(cls, connection: Any) -> str:
        """The savepoint that is still to be released. The caller releases it. Empty if there is none."""
        for one in connection.execute_wrappers:
            if isinstance(one, cls):
                connection.execute_wrappers.remove(one)
                return one.sid if one._is_of_open_transaction else ""
        return ""

    def __call__(self, execute: Any, statement: Any, parameters: Any, many: bool, context: Any) -> Any:
        wrappers = self._connection.execute_wrappers
        if self not in wrappers:  # a statement of the app, before this one, took it along
            return execute(statement, parameters, many, context)
        wrappers.remove(self)
        is_joined = not wrappers and _may_go_with(statement, parameters, many, context)
        if not is_joined or not self._is_of_open_transaction:
            return execute(statement, parameters, many, context)
        result = execute(f"{release_sql(self._connection, self.sid)}; {statement}", parameters, many, context)
        context["cursor"].nextset()
        return result

    @property
    def _is_of_open_transaction(self) -> bool:
        """Whether the savepoint may still be there. Its transaction may have ended without another statement here, and
        the next one may have begun with one that Django does not see, such as COPY."""
        connection = self._connection
        if not connection.atomic_blocks or self._block() is not connection.atomic_blocks[0]:
            return False
        return id(connection.run_on_commit) == self._callbacks and _is_in_transaction(connection)


def release_sql(connection: Any, sid: str) -> str:
    return f"RELEASE SAVEPOINT {connection.ops.quote_name(sid)}"


def _is_in_transaction(connection: Any) -> bool:
    """Whether a statement was executed in the open transaction, and none failed."""
    return bool(connection.connection.info.transaction_status == IN_TRANSACTION)


def _begins_savepoint(wrapper: Any) -> bool:
    return isinstance(getattr(wrapper, "__self__", None), MergedSavepoint)


class MergedSavepoint(Atomic):
    """A savepoint in the open transaction that takes no round trip, if the driver can send several statements at once.

    SAVEPOINT goes with the first statement of the block. RELEASE goes with the one in ``last()``, or with the next one
    after the block. Otherwise as ``atomic()``.
    """

    def __init__(self, using: str) -> None:
        super().__init__(using, savepoint=True, durable=False)
        self._connection: Any = connections[using]
        self._sid = self._earlier = ""
        self._is_begun = self._is_last = self._is_released = False

    def __enter__(self) -> Self:  # type: ignore[override] # the stubs say that Django's returns nothing
        connection = self._connection
        is_nested = connection.in_atomic_block and not connection.needs_rollback
        is_merged = is_nested and _sends_several(connection.alias, connection.connection)
        self.savepoint = not is_merged
        super().__enter__()
        if is_merged:
            self._sid = connection.savepoint_ids[-1] = new_savepoint_id(connection)
            self._earlier = ReleaseWithNext.take(connection)
            wrappers = connection.execute_wrappers
            # Before those of the savepoints around it, which then write their SAVEPOINT before its own.
            around = (place for place, one in enumerate(wrappers) if _begins_savepoint(one))
            wrappers.insert(next(around, len(wrappers)), self._merge)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        connection = self._connection
        if self._sid:
            connection.execute_wrappers.remove(self._merge)
            if not self._is_begun and (error or connection.needs_rollback):
                # Nothing reached the database, but Django must forget the callbacks.
                connection.needs_rollback = False
                connection.run_on_commit = [one for one in connection.run_on_commit if self._sid not in one[0]]
            if self._earlier:  # no statement of the block took it along
                ReleaseWithNext(connection, self._earlier)
            elif self._is_begun and not (self._is_released or error or connection.needs_rollback):
                ReleaseWithNext(connection, self._sid)
                self._is_released = True
            if self._is_released or not self._is_begun:
                # There is no savepoint, and without one Django would roll back the transaction.
                connection.savepoint_ids[-1] = None
                kind = error = traceback = None
        super().__exit__(kind, error, traceback)

    @contextmanager
    def last(self) -> Iterator[None]:
        """The next statement is the last one of the savepoint."""
        self._is_last = bool(self._sid)
        yield
        self._is_last = False

    def _begin(self) -> None:
        self._is_begun = True
        self._connection._savepoint(self._sid)

    def _merge(self, execute: Any, statement: Any, parameters: Any, many: bool, context: Any) -> Any:
        if self._is_begun and (self._is_released or not self._is_last):
            return execute(statement, parameters, many, context)
        is_plain = isinstance(statement, str) and not many and not getattr(context["cursor"], "name", None)
        if not is_plain:  # a query of the host, such as one with a cursor of the server
            self._earlier = ""
            if not self._is_begun:
                self._begin()
            return execute(statement, parameters, many, context)
        name = self._connection.ops.quote_name(self._sid)
        first = [] if self._is_begun else [f"SAVEPOINT {name}"]
        if self._earlier and _is_in_transaction(self._connection):
            first.insert(0, release_sql(self._connection, self._earlier))
        self._earlier = ""
        begin = "".join(f"{one}; " for one in first)
        end = f"\n; RELEASE SAVEPOINT {name}" if self._is_last else ""
        try:
            result = execute(f"{begin}{statement}{end}", parameters, many, context)
        except Exception:
            # If the driver refused a parameter, it sent nothing.
            self._is_begun |= self._connection.connection.info.transaction_status != IN_TRANSACTION
            raise
        self._is_begun, self._is_released = True, self._is_last
        for _ in first:
            context["cursor"].nextset()
        return result
