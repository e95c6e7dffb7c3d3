"""Records Events in the transaction of the change itself, one for each object and transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import models, router, transaction

from webhooks.capture import events, prechange, serialize, subscriptions
from webhooks.capture.blocks import Block
from webhooks.capture.changes import Announced, Batch, Change
from webhooks.capture.errors import Sparing
from webhooks.capture.subscriptions import Subscriptions
from webhooks.capture.transaction import Scope, existing, in_transaction, open_scope
from webhooks.capture.unrecorded import Missed, missed_event
from webhooks.db import is_aborted, savepoint
from webhooks.logs import get_logger, reraise_job_timeout
from webhooks.models import Action, Event
from webhooks.payloads import snapshots
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration
from webhooks.text import short_repr
from webhooks.workers import jobs

logger = get_logger(__name__)


def database() -> str:
    """The alias of the database that the app's tables are in."""
    return router.db_for_write(Event)


def wake_on_commit() -> None:
    """Wake a worker when what this transaction does is committed; at once where none is open."""
    transaction.on_commit(jobs.wake_up, using=database(), robust=True)


def ignores(model: type[models.Model], using: str, ask: bool = False) -> bool:
    """Whether this transaction knows already that no webhook wants changes of a model. Each save asks twice, so it must
    be cheap. ``ask`` looks the webhooks up if that is not known yet."""
    scope = _scope(using) if ask else existing(using)
    return scope is not None and scope.wanted.ignore(model)


def looks_back(using: str) -> bool:
    """Whether a webhook may need the state before a change. Each save asks, so this makes no query."""
    scope = existing(using)
    return scope is None or scope.wanted.looks_back


Objects = Mapping[Registration, Collection[Any]]


def snapshot_before(
    objects: Objects, using: str, relations: Mapping[Registration, Collection[str]] | None = None, guarded: bool = True
) -> None:
    """Read objects by their keys before they change, where a webhook needs their state before: their rows, and what
    relations to many hold that are about to be edited.

    ``guarded`` is for a change that may not lock all of these rows itself. Outside a transaction the state before stays
    unknown. Raises only what ended the transaction.
    """
    for registration, pks in objects.items():
        with _sparing({registration: pks}, using):
            scope, names = _scope(using), relations[registration] if relations else ()
            if scope:
                prechange.snapshot_before(scope, registration, pks, names, guarded)


@dataclass(frozen=True)
class Prechange:
    """What was known before a save in autocommit mode: the subscriptions, and the objects by their types."""

    wanted: Subscriptions
    states: dict[str, PreviousState]


def snapshot_unlocked(objects: Objects, using: str) -> Prechange | None:
    """The same before a save in autocommit mode, to be handed to ``record``."""
    with _sparing(objects, using), savepoint(using):
        wanted, states = subscriptions.current(using), {}
        for registration, [pk] in objects.items():
            if wanted.need_before(registration.label):
                key = registration.normalize_pk(pk)
                rows = snapshots.read_rows(registration, [key], using, lock=False)
                states[registration.label] = PreviousState(rows.get(str(key)))
        return Prechange(wanted, states)
    return None


def _sparing(objects: Objects, using: str) -> Sparing:
    named = ", ".join(f"{registration.label} {pk}" for registration, pks in objects.items() for pk in pks)
    return Sparing(using, "The state before a change cannot be read: %s", named)


def _scope(using: str) -> Scope | None:
    """The scope of the transaction that is open; None where none is."""
    scope = existing(using)
    return open_scope(using, jobs.wake_up) if scope is None and in_transaction(using) else scope


def record(
    registration: Registration,
    pk: Any,
    action: Action,
    using: str,
    lock: bool = False,
    before: Prechange | None = None,
) -> None:
    """Record that an object was created or updated, or is about to be deleted, on database ``using``.

    ``lock`` is for a change that did not lock the object's row itself. What goes wrong is logged, and stands in a
    failed Event where that can still be written. Raises only what ended the transaction.
    """
    event = Missed(registration.label, str(pk), action)
    with Sparing(using, "No webhook will hear that %s %s was %s", registration.label, pk, action, event=event):
        scope = _scope(using)
        if scope is None:
            _record_alone(Change(registration, registration.normalize_pk(pk), action, lock=True), using, before)
        elif scope.wanted.touch(registration.label):
            _record(scope, Change(registration, registration.normalize_pk(pk), action, lock))


def announce(event: Event, using: str, lock: Registration | None = None) -> None:
    """Record an Event that is no change, for the webhooks that want its action. ``lock`` is the model of an object
    whose row is in this database. Raises only what ended the transaction."""
    with Sparing(using, "No webhook will hear of %s", event, event=missed_event(event)):
        scope = _scope(using)
        if scope is None:
            _announce_alone(event, using, lock)
        else:
            events.announce(scope, event, lock)


def _announce_alone(event: Event, using: str, lock: Registration | None) -> None:
    wanted = subscriptions.current(using)
    if wanted.listening(event.action):
        with transaction.atomic(using):
            events.announce(open_scope(using, jobs.wake_up, wanted), event, lock)


def wants(model: type[models.Model], using: str) -> bool:
    """Whether any enabled webhook wants anything of this model, or of those that it inherits rows from."""
    scope = existing(using)
    with Sparing(using, "Which webhooks want %s cannot be read", model._meta.label_lower):
        return not (scope.wanted if scope else subscriptions.current(using)).ignore(model)
    return True  # each change asks again, and is kept if it cannot be recorded


def _record_alone(change: Change, using: str, before: Prechange | None) -> None:
    """Record a change that is committed already: in autocommit mode Django signals a save after its commit."""
    wanted = before.wanted if before else subscriptions.current(using)
    if wanted.touch(change.label):
        with transaction.atomic(using):
            scope = open_scope(using, jobs.wake_up, wanted)
            if before and change.label in before.states:
                scope.keep(change.key, before.states[change.label])
            _record(scope, change)


def record_edit(objects: Mapping[Registration, Collection[Any]], using: str) -> None:
    """Record that relations of these objects were edited: several in as many queries as one."""
    together = batch(using) if sum(map(len, objects.values())) > 1 and in_transaction(using) else nullcontext()
    with together:
        for registration, pks in objects.items():
            for pk in pks:
                record(registration, pk, Action.UPDATED, using, lock=True)


def batch(using: str | None = None) -> Block:
    """Record the changes of this block together at its end: for bulk work. Opens a transaction.

    The objects are read again at the end, all of a model in one query, and their Events inserted in one more.
    A batch within a batch adds to the outer one. Raises TypeError if ``using`` is no alias of a database.
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
        scope = existing(using) or _opened(using)
        if scope is None or scope.batch:  # without a scope, each change asks again, and is kept if it is not recorded
            yield
            return
        scope.batch = gathered = Batch()
        try:
            yield
        finally:
            scope.batch = None
        if not scope.connection.needs_rollback:
            _close(scope, gathered)


def _opened(using: str) -> Scope | None:
    with Sparing(using, "A batch cannot be opened, its changes are recorded one by one"):
        return open_scope(using, jobs.wake_up)
    return None


def _close(scope: Scope, gathered: Batch) -> None:
    try:
        with transaction.atomic(scope.using):
            events.settle_together(scope, gathered)
    except Exception as error:
        reraise_job_timeout(error)
        logger.warning("The changes of a batch cannot be recorded together, and are one by one: %s", error)
        if is_aborted(scope.using):
            raise
        _close_one_by_one(scope, gathered)


def _close_one_by_one(scope: Scope, gathered: Batch) -> None:
    for one in gathered.pending():
        event = missed_event(one.event) if isinstance(one, Announced) else Missed(*one.change.key, one.change.action)
        sparing = Sparing(scope.using, "No webhook will hear that %s", one, event=event)
        with sparing, transaction.atomic(scope.using):
            events.settle_one(scope, one)


def prepare_deletion(changes: Sequence[Change], using: str) -> None:
    """Within a batch: read objects that are about to be deleted all at once, not one by one."""
    scope = existing(using)
    if scope and scope.batch:
        wanted = [change for change in changes if scope.wanted.touch(change.label)]
        scope.batch.prepared.update(serialize.read_all(scope, wanted))


def _record(scope: Scope, change: Change) -> None:
    if scope.traced(change.key) and scope.previous(change.key) is None:
        scope.keep(change.key, PreviousState())  # not read before the first change, so it stays unknown
    trace = scope.trace(change)
    if scope.batch is None:
        events.settle(scope, change, trace, None)
    elif change.action == Action.DELETED:
        state = scope.batch.prepared.pop(change.key, None)
        scope.postpone(scope.batch, change, state or serialize.read_or_failed(scope, change))
    else:
        scope.postpone(scope.batch, change, None)
