"""The changes of the open transaction so far: of each object, and in its batch.

A ``TransactionState`` is one of the ``on_commit`` callbacks of its transaction. A rollback by Django, also to a
savepoint, rolls back the state as well. The state does not notice if code executes ``ROLLBACK TO SAVEPOINT`` with a
cursor. So the state is only a hint, and the rows decide.
"""

from __future__ import annotations

import threading
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections, models, transaction

from webhooks import hooks
from webhooks.capture import subscriptions
from webhooks.capture.context import Actor, current_actor, is_silenced, set_for_block
from webhooks.capture.matching import Budget
from webhooks.capture.recorded import as_recorded
from webhooks.delivery.wake_up import wake_up
from webhooks.ground.db import Statement, as_sql, in_block
from webhooks.ground.db.django_internals import LockWithNext, ReadWithNext, locking_errors
from webhooks.ground.db.host_rows import can_lock
from webhooks.ground.errors import is_aborted, log_errors
from webhooks.ground.payloads.snapshots import PrechangeState
from webhooks.ground.registry.keys import key_text, with_pks
from webhooks.ground.registry.registration import Registration
from webhooks.models.event import Action, Event
from webhooks.models.skip import Skip

if TYPE_CHECKING:
    from webhooks.capture.serialize import SerializedObject

# The label of a model and a primary key as text.
Key = tuple[str, str]

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Change:
    """One change of one object."""

    registration: Registration
    pk: Any
    action: Action
    needs_lock: bool = False
    """The change itself did not lock the row."""
    is_relation: bool = False
    """Only the members of a many-to-many relation changed."""
    may_be_absent: bool = False
    """It may have no row: Django did not read the instance that is deleted, and neither reads nor saves one whose
    relations are edited or that another row points to."""

    @cached_property
    def key(self) -> Key:
        return self.registration.label, key_text(self.pk)

    def __str__(self) -> str:
        return f"{' '.join(self.key)} {self.action}"


# An entry of a batch: a change of an object, a custom event, or why a webhook did not want that.
Entry = Change | Event | Skip


@dataclass
class ObjectHistory:
    """One object in one transaction. ``TransactionState.edit`` sets the fields that a rollback must restore."""

    existed: bool
    """Whether it existed before the transaction."""
    action: Action
    """The action of its last change."""
    is_assumed: bool = False
    """No change has shown yet that it has a row."""
    actors: tuple[Actor, ...] = ()
    """Who changed it. Each is there once, the latest last."""
    deleted: SerializedObject | None = None
    """The object as its deletion found it, or as a save during the deletion left it. In a batch it is kept until the
    end, because the row is gone by then. Otherwise until the row is deleted."""
    event_ids: list[int] = field(default_factory=list)
    failed_ids: list[int] = field(default_factory=list)
    """Events for webhooks with conditions that failed."""
    skip_ids: dict[int, uuid.UUID] = field(default_factory=dict)
    """The skips by webhook, including those from earlier changes."""


class SavepointLog:
    """Undo the steps inside a savepoint when Django rolls back to it.

    Django keeps the ids of the open savepoints with each ``on_commit`` callback. At a rollback it drops the callback
    ``if sid in ids``. This log takes the place of those ids. They do not include savepoints of
    ``transaction.savepoint()``, but the log does. A ``sid`` ends in a number that rises with each savepoint of the
    connection. So each step with this number or a higher one was inside the savepoint.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._begun_at: int = connection.savepoint_state  # Django's savepoint_state: the number of its latest savepoint
        self._steps: list[tuple[int, Callable[[], object]]] = []

    def note(self, undo: Callable[[], object]) -> None:
        """Remember how to undo a step."""
        self._steps.append((self._connection.savepoint_state, undo))  # Django's savepoint_state, as above

    def remember(self, known: dict[K, V], key: K, value: V) -> None:
        """Set an entry of a dictionary, until a rollback."""
        replaced = known.get(key)
        known[key] = value
        self.note(lambda: known.pop(key) if replaced is None else known.update({key: replaced}))

    def forget(self, known: dict[K, V], key: K) -> None:
        """Remove an entry of a dictionary, until a rollback."""
        value = known.pop(key)
        self.note(lambda: known.update({key: value}))

    def __contains__(self, sid: str) -> bool:
        """Undo the steps inside this savepoint. Returns whether the log was begun inside it."""
        number = sid.rpartition("_x")[2]
        if not number.isdecimal():
            return False  # not one of Django's
        while self._steps and self._steps[-1][0] >= int(number):
            _, undo = self._steps.pop()
            undo()
        return self._begun_at >= int(number)


class PrechangeStates:
    """The objects of a transaction as they were before it. A rollback releases the lock of a row, so it drops the state
    of the object, too."""

    def __init__(self, log: SavepointLog) -> None:
        self._log = log
        self._known: dict[Key, PrechangeState] = {}
        self._nulled: dict[tuple[str, models.ForeignKey[Any, Any]], bool] = {}
        """The foreign keys, with the label of their model, that deletions may have set to null in rows not read."""
        self._cut: dict[tuple[str, str], bool] = {}
        self.signalled: set[Any] = set()
        """The models between of relations that Django is about to edit: it signals whose members it takes out."""
        """The many-to-many relations, with the label of their model, that may have lost members without a signal."""
        self.reading: list[ReadWithNext] = []
        """The rows that the next statement reads."""

    def get(self, key: Key) -> PrechangeState | None:
        while self.reading:
            self.reading.pop().now()
        return self._known.get(key)

    def knows(self, key: Key, prechange: PrechangeState) -> bool:
        """Whether this very state is still the one of the object."""
        return self._known.get(key) is prechange

    def keep(self, key: Key, prechange: PrechangeState) -> None:
        prechange.edited.update(relation for label, relation in self._cut if label == key[0])
        self._log.remember(self._known, key, prechange)

    def give_up(self, key: Key) -> None:
        """Leave it unknown if it was not read yet: the object is changed now."""
        if key not in self._known:
            self.keep(key, PrechangeState())

    def may_be_nulled(self, label: str, row: models.Model) -> bool:
        """Whether a deletion in this transaction may have changed a foreign key of a row before it was read."""
        return any(
            field.remote_field.on_delete is not models.SET_NULL or getattr(row, field.attname) is None
            for known, field in self._nulled
            if known == label
        )

    def note_nulled(self, label: str, field: models.ForeignKey[Any, Any]) -> None:
        self._log.remember(self._nulled, (label, field), True)

    def note_cut(self, label: str, relation: str, deleted: Collection[str]) -> None:
        """A deletion takes members out of this relation of some objects, and Django does not signal of which. The
        state of objects that are ``deleted`` themselves, by their keys, is as known as before."""
        self._log.remember(self._cut, (label, relation), True)
        for (known, pk), prechange in self._known.items():
            if known == label and pk not in deleted and relation not in prechange.edited:
                prechange.edited.add(relation)
                self._log.note(partial(prechange.edited.discard, relation))


class TransactionState:
    """The state of one transaction. Django calls it at the commit; it then wakes a worker if there are Events."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.connection = connections[using]
        self.subscriptions = subscriptions.current(using)
        self.budget = Budget()
        self.has_events = False
        self.records_missed = False
        self.is_outdated = False
        """Whether the subscriptions must be read again."""
        self.batch: list[Entry] | None = None
        """The changes and custom events to record at the end of the open batch."""
        self.serialized_for_deletion: dict[Key, SerializedObject] = {}
        """The objects that the batch is about to delete."""
        self.deleting: dict[Key, tuple[Change, ...]] = {}
        """The deletions that Django has announced, and has not done yet: several if a receiver deletes, too."""
        self._announced: dict[Key, Callable[[], None]] = {}
        """The saves that are noted and not recorded yet, and how to record each."""
        self._histories: dict[Key, ObjectHistory] = {}
        self._recorded: dict[int, hooks.RecordedEvent] = {}
        """The Events so far by their ids, if a hook wants to know them after the commit."""
        self._last_actor = Actor()
        self._log = SavepointLog(self.connection)
        self.prechange = PrechangeStates(self._log)
        self._locked: dict[Key, bool] = {}
        """The objects that were locked before a change of another row, or are with the next statement."""
        self._to_lock: dict[Key, tuple[Registration, Any]] = {}
        self._locks: LockWithNext | None = None
        self._block: object = None

    def __call__(self) -> None:
        if self.has_events:
            wake_up()
        if self._recorded:
            with log_errors(self.using, "The hooks event_recorded cannot be called"):
                hooks.announce("event_recorded", self.using, self._recorded.values)
        for record in list(self._announced.values()):
            record()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """None, in a copy or a pickle. In autocommit mode an instance that is being saved has the state. A receiver of
        the project may copy the instance, but nothing copies the connection."""
        return NoneType, ()

    @contextmanager
    def begin(self) -> Iterator[bool]:
        """Open a transaction if there is none: in autocommit mode Django signals a save after its commit. Returns
        whether it opened one."""
        if self.is_open:
            yield False
            return
        with transaction.atomic(self.using):
            self.register()
            yield True

    def register(self) -> None:
        """Add it to the callbacks of the open transaction, and make it the current one."""
        # Django's run_on_commit: on_commit() keeps ids, which lack savepoints of ``transaction.savepoint()``.
        callbacks: list[Any] = self.connection.run_on_commit
        self._block = _block_by_hand(self.connection)
        if self._block:
            _drop_ended_states(callbacks)
        callbacks.append((self._log, self, False))
        set_current(self.using, self)

    @property
    def has_calls(self) -> bool:
        """Whether more than a wake-up is to do after the commit."""
        return bool(self._announced or self._recorded)

    @property
    def is_current(self) -> bool:
        """Whether its transaction is the open one."""
        # Django's atomic_blocks: ``in_block`` looks up the connection, and each row of a cascade asks.
        connection = self.connection
        return bool(connection.atomic_blocks) and _block_by_hand(connection) == self._block and self.is_open

    @property
    def is_open(self) -> bool:
        """Whether it is registered, and Django neither called it nor dropped it yet."""
        # A loop, because each change asks several times. Few callbacks are older than this one.
        # Django's run_on_commit: a rollback to a savepoint drops callbacks without a signal.
        for entry in self.connection.run_on_commit:  # noqa: SIM110
            if entry[1] is self:
                return True
        return False

    def history(self, key: Key) -> ObjectHistory | None:
        """The history of an object. None without a change, or if all of them were rolled back."""
        return self._histories.get(key)

    def begin_history(self, change: Change) -> ObjectHistory:
        """The history of an object, which begins with this change if there is none."""
        history = self._histories.get(change.key)
        if history is None:
            is_assumed = change.may_be_absent and change.action != Action.DELETED
            history = ObjectHistory(change.action != Action.CREATED, change.action, is_assumed)
            self._log.remember(self._histories, change.key, history)
        return history

    def note(self, change: Change) -> ObjectHistory:
        """Add a change, and the current actor, to the history of its object."""
        history, actor = self.begin_history(change), current_actor()
        if history.is_assumed and (change.action == Action.DELETED or not change.may_be_absent):
            # If it is created, it had no row until now.
            self.edit(history, is_assumed=False, existed=change.action != Action.CREATED)
        if actor == self._last_actor:
            actor = self._last_actor  # a request may be large, and a transaction may have many objects
        self._last_actor = actor
        if history.actors:
            actors = (*(earlier for earlier in history.actors if earlier != actor), actor)
            self.edit(history, action=change.action, actors=actors)
        else:
            history.actors = (actor,)
        return history

    def edit(self, history: ObjectHistory, **values: Any) -> None:
        """Set fields of a history, until a rollback."""
        before = {name: getattr(history, name) for name in values}
        if before != values:
            history.__dict__.update(values)
            self._log.note(partial(history.__dict__.update, before))

    def announce(self, key: Key, record: Callable[[], None]) -> None:
        """Remember that a save is still to be recorded, after the receivers of the project. If none of them lets it
        come to that, and the transaction is committed nevertheless, ``record`` is called after the commit."""
        if key not in self._announced:
            self._log.remember(self._announced, key, record)

    def take_announcement(self, key: Key) -> bool:
        """Forget that a save of this object is still to be recorded. Returns whether it was."""
        is_announced = key in self._announced
        if is_announced:
            self._log.forget(self._announced, key)
        return is_announced

    def begin_deletion(self, change: Change) -> None:
        self._log.remember(self.deleting, change.key, (*self.deleting.get(change.key, ()), change))

    def end_deletion(self, key: Key) -> Change | None:
        """The last deletion of an object that was announced: its row is gone now. None if there was none."""
        *outer, change = self.deleting.get(key, (None,))
        if outer:
            self._log.remember(self.deleting, key, tuple(outer))
        elif change is not None:
            self._log.forget(self.deleting, key)
        return change

    def needs_prechange(self, key: Key) -> bool:
        """Whether a webhook needs the prechange state, and the object may be older than the transaction."""
        if key[0] not in self.subscriptions.prechange_types:
            return False
        history = self._histories.get(key)
        return history is None or history.existed

    def lock_with_next(self, registration: Registration, pks: Iterable[Any]) -> None:
        """Lock objects of which the next statement changes another row, and which are recorded after it, as their own
        UPDATE would. Otherwise a transaction that changes them in Django's order, and this one, could wait for each
        other."""
        if not (self.connection.features.has_select_for_update and self.is_open):
            return
        is_pending = self._locks is not None and self._locks.is_pending
        if not is_pending:
            self._to_lock.clear()
        with locking_errors(self.using):
            for pk in map(registration.normalize_pk, pks):
                key = registration.label, key_text(pk)
                if key not in self._locked and self.history(key) is None and can_lock(self.using, registration.model):
                    self._log.remember(self._locked, key, True)
                    self._to_lock[key] = registration, pk
        if self._to_lock and not is_pending:
            self._locks = LockWithNext(self.using, self._take_locks, self._may_lock)

    def _may_lock(self) -> bool:
        """Whether the transaction is still the one of these locks, and no rollback to a savepoint forgot them all."""
        return self.is_current and not self._locked.keys().isdisjoint(self._to_lock) and not is_aborted(self.using)

    def _take_locks(self) -> list[Statement]:
        by_model: dict[type[models.Model], list[Any]] = defaultdict(list)
        for key, (registration, pk) in self._to_lock.items():
            if key in self._locked:
                by_model[registration.model].append(pk)
        statements = []
        for model, pks in by_model.items():
            rows: Any = models.QuerySet(model, using=self.using)
            rows = rows.filter(with_pks(model, pks)).order_by("pk").values_list("pk")
            statements.append(as_sql(rows.select_for_update(no_key=True, of=("self",))))
        return statements

    def defer(self, batch: list[Entry], entry: Entry) -> None:
        """Leave a change or a custom event to the end of the open batch."""
        batch.append(entry)
        self._log.note(batch.pop)

    def insert_event(self, event: Event) -> None:
        event.insert(self.using)
        self.has_events = True
        self.note_recorded([event])

    def note_recorded(self, events: Iterable[Event]) -> None:
        """Remember Events as they are now, for the hooks after the commit."""
        if hooks.listed("event_recorded"):
            for event in events:
                self._log.remember(self._recorded, event.pk, as_recorded(event))

    def forget_recorded(self, ids: Iterable[int]) -> None:
        """Forget Events that were deleted again."""
        for pk in self._recorded.keys() & set(ids):
            self._log.forget(self._recorded, pk)

    def forget_subscriptions(self) -> None:
        """Read them again before their next use, and once more if the edit of the webhook is rolled back."""
        self.is_outdated = True
        self._log.note(partial(setattr, self, "is_outdated", True))


# Whether each transaction is a batch: of a request or a job with ``BATCH_REQUESTS``, in this thread or task.
_are_batches: ContextVar[bool] = ContextVar("webhooks_transactions_are_batches", default=False)


@contextmanager
def transactions_as_batches(is_on: bool = True) -> Iterator[None]:
    """Record the changes of each transaction in this block together at its end, as ``webhooks.batch()`` does.

    Opens no transaction: what the project commits is committed, whatever it does next."""
    yield from set_for_block(_are_batches, is_on)


def is_batched(using: str) -> bool:
    """Whether a change is recorded at the end of a batch, which may be the open transaction."""
    state = current_state(using)
    return (state is not None and state.batch is not None) or _is_batch(using)


def _is_batch(using: str) -> bool:
    """Whether the open transaction is a batch. That of a ``TestCase`` is none: it never ends."""
    if not (_are_batches.get() and in_block(using)):
        return False
    block: Any = connections[using].atomic_blocks[-1]  # Django's atomic_blocks: only a block knows that it is of a test
    return not block._from_testcase  # Django's _from_testcase: its own checks of ``durable`` ask it


def _block_by_hand(connection: Any) -> object:
    """The outermost block after ``set_autocommit(False)``: the states of earlier ones are still open, because Django
    does not say when a block ends. None in autocommit mode, where a state ends with its block."""
    # Django's commit_on_exit, savepoint_ids and atomic_blocks: it does not say which block is open.
    if connection.commit_on_exit:
        return None
    # A decorated function has the same block in each call, but another savepoint.
    return connection.savepoint_ids[0] or connection.atomic_blocks[0]


# The latest state of each database, by its alias. Only the transaction keeps it alive. Connections belong to threads.
# ``connections[alias]`` takes longer than the rest of what a row without subscribers costs, and a deletion may cascade
# to thousands of rows. So ``current_state`` avoids it.
_local = threading.local()


def _drop_ended_states(callbacks: list[Any]) -> None:
    """Keep one wake-up in place of the states of ended blocks. After ``set_autocommit(False)``, Django keeps callbacks
    until autocommit is on again."""
    ended = [entry for entry in callbacks if isinstance(entry[1], TransactionState) and not entry[1].has_calls]
    callbacks[:] = [entry for entry in callbacks if entry not in ended]
    if any(state.has_events for _, state, _ in ended) and not any(entry[1] is wake_up for entry in callbacks):
        callbacks.append((set(), wake_up, False))


def known_state(using: str) -> TransactionState | None:
    """The state of the transaction that is open in this thread. None if there is none, or if nothing changed yet."""
    reference: weakref.ref[TransactionState] | None = _local.__dict__.get(using)
    state = reference() if reference else None
    return state if state is not None and state.is_current else None


def current_state(using: str) -> TransactionState | None:
    """The same, with the webhooks as they are now: it reads them again after an edit."""
    state = known_state(using)
    if state is None:
        return None
    if state.is_outdated:
        state.is_outdated = False
        with log_errors(using, "An edit of a webhook may take effect only in the next transaction"):
            state.subscriptions = subscriptions.current(using)
    return state


def set_current(using: str, state: TransactionState | None) -> None:
    _local.__dict__[using] = weakref.ref(state) if state else None


def current_or_new_state(using: str, known: TransactionState | None = None) -> TransactionState:
    """The state of the open transaction; a new one at its first change.

    In autocommit mode no transaction is open. Then it is ``known``, the state of an earlier step of the same change, or
    a new one. A new one opens its transaction in ``begin``.
    """
    state = current_state(using)
    if state is None:
        if known and not in_block(using):
            return known
        state = TransactionState(using)
        if in_block(using):
            state.register()
    if state.batch is None and _is_batch(using):
        state.batch = []
    return state


def may_be_wanted(model: type[models.Model], using: str, look_up: bool = False) -> bool:
    """Whether any webhook may want changes of a model on this database. Each save asks, so this must be fast.

    No webhook wants a change that will be rolled back. If the transaction does not know the webhooks yet, ``look_up``
    reads them. Otherwise the answer is True.
    """
    if is_silenced():
        return False
    state = current_state(using)
    if state is None and using != Event.objects.db:
        return False
    if state is None and look_up:
        with log_errors(using, "The webhooks for %s cannot be read", model._meta.label_lower):
            state = current_or_new_state(using)
    if state is None:
        return True
    # Django refuses queries in a block that it will roll back.
    # Django's needs_rollback: get_rollback() raises if no block is open.
    return not state.connection.needs_rollback and state.subscriptions.concerns(model)
