"""What signals, bulk operations and custom events call: record a change in its transaction, once for each object."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from django.db import connections, models, router, transaction

from webhooks.capture import events, serialize, subscriptions
from webhooks.capture.context import Block
from webhooks.capture.errors import log_errors
from webhooks.capture.transaction import (
    Batch,
    Change,
    DeferredChange,
    TransactionState,
    current,
    current_or_new,
    in_transaction,
)
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action, Event
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration
from webhooks.text import short_repr
from webhooks.workers import jobs

logger = get_logger(__name__)

# Primary keys by the registrations of their models.
Objects = Mapping[Registration, Collection[Any]]


def database() -> str:
    """The alias of the database with the tables of the app."""
    return router.db_for_write(Event)


def wake_on_commit() -> None:
    """Wake a worker when the open transaction is committed, or at once if there is none."""
    transaction.on_commit(jobs.wake_up, using=database(), robust=True)


def has_subscribers(model: type[models.Model], using: str, look_up: bool = False) -> bool:
    """Whether any webhook wants changes of a model. Each save asks, so this must be fast.

    ``look_up`` asks the database if the transaction does not know yet. True if it is not known.
    """
    state = current(using)
    if state:
        return state.subscriptions.has_subscribers(model)
    if look_up:
        with log_errors(using, "The webhooks for %s cannot be read", model._meta.label_lower):
            state = current_or_new(using)
            found = state.subscriptions if state else subscriptions.current(using)
            return found.has_subscribers(model)
    return True


def snapshot_before(
    objects: Objects,
    using: str,
    relations: Mapping[Registration, Collection[str]] | None = None,
    in_savepoint: bool = True,
) -> TransactionState | None:
    """Read objects before they change, if a webhook needs their previous state: their rows, and what the ``relations``
    to many hold that are about to be edited.

    ``in_savepoint`` is for a change that may not lock all of these rows itself. In autocommit mode the rows are read
    without a lock, and the returned state is for ``record``. Raises only what aborted the transaction.
    """
    state = None
    for registration, pks in objects.items():
        names = ", ".join(f"{registration.label} {pk}" for pk in pks)
        with log_errors(using, "The state before a change cannot be read: %s", names):
            is_open = in_transaction(using)
            state = (current_or_new(using) if is_open else state) or _unregistered(using)
            fields = relations[registration] if relations else ()
            serialize.snapshot_before(state, registration, pks, fields, in_savepoint, lock=is_open)
    return state


def _unregistered(using: str) -> TransactionState:
    return TransactionState(connections[using], subscriptions.current(using))


def record(
    registration: Registration,
    pk: Any,
    action: Action,
    using: str,
    needs_lock: bool = False,
    state: TransactionState | None = None,
) -> None:
    """Record that an object was created or updated, or is about to be deleted, on database ``using``.

    ``needs_lock``: the change did not lock the row itself. ``state`` is the result of ``snapshot_before`` in autocommit
    mode. Errors are logged, and become a failed Event if possible. Raises only what aborted the transaction.
    """
    change = Change(registration, pk, action, needs_lock)
    with events.log_missed(using, change):
        change = Change(registration, registration.normalize_pk(pk), action, needs_lock)
        if opened := current_or_new(using):
            if opened.subscriptions.has_subscribers(registration.model):
                _record(opened, change)
            return
        # In autocommit mode Django signals a save after its commit.
        state = state or _unregistered(using)
        if state.subscriptions.has_subscribers(registration.model):
            with transaction.atomic(using):
                state.register()
                _record(state, Change(registration, change.pk, action, needs_lock=True))


def _record(state: TransactionState, change: Change) -> None:
    if state.history(change.key) and state.previous(change.key) is None:
        state.set_previous(change.key, PreviousState())  # not read before the first change, so it stays unknown
    batch = state.batch
    if batch is None:
        events.record_event(state, change)
        return
    state.begin_history(change)
    serialized = None
    if change.action == Action.DELETED:
        serialized = batch.deletions.pop(change.key, None) or serialize.read_or_failed(state, change)
    state.defer(batch, DeferredChange(change, serialized))


def record_edit(objects: Objects, using: str) -> None:
    """Record that relations of these objects were edited: several in as many queries as one."""
    is_many = sum(map(len, objects.values())) > 1 and in_transaction(using)
    with batch(using) if is_many else nullcontext():
        for registration, pks in objects.items():
            for pk in pks:
                record(registration, pk, Action.UPDATED, using, needs_lock=True)


def record_custom(event: Event, using: str, registration: Registration | None = None) -> None:
    """Record a custom event for the webhooks that want it. ``registration`` is of its object, if the row is in
    this database. Raises only what aborted the transaction."""
    with events.log_missed(using, event):
        state = current_or_new(using)
        if state:
            events.record_custom(state, event, registration)
            return
        state = _unregistered(using)
        if state.subscriptions.for_custom_event(event.action):
            with transaction.atomic(using):
                state.register()
                events.record_custom(state, event, registration)


def batch(using: str | None = None) -> Block:
    """Record the changes of this block together at its end, for bulk work. Opens a transaction.

    The objects are read again at the end with one query for each model, and their Events are inserted in one more. A
    batch within a batch adds to the outer one. Raises TypeError if ``using`` is no alias of a database.
    """
    if not isinstance(using, str | None):
        raise TypeError(
            f"webhooks.batch() takes the alias of a database or nothing, not {short_repr(using)}; as a decorator, "
            f"write @webhooks.batch()."
        )
    return Block("webhooks.batch", partial(_batch, using))


@contextmanager
def _batch(using: str | None) -> Iterator[None]:
    using = using or database()
    with transaction.atomic(using):
        state = None
        with log_errors(using, "A batch cannot be opened, its changes are recorded one by one"):
            state = current_or_new(using)
        if state is None or state.batch:
            yield
            return
        state.batch = gathered = Batch()
        try:
            yield
        finally:
            state.batch = None
        if not state.connection.needs_rollback:
            events.record_batch(state, gathered)


def prepare_deletion(changes: Sequence[Change], using: str) -> None:
    """Within a batch: serialize objects that are about to be deleted, together. If that fails, each is serialized by
    itself when its deletion is signalled."""
    state = current(using)
    if not state or not state.batch:
        return
    wanted = [change for change in changes if state.subscriptions.has_subscribers(change.registration.model)]
    try:
        with transaction.atomic(using):
            found = serialize.read_all(state, wanted)
    except Exception as error:
        reraise_job_timeout(error)
        logger.warning("%d objects to delete cannot be serialized together: %s", len(wanted), error)
    else:
        state.batch.deletions.update({key: serialized for key, serialized in found.items() if serialized})
