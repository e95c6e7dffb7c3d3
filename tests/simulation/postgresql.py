"""PostgreSQL for the simulation: a real server with simulated time. Who waits for a lock gives way to the others.

The clock is a file that functions of the schema ``public`` read, in place of PostgreSQL's own. Limits of time are
settings that the server does not know: the simulation cancels what would have been over.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from django.db import OperationalError, connections
from psycopg.waiting import Ready, Wait

from tests.simulation.clocks import Clocks
from tests.simulation.world import Task, World

# Seconds of the wall clock for the server to answer before it is asked whether a statement waits for a lock. It looks
# for deadlocks after a millisecond.
PATIENCE = 0.003
CLOCK_FUNCTIONS = ("statement_timestamp", "clock_timestamp", "transaction_timestamp", "now")
LIMITS = re.compile(r"\b(lock_timeout|statement_timeout|idle_in_transaction_session_timeout)\b")
LIMIT_SET = re.compile(r"set_config\('sim\.(\w+)', (%s|'(\d+)(?:ms)?'|\()|SET LOCAL sim\.(\w+) = '(\d+)ms'")

CODES = {
    "57014": "canceling statement due to statement timeout",
    "40P01": "deadlock detected",
    "40001": "could not serialize access due to concurrent update",
    "55P03": "canceling statement due to lock timeout",
}

_monotonic = time.monotonic


class PostgreSQL:
    vendor = "postgresql"

    def __init__(self, directory: Path) -> None:
        """Takes the default database, which was prepared and migrated. ``directory`` has the file of the clock."""
        self._clock_file = os.open(directory / "now", os.O_RDWR)
        self._outside: Any = None
        self._tables: list[str] = []
        self._world: World
        self._clocks: Clocks
        self._waiting: dict[Task, Any] = {}
        self._limits: dict[int, dict[str, float]] = {}
        self._expired: set[Task] = set()

    def own(self, number: int) -> None:
        """Use a connection of this process."""
        self._outside = None

    def begin(self, world: World, clocks: Clocks) -> list[Any]:
        self._world, self._clocks = world, clocks
        self._waiting, self._limits, self._expired = {}, {}, set()
        if self._outside is None:
            self._outside = psycopg.connect(**_parameters(), autocommit=True)
            self._tables = [name for (name,) in self.query(_TABLES)]
        self._tell_time()
        self.query(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        used = [name for name in self._tables if self._is_used(name)]
        if used:
            self._outside.execute(f"TRUNCATE {', '.join(used)} RESTART IDENTITY CASCADE")
        return [patch.object(psycopg.Connection, "wait", self._wait_of(psycopg.Connection.wait))]

    def execute(self, task: Task, connection: Any, execute: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        statement, params, many, context = arguments
        self._tell_time()
        if LIMITS.search(statement):
            statement = LIMITS.sub(r"sim.\1", statement)
            self._note_limits(connection, statement, params)
        try:
            return execute(statement, params, many, context)
        except OperationalError as error:
            if task in self._expired and getattr(error.__cause__, "sqlstate", "") == "57014":
                self._expired.discard(task)
                raise OperationalError(*error.args) from psycopg.errors.LockNotAvailable(*error.args)
            raise

    def ended(self, connection: Any) -> None:
        """Let those go on that have waited for a lock of this connection."""
        if not connection.in_atomic_block:
            self._limits.pop(id(connection), None)
        for task, driver in list(self._waiting.items()):
            if self._is_answered(driver):
                self._world.wake(task)

    def cut(self, connection: Any, is_dead: bool = False) -> None:
        pid = connection.connection.info.backend_pid
        connection.connection.pgconn.finish()
        self._outside.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        self.ended(connection)

    def refuse(self, connection: Any, code: str, execute: Callable[..., Any], context: Any) -> Any:
        statement = f"DO $$ BEGIN RAISE EXCEPTION '{CODES[code]}' USING ERRCODE = '{code}'; END $$"
        return execute(statement, None, False, context)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self._outside.execute(statement)
        return cursor.fetchall() if cursor.description else []

    def _is_used(self, table: str) -> bool:
        return bool(self.query(f"SELECT 1 FROM {table} LIMIT 1"))

    def _tell_time(self) -> None:
        os.pwrite(self._clock_file, f"{self._clocks.database():020.6f}".encode(), 0)

    def _note_limits(self, connection: Any, statement: str, params: Any) -> None:
        """Remember the limits that a transaction sets, in seconds."""
        limits = self._limits.setdefault(id(connection), {})
        for found in LIMIT_SET.finditer(statement):
            name, value = found[1] or found[4], found[3] or found[5]
            if found[2] == "%s":
                value = params[statement[: found.start(2)].count("%s")]
            if str(value or "").isdigit():
                limits[name] = int(value) / 1000

    def _wait_of(self, wait: Any) -> Any:
        def wait_or_give_way(driver: Any, generator: Any, *arguments: Any, **options: Any) -> Any:
            task = self._world.current
            if task is None or driver is self._outside:
                return wait(driver, generator, *arguments, **options)
            try:
                wanted = next(generator)
                while True:
                    ready = _poll(driver.pgconn.socket, wanted, PATIENCE)
                    if not ready and not self._is_answered(driver):
                        self._wait_for_lock(task, driver)
                    wanted = generator.send(ready) if ready else wanted
            except StopIteration as end:
                return end.value

        return wait_or_give_way

    def _wait_for_lock(self, task: Task, driver: Any) -> None:
        connection = task.process.connections["default"]
        limits = self._limits.get(id(connection), {})
        limited = {name: seconds for name, seconds in limits.items() if name != "idle_in_transaction_session_timeout"}
        name, seconds = min(limited.items(), key=lambda one: one[1] or 1e9, default=("", 0.0))
        end = self._world.now + (seconds or 1e9)
        self._world.log("waits for a lock")
        self._waiting[task] = driver
        self._world.sleep(end - self._world.now)
        del self._waiting[task]
        if self._world.now >= end:
            self._world.log(f"the {name} is over")
            if name == "lock_timeout":
                self._expired.add(task)
            self._outside.execute("SELECT pg_cancel_backend(%s)", [driver.info.backend_pid])

    def _is_answered(self, driver: Any) -> bool:
        """Wait until the server has answered this connection, or until it waits for a lock. Returns which."""
        pid = driver.info.backend_pid
        while True:
            if _poll(driver.pgconn.socket, Wait.R, PATIENCE):
                return True
            if self._outside.execute("SELECT pg_blocking_pids(%s)", [pid]).fetchone()[0]:
                return bool(_poll(driver.pgconn.socket, Wait.R, PATIENCE))  # perhaps a deadlock was found


def prepare(directory: Path) -> None:
    """Let a new database have simulated time: call it before the migrations."""
    file = directory / "now"
    file.write_text("1900000000.000000")
    read = f"SELECT pg_catalog.to_timestamp(pg_catalog.pg_read_file('{file}')::pg_catalog.float8)"
    with connections["default"].cursor() as cursor:
        for name in CLOCK_FUNCTIONS:
            cursor.execute(
                f"CREATE OR REPLACE FUNCTION public.{name}() RETURNS timestamptz LANGUAGE sql STABLE AS $${read}$$"
            )
        name = connections["default"].settings_dict["NAME"]
        cursor.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
        cursor.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '1ms'")
    connections["default"].close()


_TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
        AND relname NOT IN ('django_migrations', 'django_content_type', 'auth_permission')
"""


def _poll(descriptor: int, wanted: Wait, seconds: float) -> Ready:
    """Which of the wanted ends of a socket is ready, within seconds of the wall clock."""
    poll = select.poll()
    poll.register(descriptor, (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0))
    ready = 0
    for _, event in poll.poll(seconds * 1000):
        ready |= Ready.R if event & ~select.POLLOUT else 0
        ready |= Ready.W if event & select.POLLOUT else 0
    return Ready(ready) if ready else ready  # type: ignore[return-value]


def _parameters() -> dict[str, Any]:
    given = connections["default"].settings_dict
    parameters = {"host": given["HOST"] or given["OPTIONS"].get("host"), "user": given["USER"], "dbname": given["NAME"]}
    return {**parameters, "password": given["PASSWORD"], "port": given["PORT"] or None}
