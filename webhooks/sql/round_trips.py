"""Several queries in one round trip, of which each sees what is there once the one before it has its locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import Error, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.query import ModelIterable

from webhooks.sql.dialect import is_postgresql, server_binds
from webhooks.transactions import IN_TRANSACTION

SAVEPOINT = "webhooks_round_trip"


def fetch(queries: Sequence[Query], using: str, *, is_first_guarded: bool = True) -> list[list[Any]]:
    """The objects of each of these. It needs a transaction that is open; where one of them fails (a deadlock, a lock
    that is not given in time), that is as it was, unless it is one that PostgreSQL cannot even parse.

    A join could not do that: a statement sees other tables as they were before it waited for its lock. So PostgreSQL is
    sent several statements at once, in a savepoint. SQLite takes one at a time, but nobody else writes meanwhile, so it
    is sent one that unites them. Where some do not go along, all are run one by one.

    The first need not be guarded where it locks just the rows that are updated next: it ends the transaction if it
    fails, as the update would. PostgreSQL takes a lock from within a savepoint, and an update after it, for those of
    two, and notes both with each row (a MultiXact).
    """
    if all(query.is_empty for query in queries):
        return [[] for _ in queries]
    if not all(query.goes_along for query in queries):
        with transaction.atomic(using):
            return [query.alone() for query in queries]
    if is_postgresql(using):
        return _sent_together(connections[using], queries, is_first_guarded)
    return _united(connections[using], queries)


class Query:
    """A queryset, to be run with others. It is written here, run by others, and its rows made objects here. To
    ``ModelIterable`` it is a queryset, its query, and the compiler of that."""

    def __init__(self, queryset: models.QuerySet[Any], using: str) -> None:
        self._queryset, self.query = queryset, self
        self.statement, self.width = "", 0
        self.parameters: tuple[Any, ...] = ()
        # Not one that does more than its query; nor where the driver takes no more than one.
        self.goes_along = _is_plain(queryset) and (not is_postgresql(using) or _takes_several(connections[using]))
        if self.goes_along:
            self._write(using)

    def _write(self, using: str) -> None:
        self._compiler: Any = self._queryset.query.get_compiler(using)
        with suppress(EmptyResultSet):
            self.statement, parameters = self._compiler.as_sql()
            self.parameters, self.width = tuple(parameters), self._compiler.col_count + self._unseen()

    @property
    def is_empty(self) -> bool:
        """Whether Django knows without asking that there is nothing."""
        return self.goes_along and not self.statement

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

    def alone(self) -> list[Any]:
        """What comes of it when it is run by itself."""
        return list(self._queryset)


def _is_plain(queryset: models.QuerySet[Any]) -> bool:
    """Whether nothing but its one query comes of it."""
    plain, kind = models.QuerySet, type(queryset)
    is_iterated_as_usual = kind._fetch_all is plain._fetch_all and kind.__iter__ is plain.__iter__
    makes_objects = queryset._iterable_class is ModelIterable
    return is_iterated_as_usual and makes_objects and not queryset._prefetch_related_lookups  # type: ignore[attr-defined]


class Asks(Exception):
    """Some code would ask the database."""


class _Refused(BaseException):
    """What such code meets. No ordinary error: code that gets over those would remember that there is nothing."""


@contextmanager
def asking_nothing(using: str) -> Iterator[None]:
    """Let code send the database nothing. Raises ``Asks`` if it tries, whatever it catches."""
    connection, thread = connections[using], threading.get_ident()
    mine, was_lost = vars(connection), connection.needs_rollback
    cursors = {name: getattr(connection, name) for name in ("cursor", "chunked_cursor")}
    own = {name: mine[name] for name in cursors if name in mine}  # somebody else has put one in place of Django's
    asked = False

    def refusing(cursor: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            nonlocal asked
            if threading.get_ident() != thread:  # which shares the connection, as tests let it
                return cursor(*args, **kwargs)
            asked = True
            raise _Refused

        return refuse

    # Not by ``execute_wrapper``: with DEBUG, Django would note a statement that was never sent.
    mine.update({name: refusing(cursor) for name, cursor in cursors.items()})
    try:
        with suppress(_Refused):
            yield
    finally:
        for name in cursors:
            mine.pop(name, None)
        mine.update(own)
        # Django gives a transaction up when a block fails that has no savepoint, but nothing has happened in it.
        connection.needs_rollback = was_lost
    if asked:
        raise Asks


def _takes_several(connection: BaseDatabaseWrapper) -> bool:
    """Whether the driver takes several statements with parameters, and gives all their results: not psycopg2."""
    driver = connection.Database  # type: ignore[attr-defined]
    return driver.__name__ == "psycopg" and not server_binds(connection.alias)


def _sent_together(
    connection: BaseDatabaseWrapper, queries: Sequence[Query], is_first_guarded: bool
) -> list[list[Any]]:
    bare = 0 if is_first_guarded else 1
    in_order = (*queries[:bare], None, *queries[bare:])  # None: the savepoint
    sent = [query for query in in_order if query is None or query.statement]
    statements = [query.statement if query else f"SAVEPOINT {SAVEPOINT}" for query in sent]
    parameters = [value for query in queries for value in query.parameters]
    found: dict[Query, list[Any]] = {}
    with connection.cursor() as cursor:
        try:
            # Each begins a line: one may end in a comment.
            cursor.execute("\n; ".join([*statements, f"RELEASE SAVEPOINT {SAVEPOINT}"]), parameters)
        except BaseException:
            _roll_back(connection)
            raise
        for query in sent:
            if query:
                found[query] = cursor.fetchall()
            cursor.nextset()
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


def _united(connection: BaseDatabaseWrapper, queries: Sequence[Query]) -> list[list[Any]]:
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
    found: dict[Query, list[Any]] = {query: [] for query in queries}
    starts = dict(zip(asked, accumulate((query.width for query in asked.values()), initial=0), strict=False))
    with connection.cursor() as cursor:
        parameters = [value for query in asked.values() for value in query.parameters]
        cursor.execute(f"WITH {written} {' UNION ALL '.join(united)}", parameters)
        for name, *row in cursor.fetchall():
            found[asked[name]].append(row[starts[name] : starts[name] + asked[name].width])
    return [query.objects(found[query]) for query in queries]
