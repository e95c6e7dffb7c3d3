"""Gathers the changes of a batch, without those that were rolled back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.capture.changes import Batch
from webhooks.capture.scopes import Scope, drop


@contextmanager
def batching(scope: Scope) -> Iterator[Batch | None]:
    """Gather the scope's changes in this block. Gives None inside another batch, which then gathers them."""
    if scope.batch:
        yield None
        return
    scope.batch = Batch()
    try:
        with scope.connection.execute_wrapper(_Savepoints(scope.connection)):
            yield scope.batch
    finally:
        scope.batch = None


class _Savepoints:
    """Drops what was gathered in savepoints that are rolled back: Django does not for those that are made by hand. No
    row of an Event is rolled back with them as yet, by which one could tell."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._begun: dict[str, int] = {}

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        done = execute(sql, params, many, context)
        if isinstance(sql, str) and "SAVEPOINT" in sql[:21]:
            self._hear(*sql.rsplit(maxsplit=1))
        return done

    def _hear(self, what: str, name: str) -> None:
        if what == "SAVEPOINT":
            self._begun[name] = len(self._connection.run_on_commit)
        elif what == "ROLLBACK TO SAVEPOINT" and name in self._begun:
            drop(self._connection.run_on_commit, self._begun[name])
        elif what == "RELEASE SAVEPOINT":
            self._begun.pop(name, None)
