"""Several queries in one round trip, of which each sees what is there once the one before it has its locks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import Error, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.query import ModelIterable

from webhooks.sql.dialect import is_postgresql, server_binds
from webhooks.transactions import IN_TRANSACTION

SAVEPOINT = "webhooks_round_trip"


def fetch(querysets: Sequence[models.QuerySet[Any]], using: str) -> list[list[Any]]:
    """The objects of each of these. It needs a transaction that is open; where one of them fails (a deadlock, a lock
    that is not given in time), that is as it was, unless it is one that PostgreSQL cannot even parse.

    A join could not do that: a statement sees other tables as they were before it waited for its lock. So PostgreSQL is
    sent several statements at once, in a savepoint. SQLite takes one at a time, but nobody else writes meanwhile, so it
    is sent one that unites them. Querysets that do more than a query, and drivers that take no more than one statement,
    get one by one.
    """
    connection = connections[using]
    is_plain = all(map(_is_plain, querysets))
    if is_plain and not is_postgresql(using):
        return _united(connection, [_Query(one, using) for one in querysets])
    if is_plain and _takes_several(connection):
        return _sent_together(connection, [_Query(one, using) for one in querysets])
    with transaction.atomic(using):
        return [list(one) for one in querysets]


def _is_plain(queryset: models.QuerySet[Any]) -> bool:
    """Whether nothing but its one query comes of it."""
    plain, kind = models.QuerySet, type(queryset)
    is_iterated_as_usual = kind._fetch_all is plain._fetch_all and kind.__iter__ is plain.__iter__
    makes_objects = queryset._iterable_class is ModelIterable
    return is_iterated_as_usual and makes_objects and not queryset._prefetch_related_lookups  # type: ignore[attr-defined]


class _Query:
    """One of them: written here, run by others, and its rows made objects here. To ``ModelIterable`` it is a queryset,
    its query, and the compiler of that."""

    def __init__(self, queryset: models.QuerySet[Any], using: str) -> None:
        self._queryset, self.query = queryset, self
        self._compiler: Any = queryset.query.get_compiler(using)
        try:
            self.statement, parameters = self._compiler.as_sql()
            self.parameters, self.width = tuple(parameters), self._compiler.col_count + self._unseen()
        except EmptyResultSet:  # Django knows without asking
            self.statement, self.parameters, self.width = "", (), 0

    def _unseen(self) -> int:
        """Columns that are read only to sort by them."""
        return len(self._compiler.pre_sql_setup()[0]) if self._compiler.has_extra_select else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queryset, name)

    def get_compiler(self, *args: Any, **kwargs: Any) -> Any:
        return self._compiler

    def objects(self, rows: list[Sequence[Any]]) -> list[Any]:
        """What Django makes of these rows."""
        self._compiler.execute_sql = lambda *args, **kwargs: [rows]
        return list(ModelIterable(self)) if self.statement else []  # type: ignore[arg-type]


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
            # Each begins a line: one may end in a comment.
            cursor.execute("\n; ".join(statements), [value for query in asked for value in query.parameters])
        except BaseException:
            _roll_back(connection)
            raise
        for query in asked:
            cursor.nextset()
            found[query] = cursor.fetchall()
    return [query.objects(found.get(query, [])) for query in queries]


def _roll_back(connection: BaseDatabaseWrapper) -> None:
    if connection.connection.info.transaction_status == IN_TRANSACTION:
        return  # nothing was sent, or all of it is done
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}; RELEASE SAVEPOINT {SAVEPOINT}")
    except Error:
        # As with Django's own savepoints: nothing but the end of the transaction helps.
        connection.needs_rollback = True


def _united(connection: BaseDatabaseWrapper, queries: Sequence[_Query]) -> list[list[Any]]:
    """Each row has the number of its query, and its columns where those of the others have nothing."""
    asked = {f"q{number}": query for number, query in enumerate(queries) if query.statement}
    # As subqueries, which keep their order; older versions know no others.
    is_new = connection.Database.sqlite_version_info >= (3, 35)  # type: ignore[attr-defined]
    as_subquery = "AS NOT MATERIALIZED" if is_new else "AS"
    written = ", ".join(f"{name} {as_subquery} ({query.statement}\n)" for name, query in asked.items())
    # No rows: it tells SQLite of what types the columns are, which it takes from the first of what is united.
    united = [f"SELECT NULL, {', '.join(f'{name}.*' for name in asked)} FROM {', '.join(asked)} WHERE 0"]
    for name in asked:
        columns = (f"{other}.*" if other == name else ", ".join(["NULL"] * one.width) for other, one in asked.items())
        united.append(f"SELECT '{name}', {', '.join(columns)} FROM {name}")
    found: dict[_Query, list[Any]] = {query: [] for query in queries}
    starts = dict(zip(asked, accumulate((query.width for query in asked.values()), initial=0), strict=False))
    with connection.cursor() as cursor:
        parameters = [value for query in asked.values() for value in query.parameters]
        cursor.execute(f"WITH {written} {' UNION ALL '.join(united)}", parameters)
        for name, *row in cursor.fetchall():
            found[asked[name]].append(row[starts[name] : starts[name] + asked[name].width])
    return [query.objects(found[query]) for query in queries]
