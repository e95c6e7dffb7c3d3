"""What one transaction has seen so far.

A ``Scope`` lives in the transaction's own list of on_commit callbacks: Django drops it with a rollback, of a
savepoint too. It may remember more than there is, for Django does not know of ``transaction.savepoint()``: so
it is only a hint, and the rows decide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.capture import subscriptions
from webhooks.capture.subscriptions import Subscriptions
from webhooks.models import Action, Event
from webhooks.registration import Registration
from webhooks.snapshots import Before


@dataclass(frozen=True)
class Change:
    """One signalled change. ``lock`` is set where the change itself did not lock the object's row."""

    registration: Registration
    pk: Any
    action: Action
    lock: bool = False

    @property
    def label(self) -> str:
        return self.registration.label

    @property
    def key(self) -> tuple[str, str]:
        """What names the object."""
        return self.label, str(self.pk)

    def __str__(self) -> str:
        return f"{self.label} {self.pk} {self.action}"


@dataclass
class Trace:
    """What one transaction did to one object: whether it was there before, the Events recorded for it, and those
    for the webhooks of which it could not be told whether they want it."""

    existed: bool
    event_ids: list[int] = field(default_factory=list)
    undecided_ids: list[int] = field(default_factory=list)


# What its name is, what each serializer shows of it, and what went wrong; empty for an object that is gone.
ObjectState = dict[str, Any]


@dataclass
class Batch:
    """The changes that are to be recorded together. ``prepared`` holds objects that are about to be deleted."""

    prepared: dict[tuple[str, str], ObjectState] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """A change of a batch, with the object's state where nobody can read it later. It is an on_commit callback
    that does nothing, so that a rollback drops it."""

    batch: Batch
    change: Change
    state: ObjectState | None

    def __call__(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class Announced:
    """An Event of no change in a batch, written already; it is an on_commit callback like ``Pending``."""

    batch: Batch
    event: Event

    def __call__(self) -> None:
        pass


@dataclass
class Scope:
    """Django calls it when the transaction commits; ``wake`` is called then if there are Events."""

    connection: BaseDatabaseWrapper
    wanted: Subscriptions
    wake: Callable[[], None]
    traces: dict[tuple[str, str], Trace] = field(default_factory=dict)
    befores: dict[tuple[str, str], list[Before]] = field(default_factory=dict)
    batch: Batch | None = None
    has_events: bool = False
    position: int = 0
    edited_in: list[Any] | None = None
    _callbacks: list[Any] | None = None

    def __call__(self) -> None:
        if self.has_events:
            self.wake()

    @property
    def using(self) -> str:
        return self.connection.alias

    def trace(self, change: Change) -> Trace:
        return self.traces.setdefault(change.key, Trace(existed=change.action != Action.CREATED))

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

    @property
    def is_open(self) -> bool:
        callbacks = self.connection.run_on_commit
        if self.position < len(callbacks) and callbacks[self.position][1] is self:
            return True
        places = [place for place, callback in enumerate(callbacks) if callback[1] is self]
        self.position = places[0] if places else 0
        return bool(places)


# The latest scope of each database, by its alias. Connections are each thread's own, too; to ask Django for one takes
# longer than all the rest of what a row that nobody wants costs, and a deletion may cascade to thousands.
_here = threading.local()


def existing(using: str) -> Scope | None:
    """The scope of the transaction that is open on this thread's connection, if it has one. Transactions that are
    managed by hand have none: Django does not tell when they end."""
    scope: Scope | None = _here.__dict__.get(using)
    if scope is None or not scope.connection.in_atomic_block or not scope.is_open:
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
        scope = Scope(connection, wanted or subscriptions.current(using), wake, position=len(connection.run_on_commit))
        transaction.on_commit(scope, using=using, robust=True)
        go_on_with(using, scope)
    return scope


def forget_subscriptions(using: str) -> None:
    """Look the subscriptions up again, since a webhook was changed in the transaction that is open."""
    scope = existing(using)
    if scope:
        _look_again(scope)


def _look_again(scope: Scope) -> None:
    """And once more after a rollback, which may have undone the change; Django makes a new list of callbacks then."""
    scope.wanted, scope.edited_in = subscriptions.readable(scope.using), scope.connection.run_on_commit


@contextmanager
def batching(scope: Scope) -> Iterator[Batch | None]:
    """Gather the scope's changes in this block. Gives None inside another batch, which then gathers them."""
    if scope.batch:
        yield None
        return
    scope.batch = Batch()
    try:
        yield scope.batch
    finally:
        scope.batch = None
