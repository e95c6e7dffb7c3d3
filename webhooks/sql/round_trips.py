"""Several queries in one round trip, of which each sees what is there once the one before it has its locks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import DatabaseError, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.sql.dialect import is_postgresql, server_binds
from webhooks.transactions import is_aborted

SAVEPOINT = "webhooks_round_trip"


def fetch(querysets: Sequence[models.QuerySet[Any]], using: str) -> list[list[Any]]:
    """The objects of each of these. It needs a transaction that is open; where one of them fails (a deadlock, a lock
    that is not given in time), that is as it was.

    A join could not do that: a statement sees other tables as they were before it waited for its lock. So PostgreSQL is
    sent several statements at once, in a savepoint; one by one where its driver takes no more. SQLite takes one at a
    time as well, but nobody else writes meanwhile, so it gets one that unites them.
    """
    connection = connections[using]
    if not is_postgresql(using):
        return _united(connection, [_Query(one, using) for one in querysets])
    if _takes_several(connection):
        return _sent_together(connection, [_Query(one, using) for one in querysets])
    with transaction.atomic(using):
        return [list(one) for one in querysets]


class _Query:
    """One of them, written, and run by somebody else."""

    def __init__(self, queryset: models.QuerySet[Any], using: str) -> None:
        self._queryset = queryset
        self._compiler: Any = queryset.query.get_compiler(using)
        try:
            self.statement, parameters = self._compiler.as_sql()
            self.parameters, self.width = tuple(parameters), self._compiler.col_count + self._unseen()
        except EmptyResultSet:  # Django knows without asking
            self.statement, self.parameters, self.width = "", (), 0

    def _unseen(self) -> int:
        """Columns that are read only to sort by them."""
        return len(self._compiler.pre_sql_setup()[0]) if self._compiler.has_extra_select else 0

    def objects(self, rows: list[Sequence[Any]]) -> list[Any]:
        """What Django makes of these rows."""
        if self.statement:
            self._compiler.execute_sql = lambda *args, **kwargs: [rows]
            self._queryset.query.get_compiler = lambda *args, **kwargs: self._compiler  # type: ignore[method-assign]
        return list(self._queryset)


def _takes_several(connection: BaseDatabaseWrapper) -> bool:
    """Whether the driver takes several statements with parameters, and gives all their results: not psycopg2."""
    driver = connection.Database  # type: ignore[attr-defined]
    return driver.__name__ == "psycopg" and not server_binds(connection.alias)


def _sent_together(connection: BaseDatabaseWrapper, queries: Sequence[_Query]) -> list[list[Any]]:
    asked = [query for query in queries if query.statement]
    statements = [f"SAVEPOINT {SAVEPOINT}", *(query.statement for query in asked), f"RELEASE SAVEPOINT {SAVEPOINT}"]
    found: dict[_Query, list[Any]] = {}
    with connection.cursor() as cursor:
        try:
            cursor.execute("; ".join(statements), [value for query in asked for value in query.parameters])
        except BaseException:
            _roll_back(connection)
            raise
        for query in asked:
            cursor.nextset()
            found[query] = cursor.fetchall()
    return [query.objects(found.get(query, [])) for query in queries]


def _roll_back(connection: BaseDatabaseWrapper) -> None:
    if not is_aborted(connection.alias):
        return  # nothing was sent
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}; RELEASE SAVEPOINT {SAVEPOINT}")
    except DatabaseError:
        # As Django's own savepoints: nothing but the end of the transaction helps.
        connection.needs_rollback = True


def _united(connection: BaseDatabaseWrapper, queries: Sequence[_Query]) -> list[list[Any]]:
    """Each row has the number of its query, and its columns where those of the others have nothing."""
    selects: list[str] = []
    parameters: list[Any] = []
    for number, query in enumerate(queries):
        if query.statement:
            columns = [f"q{number}.*" if one is query else ", ".join(["NULL"] * one.width) for one in queries]
            selects.append(f"SELECT {number}, {', '.join(filter(None, columns))} FROM ({query.statement}) AS q{number}")
            parameters += query.parameters
    found: list[list[Any]] = [[] for _ in queries]
    starts = [1 + sum(query.width for query in queries[:number]) for number in range(len(queries))]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(selects), parameters)
        for row in cursor.fetchall():
            start = starts[row[0]]
            found[row[0]].append(row[start : start + queries[row[0]].width])
    return [query.objects(rows) for query, rows in zip(queries, found, strict=True)]
