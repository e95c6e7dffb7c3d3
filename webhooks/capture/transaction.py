"""What one transaction has done so far.

A ``Scope`` lives among the transaction's own ``on_commit`` callbacks. A rollback to a savepoint takes back what the
scope remembers of it. SQL in a cursor may roll back unseen, so the memory is only a hint, and the rows decide.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.capture import subscriptions, unrecorded
from webhooks.capture.changes import Announced, Batch, Change, ObjectState, Pending
from webhooks.capture.errors import Sparing
from webhooks.capture.matching import Budget
from webhooks.capture.savepoints import SavepointLog
from webhooks.capture.subscriptions import Subscriptions
from webhooks.models import Action, Event
from webhooks.payloads.snapshots import PreviousState

# What names an object: its label and its key as text.
Key = tuple[str, str]

V = TypeVar("V")


@dataclass
class Trace:
    """What one transaction did to one object: whether it was there before, and the Events recorded for it.
    ``undecided_ids`` are Events for webhooks that may or may not want it."""

    existed: bool
    event_ids: list[int] = field(default_factory=list)
    undecided_ids: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Scope:
    """Django calls it when the transaction commits; ``wake`` is called then if there are Events."""

    connection: BaseDatabaseWrapper
    wanted: Subscriptions
    wake: Callable[[], None]
    batch: Batch | None = None
    has_events: bool = False
    is_outdated: bool = False
    _traces: dict[Key, Trace] = field(default_factory=dict)
    _previous: dict[Key, PreviousState] = field(default_factory=dict)
    _position: int = 0

    def __post_init__(self) -> None:
        self._log = SavepointLog(self.connection)

    def __call__(self) -> None:
        if self.has_events:
            self.wake()

    def register(self) -> None:
        """Add this scope to the callbacks of the transaction."""
        callbacks: list[Any] = self.connection.run_on_commit
        self._position = len(callbacks)
        callbacks.append((self._log, self, True))

    @property
    def is_open(self) -> bool:
        """Whether Django has neither called nor dropped it yet."""
        callbacks = self.connection.run_on_commit
        if self._position < len(callbacks) and callbacks[self._position][1] is self:
            return True
        places = [place for place, callback in enumerate(callbacks) if callback[1] is self]
        self._position = places[0] if places else 0
        return bool(places)

    @cached_property
    def budget(self) -> Budget:
        return Budget()

    @property
    def using(self) -> str:
        return self.connection.alias

    def trace(self, change: Change) -> Trace:
        trace = self.traced(change.key)
        if trace is None:
            trace = Trace(change.action != Action.CREATED)
            self._remember(self._traces, change.key, trace)
        return trace

    def traced(self, key: Key) -> Trace | None:
        """What the transaction did to an object so far; None if nothing, or nothing that was not rolled back."""
        return self._traces.get(key)

    def keep(self, key: Key, state: PreviousState) -> None:
        """Remember what an object was before the first change of the transaction."""
        self._remember(self._previous, key, state)

    def previous(self, key: Key) -> PreviousState | None:
        """Return what ``keep`` was given for an object. A rollback releases the lock of a row, so it drops that too."""
        return self._previous.get(key)

    def _remember(self, known: dict[Key, V], key: Key, value: V) -> None:
        earlier = known.get(key)
        known[key] = value
        self._log.note(lambda: known.pop(key) if earlier is None else known.update({key: earlier}))

    def postpone(self, batch: Batch, change: Change, state: ObjectState | None) -> None:
        """Leave a change to the end of the batch."""
        self._gather(batch, Pending(change, state))

    def announce(self, batch: Batch, event: Event) -> None:
        """Leave an Event of no change to the end of the batch, so that it keeps its place among the changes."""
        self._gather(batch, Announced(event))

    def _gather(self, batch: Batch, entry: Pending | Announced) -> None:
        batch.entries.append(entry)
        self._log.note(batch.entries.pop)

    def outdate(self) -> None:
        """Look the subscriptions up again: a webhook was edited. And once more if the edit is rolled back."""
        self._outdate()
        self._log.note(self._outdate)

    def _outdate(self) -> None:
        self.is_outdated = True


# The latest scope of each database, by its alias; only the transaction keeps it alive. Connections are each thread's
# own, too; to ask Django for one takes longer than all the rest of what a row that nobody wants costs, and a deletion
# may cascade to thousands.
_here = threading.local()


def in_transaction(using: str) -> bool:
    """Whether a transaction is open that Django ends. One that is managed by hand counts as none: Django does not say
    when it ends."""
    return _is_ended_by_django(connections[using])


def _is_ended_by_django(connection: BaseDatabaseWrapper) -> bool:
    return bool(connection.in_atomic_block and connection.commit_on_exit)


def existing(using: str) -> Scope | None:
    """The scope of the transaction that is open on this thread's connection, if it has one."""
    kept: weakref.ref[Scope] | None = _here.__dict__.get(using)
    scope = kept() if kept else None
    if scope is None or not _is_ended_by_django(scope.connection) or not scope.is_open:
        return None
    if scope.is_outdated:
        scope.is_outdated = False
        with Sparing(using, "An edit of a webhook may count only from the next transaction on"):
            scope.wanted = subscriptions.current(using)
    return scope


def go_on_with(using: str, scope: Scope | None) -> None:
    """Make this the scope of the transaction that is open on this thread's connection."""
    _here.__dict__[using] = weakref.ref(scope) if scope else None


def open_scope(using: str, wake: Callable[[], None], wanted: Subscriptions | None = None) -> Scope:
    """The scope of the transaction that is open on this connection, made at its first change."""
    scope = existing(using)
    if scope is None:
        connection = connections[using]
        scope = Scope(connection, wanted or subscriptions.current(using), wake)
        if in_transaction(using):
            scope.register()
            go_on_with(using, scope)
        elif all(callback[1] is not wake for callback in connection.run_on_commit):
            connection.on_commit(wake, robust=True)
        unrecorded.write_on_commit(scope.wanted, using)
    return scope


def forget_subscriptions(using: str) -> None:
    """Look the subscriptions up again, since a webhook was changed in the transaction that is open."""
    scope = existing(using)
    if scope:
        scope.outdate()
