"""The connections of simulated processes. Statements and commits are steps, and the database has faults."""

from __future__ import annotations

import copy
import importlib
import threading
from collections.abc import Callable
from typing import Any, Protocol
from unittest.mock import patch

from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from tests.simulation.clocks import Clocks
from tests.simulation.world import Process, Task, World
from webhooks.delivery import claims, dispatch, known_webhooks, large_events

# What a process keeps in memory between transactions: variables of modules, as they are when a process begins.
MEMORY: list[tuple[Any, str]] = [
    (known_webhooks, "_known"),
    (importlib.import_module("webhooks.capture.subscriptions"), "_cached"),
    (importlib.import_module("webhooks.capture.subscriptions"), "_paused_until"),
    (importlib.import_module("webhooks.capture.events"), "_missed"),
    (importlib.import_module("webhooks.capture.transaction"), "_local"),
    *((query, "_built") for query in (claims._events_to_send, large_events._texts, dispatch._events_to_dispatch)),
    *((query, "_built") for query in (known_webhooks._rows, known_webhooks._versions)),
]


class Server(Protocol):
    """A database server, or file, for one seed after the other."""

    vendor: str

    def begin(self, world: World, clocks: Clocks) -> list[Any]:
        """Empty the database. Returns patches."""

    def execute(self, task: Task, connection: Any, execute: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Execute a statement of a process."""

    def ended(self, connection: Any) -> None:
        """A transaction has ended: others may wait for its locks."""

    def cut(self, connection: Any, is_dead: bool = False) -> None:
        """Cut the connection of a process that goes on, or is dead. The server rolls its transaction back."""

    def refuse(self, connection: Any, code: str, execute: Callable[..., Any], context: Any) -> Any:
        """Let a statement fail with this code."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database what is committed, outside of all processes."""


class _OfProcess:
    """In place of Django's connections of a thread: those of the running process."""

    def __init__(self, world: World) -> None:
        vars(self)["world"], vars(self)["of_hub"] = world, {}

    def _all(self) -> dict[str, Any]:
        task = self.world.current
        return task.process.connections if task else self.of_hub

    def __getattr__(self, alias: str) -> Any:
        try:
            return self._all()[alias]
        except KeyError:
            raise AttributeError(alias) from None

    def __setattr__(self, alias: str, connection: Any) -> None:
        self._all()[alias] = connection

    def __delattr__(self, alias: str) -> None:
        del self._all()[alias]


class Databases:
    """The seam between Django and one world."""

    def __init__(self, world: World, server: Server, clocks: Clocks) -> None:
        self.world, self.server, self.clocks = world, server, clocks
        self.on_commit: Callable[[Process], None] = lambda process: None
        """Called after each commit of a process that wrote, outside of it."""
        world.on_switch = self._exchange_memory

    def installed(self) -> list[Any]:
        """Patches that let the processes of the world use the database."""
        connection_created.disconnect(dispatch_uid="simulation")  # that of an earlier world
        connection_created.connect(self._join, dispatch_uid="simulation")
        return [
            patch.object(connections, "_connections", _OfProcess(self.world)),
            patch.object(BaseDatabaseWrapper, "_commit", self._commit_of(BaseDatabaseWrapper._commit)),
            patch.object(BaseDatabaseWrapper, "_rollback", self._rollback_of(BaseDatabaseWrapper._rollback)),
            *self.server.begin(self.world, self.clocks),
        ]

    def kill(self, process: Process) -> None:
        """End a process, and let the server notice it. Its own code does not go on."""
        self.world.log(f"{process.name} is killed")
        own = self.world.current is not None and self.world.current.process is process
        self.world.kill(process)
        for connection in process.connections.values():
            if connection.connection is not None:
                self.server.cut(connection, is_dead=True)
        if own:
            self.world.vanish()

    # Faults for a ``Trap``

    def cut_before(self, task: Task, what: Any) -> Any:
        return self._cut_now

    def answer_lost(self, task: Task, what: Any) -> Any:
        return self._cut_after

    def refused(self, code: str) -> Callable[[Task, Any], Any]:
        """A statement fails with this SQLSTATE."""
        return lambda task, what: code

    def _cut_now(self, connection: Any, act: Callable[[], Any]) -> Any:
        self.world.log("the connection is cut")
        self.server.cut(connection)
        raise OperationalError("server closed the connection unexpectedly")

    def _cut_after(self, connection: Any, act: Callable[[], Any]) -> Any:
        act()
        self.world.log("the connection is cut before the answer")
        self.server.cut(connection)
        raise OperationalError("server closed the connection unexpectedly")

    def _join(self, connection: Any, **kwargs: Any) -> None:
        if self._step not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._step)

    def _step(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        task, connection = self.world.current, context["connection"]
        if task is None:
            return execute(sql, params, many, context)
        fault = self.world.step(sql)

        def act() -> Any:
            return self.server.execute(task, connection, execute, (sql, params, many, context))

        try:
            if isinstance(fault, str):
                self.world.log(f"is refused: {fault}")
                return self.server.refuse(connection, fault, execute, context)
            return fault(connection, act) if fault else act()
        except Exception:
            self.server.ended(connection)  # PostgreSQL frees the locks of a failed transaction at once
            raise
        finally:
            if not connection.in_atomic_block and not sql.lstrip().startswith("SELECT"):
                self.server.ended(connection)
                self.on_commit(task.process)

    def _commit_of(self, commit: Any) -> Any:
        def step(connection: Any) -> Any:
            task = self.world.current
            if task is None or connection.connection is None:
                return commit(connection)
            fault = self.world.step("COMMIT", is_commit=True)
            if connection.connection is None:
                return None
            try:
                return fault(connection, lambda: commit(connection)) if callable(fault) else commit(connection)
            finally:
                self.server.ended(connection)
                self.on_commit(task.process)

        return step

    def _rollback_of(self, rollback: Any) -> Any:
        def step(connection: Any) -> Any:
            if self.world.current is None or connection.connection is None:
                return rollback(connection)
            self.world.step("ROLLBACK")
            try:
                return rollback(connection)
            finally:
                self.server.ended(connection)

        return step

    def _exchange_memory(self, before: Process, after: Process) -> None:
        for owner, name in MEMORY:
            key = id(owner), name
            before.memory[key] = getattr(owner, name)
            setattr(owner, name, after.memory[key] if key in after.memory else _new(_INITIAL[key]))


def _new(value: Any) -> Any:
    return threading.local() if isinstance(value, threading.local) else copy.copy(value)


_INITIAL = {(id(owner), name): _new(getattr(owner, name)) for owner, name in MEMORY}
