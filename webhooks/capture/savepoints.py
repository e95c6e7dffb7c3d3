"""Forget what a transaction did inside a savepoint, when Django rolls back to that savepoint."""

from __future__ import annotations

from collections.abc import Callable

from django.db.backends.base.base import BaseDatabaseWrapper


class SavepointLog:
    """Undo, at a rollback, each step that was noted inside the savepoint.

    Django keeps the ids of the open savepoints with each ``on_commit`` callback, and drops the callback at a rollback
    if ``sid in ids``. This log takes the place of those ids. They leave out what ``transaction.savepoint()`` opens;
    the log does not. A ``sid`` ends in a number that rises with every savepoint of the connection, so each step with
    that number or a higher one was inside the savepoint.

    It cannot see a rollback by SQL in a cursor.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._begun_at = connection.savepoint_state
        self._steps: list[tuple[int, Callable[[], object]]] = []

    def note(self, undo: Callable[[], object]) -> None:
        """Remember a step, and how to undo it."""
        self._steps.append((self._connection.savepoint_state, undo))

    def __contains__(self, sid: str) -> bool:
        """Undo the steps inside this savepoint. Returns whether the log was begun inside it."""
        number = sid.rpartition("_x")[2]
        if not number.isdecimal():
            return False  # not one of Django's
        while self._steps and self._steps[-1][0] >= int(number):
            _, undo = self._steps.pop()
            undo()
        return self._begun_at >= int(number)
