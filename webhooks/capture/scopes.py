"""What one transaction has seen so far.

A ``Scope`` lives in the transaction's own list of on_commit callbacks: Django drops it with a rollback, of a
savepoint too. It may remember more than there is, for Django does not know of ``transaction.savepoint()``: so
it is only a hint, and the rows decide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.capture import subscriptions
from webhooks.capture.changes import Announced, Batch, Change, ObjectState, Pending
from webhooks.capture.subscriptions import Subscriptions
from webhooks.models import Action, Event
from webhooks.snapshots import Before


@dataclass(eq=False)
class Mark:
    """An on_commit callback that is open until Django drops it: because the savepoint was rolled back in which it was
    registered, or the transaction ended."""

    connection: BaseDatabaseWrapper
    position: int = field(init=False)
    savepoints: list[str | None] = field(init=False)

    def __call__(self) -> None:
        pass

    def register(self) -> Self:
        self.position, self.savepoints = len(self.connection.run_on_commit), [*self.connection.savepoint_ids]
        self.connection.on_commit(self, robust=True)
        return self

    @property
    def is_open(self) -> bool:
        callbacks = self.connection.run_on_commit
        if self.position < len(callbacks) and callbacks[self.position][1] is self:
            return True
        places = [place for place, callback in enumerate(callbacks) if callback[1] is self]
        self.position = places[0] if places else 0
        return bool(places)


@dataclass
class Trace:
    """What one transaction did to one object: whether it was there before, the Events recorded for it, and those
    for the webhooks of which it could not be told whether they want it. Nothing, once ``mark`` is not open any more."""

    existed: bool
    mark: Mark
    event_ids: list[int] = field(default_factory=list)
    undecided_ids: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Scope(Mark):
    """Django calls it when the transaction commits; ``wake`` is called then if there are Events. ``block`` is set in a
    transaction that is managed by hand."""

    wanted: Subscriptions
    wake: Callable[[], None]
    traces: dict[tuple[str, str], Trace] = field(default_factory=dict)
    befores: dict[tuple[str, str], list[Before]] = field(default_factory=dict)
    batch: Batch | None = None
    has_events: bool = False
    block: tuple[Any, ...] | None = None
    edited_in: list[Any] | None = None
    _last_mark: Mark | None = None
    _callbacks: list[Any] | None = None

    def __call__(self) -> None:
        if self.has_events:
            self.wake()

    @property
    def using(self) -> str:
        return self.connection.alias

    def trace(self, change: Change) -> Trace:
        trace = self.traced(change.key)
        if trace is None:
            trace = self.traces[change.key] = Trace(change.action != Action.CREATED, self._mark())
        return trace

    def traced(self, key: tuple[str, str]) -> Trace | None:
        """What the transaction did to an object so far; None if nothing, or nothing that was not rolled back."""
        trace = self.traces.get(key)
        return trace if trace and trace.mark.is_open else None

    def _mark(self) -> Mark:
        """One that is dropped when what is done now is rolled back. All changes of a savepoint share it: Django takes
        long for many callbacks."""
        savepoints = self.connection.savepoint_ids
        if self.savepoints == savepoints:
            return self
        if not (self._last_mark and self._last_mark.savepoints == savepoints and self._last_mark.is_open):
            self._last_mark = Mark(self.connection).register()
        return self._last_mark

    def keep(self, key: tuple[str, str], before: Before) -> None:
        """Remember what an object was before the first change of the transaction."""
        transaction.on_commit(before, using=self.using, robust=True)
        self.befores.setdefault(key, []).append(before)

    def before(self, key: tuple[str, str]) -> Before | None:
        """What is remembered of an object; not what was read under a lock that a rollback has given back."""
        callbacks = self.connection.run_on_commit
        if callbacks is not self._callbacks:  # Django makes a new list of what is left after a rollback
            left = {id(registered[1]) for registered in callbacks}
            self.befores = {key: [one for one in kept if id(one) in left] for key, kept in self.befores.items()}
            self._callbacks = callbacks
        kept = self.befores.get(key)
        return kept[-1] if kept else None

    def postpone(self, batch: Batch, change: Change, state: ObjectState | None) -> None:
        """Leave a change to the end of the batch."""
        transaction.on_commit(Pending(batch, change, state), using=self.using, robust=True)

    def announce(self, batch: Batch, event: Event) -> None:
        """Leave an Event of no change to the end of the batch, so that it keeps its place among the changes."""
        transaction.on_commit(Announced(batch, event), using=self.using, robust=True)

    def pending(self, batch: Batch) -> list[Pending | Announced]:
        """What is left to the end of the batch and was not rolled back, in order: of each object the last change, and
        all that was announced."""
        last: dict[Any, Pending | Announced] = {}
        for registered in self.connection.run_on_commit:
            callback = registered[1]
            if isinstance(callback, Pending | Announced) and callback.batch is batch:
                key = callback.change.key if isinstance(callback, Pending) else callback
                last.pop(key, None)
                last[key] = callback
        return list(last.values())


# The latest scope of each database, by its alias. Connections are each thread's own, too; to ask Django for one takes
# longer than all the rest of what a row that nobody wants costs, and a deletion may cascade to thousands.
_here = threading.local()


def existing(using: str) -> Scope | None:
    """The scope of the transaction that is open on this thread's connection, if it has one. One that is managed by hand
    has one for each of its outermost blocks: Django does not tell when it ends, and keeps its callbacks."""
    scope: Scope | None = _here.__dict__.get(using)
    if scope is None or not scope.connection.in_atomic_block or not scope.is_open:
        return None
    if scope.block and scope.block != _block_by_hand(scope.connection):
        return None
    if scope.edited_in is not None and scope.edited_in is not scope.connection.run_on_commit:
        _look_again(scope)
    return scope


def go_on_with(using: str, scope: Scope | None) -> None:
    """Make this the scope of the transaction that is open on this thread's connection."""
    _here.__dict__[using] = scope


def open_scope(using: str, wake: Callable[[], None], wanted: Subscriptions | None = None) -> Scope:
    """The scope of the transaction that is open on this connection, made at its first change."""
    scope = existing(using)
    if scope is None:
        connection = connections[using]
        block = _block_by_hand(connection)
        if block:
            _clear_away(connection, wake)
        scope = Scope(connection, wanted or subscriptions.current(using), wake, block=block).register()
        go_on_with(using, scope)
    return scope


def _block_by_hand(connection: BaseDatabaseWrapper) -> tuple[Any, ...] | None:
    """What tells the outermost block from the others of a transaction that is managed by hand; None in any other."""
    if connection.commit_on_exit:
        return None
    # A block that is a decorator is the same at each call, and has a savepoint of its own each time.
    return connection.atomic_blocks[0], connection.savepoint_ids[0]


def _clear_away(connection: BaseDatabaseWrapper, wake: Callable[[], None]) -> None:
    """Drop what earlier blocks have registered, which Django would keep until autocommit is on again; all that there is
    to do then is to wake a worker, once."""
    callbacks: list[Any] = connection.run_on_commit
    has_events = any(isinstance(one, Scope) and one.has_events for _, one, _ in callbacks)
    drop(callbacks)
    if has_events and all(one is not wake for _, one, _ in callbacks):
        callbacks.append((set(), wake, True))


def drop(callbacks: list[Any], start: int = 0) -> None:
    """Drop what was registered here from a place in a transaction's callbacks on, and leave what others did."""
    ours = Mark | Before | Pending | Announced
    callbacks[start:] = [registered for registered in callbacks[start:] if not isinstance(registered[1], ours)]


def forget_subscriptions(using: str) -> None:
    """Look the subscriptions up again, since a webhook was changed in the transaction that is open."""
    scope = existing(using)
    if scope:
        _look_again(scope)


def _look_again(scope: Scope) -> None:
    """And once more after a rollback, which may have undone the change; Django makes a new list of callbacks then."""
    scope.wanted, scope.edited_in = subscriptions.readable(scope.using), scope.connection.run_on_commit
