"""What the open transaction did so far, and what its batch still has to record.

A ``TransactionState`` is one of the ``on_commit`` callbacks of its transaction. A rollback to a savepoint also rolls
back the state. It cannot see a rollback by SQL in a cursor. So the state is only a hint, and the rows decide.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.capture import errors, subscriptions
from webhooks.capture.matching import Budget
from webhooks.capture.subscriptions import Subscriptions
from webhooks.models import Action, Event
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration
from webhooks.workers import jobs

if TYPE_CHECKING:
    from webhooks.capture.serialize import SerializedObject

# The label of a model and a primary key as text.
Key = tuple[str, str]

V = TypeVar("V")


@dataclass(frozen=True)
class Change:
    """One change of one object. ``needs_lock``: the change itself did not lock the row."""

    registration: Registration
    pk: Any
    action: Action
    needs_lock: bool = False

    @cached_property
    def key(self) -> Key:
        return self.registration.label, str(self.pk)

    def __str__(self) -> str:
        return f"{' '.join(self.key)} {self.action}"


@dataclass(frozen=True)
class DeferredChange:
    """A change in a batch. A deleted object is serialized at once, because its row is gone at the end."""

    change: Change
    serialized: SerializedObject | None = None


@dataclass
class Batch:
    """Changes and custom events to record together at the end. ``deletions`` has objects that are about to be deleted,
    serialized together in advance."""

    entries: list[DeferredChange | Event] = field(default_factory=list)
    deletions: dict[Key, SerializedObject] = field(default_factory=dict)

    def latest(self) -> list[DeferredChange | Event]:
        """The last change of each object and all custom events, in order."""
        latest: dict[Any, DeferredChange | Event] = {}
        for entry in self.entries:
            key = entry.change.key if isinstance(entry, DeferredChange) else id(entry)
            latest.pop(key, None)
            latest[key] = entry
        return list(latest.values())


@dataclass
class ObjectHistory:
    """What one transaction did to one object: whether the object existed before, and the ids of its Events.
    ``failed_ids`` are Events for webhooks with conditions that failed."""

    existed: bool
    event_ids: list[int] = field(default_factory=list)
    failed_ids: list[int] = field(default_factory=list)


class SavepointLog:
    """Undo the steps inside a savepoint when Django rolls back to it.

    Django keeps the ids of the open savepoints with each ``on_commit`` callback. At a rollback it drops the callback
    ``if sid in ids``. This log takes the place of those ids. They do not include savepoints of
    ``transaction.savepoint()``, but the log does. A ``sid`` ends in a number that rises with each savepoint of the
    connection, so each step with this number or a higher one was inside the savepoint.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._begun_at = connection.savepoint_state
        self._steps: list[tuple[int, Callable[[], object]]] = []

    def note(self, undo: Callable[[], object]) -> None:
        """Remember how to undo a step."""
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


class TransactionState:
    """The state of one transaction. Django calls it at the commit; it then wakes a worker if there are Events."""

    def __init__(self, connection: BaseDatabaseWrapper, subscriptions: Subscriptions) -> None:
        self.connection = connection
        self.using = connection.alias
        self.subscriptions = subscriptions
        self.batch: Batch | None = None
        self.has_events = False
        self.is_outdated = False
        self._histories: dict[Key, ObjectHistory] = {}
        self._previous: dict[Key, PreviousState] = {}
        self._log = SavepointLog(connection)
        self._position = 0

    def __call__(self) -> None:
        if self.has_events:
            jobs.wake_up()

    def register(self) -> None:
        """Add it to the callbacks of the open transaction, and make it the current one."""
        callbacks: list[Any] = self.connection.run_on_commit
        self._position = len(callbacks)
        callbacks.append((self._log, self, True))
        if _is_managed(self.connection):
            set_current(self.using, self)
        errors.record_missed_on_commit(self.subscriptions, self.using)

    @property
    def is_open(self) -> bool:
        """Whether Django neither called it nor dropped it yet."""
        callbacks = self.connection.run_on_commit
        if self._position < len(callbacks) and callbacks[self._position][1] is self:
            return True
        positions = [position for position, callback in enumerate(callbacks) if callback[1] is self]
        self._position = positions[0] if positions else 0
        return bool(positions)

    @cached_property
    def budget(self) -> Budget:
        return Budget()

    def history(self, key: Key) -> ObjectHistory | None:
        """What the transaction did to an object; None if nothing, or if all of it was rolled back."""
        return self._histories.get(key)

    def begin_history(self, change: Change) -> ObjectHistory:
        """The history of an object, which begins with this change if there is none."""
        history = self._histories.get(change.key)
        if history is None:
            history = ObjectHistory(existed=change.action != Action.CREATED)
            self._remember(self._histories, change.key, history)
        return history

    def previous(self, key: Key) -> PreviousState | None:
        """The state of an object before the transaction. A rollback releases the row's lock, so it drops this too."""
        return self._previous.get(key)

    def set_previous(self, key: Key, previous: PreviousState) -> None:
        self._remember(self._previous, key, previous)

    def _remember(self, known: dict[Key, V], key: Key, value: V) -> None:
        earlier = known.get(key)
        known[key] = value
        self._log.note(lambda: known.pop(key) if earlier is None else known.update({key: earlier}))

    def defer(self, batch: Batch, entry: DeferredChange | Event) -> None:
        """Leave a change or a custom event to the end of the batch."""
        batch.entries.append(entry)
        self._log.note(batch.entries.pop)

    def forget_subscriptions(self) -> None:
        """Read the subscriptions again before the next use, and once more if this is rolled back."""
        self._outdate()
        self._log.note(self._outdate)

    def _outdate(self) -> None:
        self.is_outdated = True


# The latest state of each database, by its alias. Only the transaction keeps it alive. Connections belong to threads.
# ``connections[alias]`` takes longer than the rest of what a row without subscribers costs, and a deletion may cascade
# to thousands of rows. So ``current`` avoids it.
_local = threading.local()


def _is_managed(connection: BaseDatabaseWrapper) -> bool:
    # After set_autocommit(False), Django does not say when a transaction ends. Each change is then recorded by itself.
    return bool(connection.in_atomic_block and connection.commit_on_exit)


def in_transaction(using: str) -> bool:
    """Whether a transaction is open that Django ends."""
    return _is_managed(connections[using])


def current(using: str) -> TransactionState | None:
    """The state of the transaction that is open in this thread. None if there is none, or if nothing changed yet."""
    reference: weakref.ref[TransactionState] | None = _local.__dict__.get(using)
    state = reference() if reference else None
    if state is None or not _is_managed(state.connection) or not state.is_open:
        return None
    if state.is_outdated:
        state.is_outdated = False
        with errors.log_errors(using, "An edit of a webhook may take effect only in the next transaction"):
            state.subscriptions = subscriptions.current(using)
    return state


def set_current(using: str, state: TransactionState | None) -> None:
    _local.__dict__[using] = weakref.ref(state) if state else None


def current_or_new(using: str) -> TransactionState | None:
    """The state of the open transaction, begun at its first change. None in autocommit mode."""
    state = current(using)
    if state is None and in_transaction(using):
        state = TransactionState(connections[using], subscriptions.current(using))
        state.register()
    return state


def forget_subscriptions(using: str) -> None:
    """Read the subscriptions again: the open transaction edited a webhook."""
    state = current(using)
    if state:
        state.forget_subscriptions()
