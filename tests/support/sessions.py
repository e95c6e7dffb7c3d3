"""Another session of PostgreSQL, such as a report or a backup."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from tests.support.threads import Beside
from tests.support.waiting import PATIENCE
from webhooks.db import execute


@contextmanager
def session(statement: str, isolation: str = "REPEATABLE READ") -> Iterator[int]:
    """Another session, with an open transaction that has run a statement. Gives its process id."""
    pids, ready, done = list[int](), threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            execute("default", f"SET TRANSACTION ISOLATION LEVEL {isolation}; SET LOCAL application_name = 'report'")
            execute("default", statement)
            pids.append(connection.connection.info.backend_pid)
            ready.set()
            assert done.wait(30 * PATIENCE)

    other = Beside(hold)
    try:
        assert ready.wait(30 * PATIENCE)
        yield pids[0]
    finally:
        done.set()
        other.join()
