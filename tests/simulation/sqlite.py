"""SQLite for the simulation: a file in memory, with one writer. Who would wait for it, waits in simulated time."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import OperationalError, connections

from tests.simulation.clocks import Clocks
from tests.simulation.world import Task, World

BUSY_SECONDS = 30.0  # what the example project gives a transaction to wait for the writer

# SQLSTATEs of PostgreSQL, as what SQLite says of the same trouble.
MESSAGES = {"57014": "interrupted", "40P01": "database is locked", "40001": "database is locked"}


class SQLite:
    vendor = "sqlite"

    def __init__(self) -> None:
        """Takes the default database, which is migrated, as the template of each seed."""
        self._file = Path(connections["default"].settings_dict["NAME"])
        self._template = self._file.with_suffix(".template")
        with connections["default"].cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(self._template)])
        connections["default"].close()
        connections["default"].settings_dict["OPTIONS"]["timeout"] = 0
        self._waiting: list[Task] = []
        self._cut = set[Any]()
        """Connections that were cut in a transaction. The rest of it fails: Django opens no other one until its end."""
        self._world: World
        self._outside: sqlite3.Connection | None = None

    def own(self, number: int) -> None:
        """Use a file of this process."""
        self._file = self._file.with_name(f"{number}.sqlite3")
        connections.settings["default"]["NAME"] = str(self._file)
        connections["default"].settings_dict["NAME"] = str(self._file)

    def begin(self, world: World, clocks: Clocks) -> list[Any]:
        if self._outside:
            self._outside.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        shutil.copy(self._template, self._file)
        self._world, self._waiting, self._cut = world, [], set()
        self._outside = sqlite3.connect(self._file, isolation_level=None)
        self._outside.execute("PRAGMA journal_mode=WAL")
        return []

    def execute(self, task: Task, connection: Any, execute: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        end = self._world.now + BUSY_SECONDS
        if connection in self._cut and connection.in_atomic_block:
            raise OperationalError("the connection is closed")
        self._cut.discard(connection)
        while True:
            before = connection.errors_occurred
            try:
                return execute(*arguments)
            except OperationalError as error:
                if "locked" not in str(error) or self._world.now >= end:
                    raise
                connection.errors_occurred = before
            self._world.log("waits for the writer")
            self._waiting.append(task)
            self._world.sleep(end - self._world.now)
            if task in self._waiting:
                self._waiting.remove(task)

    def ended(self, connection: Any) -> None:
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._world.wake(task)

    def cut(self, connection: Any, is_dead: bool = False) -> None:
        connection.connection.rollback()
        if is_dead:
            connection.connection.close()
        else:
            self._cut.add(connection)
        self.ended(connection)

    def refuse(self, connection: Any, code: str, execute: Callable[..., Any], context: Any) -> Any:
        raise OperationalError(MESSAGES.get(code, "disk I/O error"))

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        assert self._outside is not None
        return self._outside.execute(statement).fetchall()
