"""Two transactions at once, each in its own thread with its own connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connection, connections

from tests.support.waiting import PATIENCE, until

T = TypeVar("T")


class Beside:
    """Runs ``work`` in another thread. Its errors are raised by ``join``."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self._error = error
        finally:
            connections.close_all()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float = 20) -> Any:
        self._thread.join(seconds := seconds * PATIENCE)
        assert not self._thread.is_alive(), f"still not done after {seconds:g} s"
        if self._error:
            raise self._error
        return self.result

    def wait_until_blocked_or_done(self) -> None:
        """PostgreSQL: until the other thread waits for a lock, or has ended."""
        until(lambda: not self.is_running or _someone_waits_for_a_lock(), 10, "the other transaction to block or end")


def aside(work: Callable[[], T]) -> T:
    """Do ``work`` in another thread: where this one has an event loop, Django refuses to use a database."""
    done: T = Beside(work).join()
    return done


def _someone_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        # Not pg_stat_activity, which shows the same all through a transaction.
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        return bool(cursor.fetchone()[0])
