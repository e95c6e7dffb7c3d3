"""Another session of PostgreSQL: a report, a backup, a migration, or a change that takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection


@contextmanager
def session(statement: str, isolation: str = "REPEATABLE READ") -> Iterator[int]:
    """Keep a transaction open in another session. It has run this statement, and keeps its locks and its snapshot.

    Gives the process id of the session.
    """
    other: Any = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute(f"BEGIN ISOLATION LEVEL {isolation}; SET LOCAL application_name = 'report'")
            cursor.execute(statement)
            yield other.connection.info.backend_pid
            cursor.execute("ROLLBACK")  # at its end the lock is free; after a close alone, only soon
    finally:
        other.close()
