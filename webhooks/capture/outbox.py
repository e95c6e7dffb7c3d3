"""Records Events in the transaction of the change itself, one for each object and transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connections, models, router, transaction

from webhooks import jobs, snapshots
from webhooks.capture import befores, readings, settling, subscriptions
from webhooks.capture.batches import batching
from webhooks.capture.changes import Batch, Change
from webhooks.capture.scopes import Scope, existing, open_scope
from webhooks.capture.sparing import Sparing
from webhooks.capture.subscriptions import Subscriptions
from webhooks.holdings import Holder
from webhooks.interruptions import pass_on
from webhooks.logs import logger_of
from webhooks.models import Action, Event
from webhooks.registration import Registration
from webhooks.snapshots import Before
from webhooks.transactions import is_aborted

logger = logger_of(__name__)


def database() -> str:
    """The alias of the database that the app's tables are in."""
    return router.db_for_write(Event)


def wake_on_commit() -> None:
    """Wake a worker when what this transaction does is committed; at once where none is open."""
    transaction.on_commit(jobs.wake_up, using=database(), robust=True)


def ignores(model: type[models.Model], using: str) -> bool:
    """Whether this transaction knows already that nobody wants changes of a model. Asked twice at each save, which is
    all that one that nobody wants should cost."""
    scope = existing(using)
    return scope is not None and scope.wanted.ignore(model)


def looks_back(using: str) -> bool:
    """Whether somebody may need to know what is about to change; asked at each save, so without a query."""
    scope = existing(using)
    return scope is None or scope.wanted.looks_back


@dataclass(frozen=True)
class Foreseen:
    """What was known before a save in autocommit mode: the subscriptions, and the objects by their types."""

    wanted: Subscriptions
    befores: dict[str, Before]


def foresee(objects: Mapping[Registration, Sequence[Holder]], using: str, guarded: bool = False) -> Foreseen | None:
    """Read objects that are about to change, where somebody needs their state before. Outside a transaction, hand what
    it returns to ``record``. ``guarded`` is for a change that may not lock all of these rows itself. Raises only what
    ended the transaction."""
    if not connections[using].in_atomic_block:
        return _foreseen_alone(objects, using)
    for registration, holders in objects.items():
        _remember(registration, holders, using, guarded)
    return None


def foresee_edit(registration: Registration, holders: Sequence[Holder], relations: Sequence[str], using: str) -> None:
    """Read objects of which relations to many are about to be edited, where somebody needs their state before. Outside
    a transaction it stays unknown; Django edits them in one. Raises only what ended the transaction."""
    if connections[using].in_atomic_block:
        _remember(registration, holders, using, guarded=True, edited=relations)


def _remember(
    registration: Registration, holders: Sequence[Holder], using: str, guarded: bool, edited: Sequence[str] = ()
) -> None:
    with _sparing({registration: holders}, using):
        befores.remember(open_scope(using, jobs.wake_up), registration, holders, guarded, edited)


def _sparing(objects: Mapping[Registration, Sequence[Holder]], using: str) -> Sparing:
    named = [f"{registration.label} {one.pk}" for registration, holders in objects.items() for one in holders]
    return Sparing(using, "The state before a change cannot be read: %s", ", ".join(named))


def _scope(using: str) -> Scope | None:
    """The scope of the transaction that is open; None where none is."""
    scope = existing(using)
    return open_scope(using, jobs.wake_up) if scope is None and connections[using].in_atomic_block else scope


def _foreseen_alone(objects: Mapping[Registration, Sequence[Holder]], using: str) -> Foreseen | None:
    with _sparing(objects, using):
        wanted, known = subscriptions.current(using), {}
        for registration, [holder] in objects.items():
            if wanted.need_before(registration.label):
                key = registration.key(holder.pk)
                rows = snapshots.read(registration, [key], using, lock=False)
                known[registration.label] = Before(rows.get(str(key)))
        return Foreseen(wanted, known)
    return None


def record(
    registration: Registration,
    pk: Any,
    action: Action,
    using: str,
    lock: bool = False,
    foreseen: Foreseen | None = None,
) -> None:
    """Record that an object was created or updated, or is about to be deleted, on database ``using``.

    ``lock`` is for a change that did not lock the object's row itself. What goes wrong is logged, and stands in a
    failed Event where that can still be written. Raises only what ended the transaction.
    """
    with Sparing(using, "No webhook will hear that %s %s was %s", registration.label, pk, action):
        scope = _scope(using)
        if scope is None:
            _record_alone(Change(registration, registration.key(pk), action, lock=True), using, foreseen)
        elif scope.wanted.touch(registration.label):
            _record(scope, Change(registration, registration.key(pk), action, lock))


def announce(event: Event, using: str) -> None:
    """Record an Event that is no change, for the webhooks that want its action. Raises only what ended the
    transaction."""
    with Sparing(using, "No webhook will hear of %s", event):
        scope = _scope(using)
        if scope is None:
            _announce_alone(event, using)
        else:
            settling.announce(scope, event)


def _announce_alone(event: Event, using: str) -> None:
    wanted = subscriptions.current(using)
    if wanted.listening(event.action):
        with transaction.atomic(using):
            settling.announce(open_scope(using, jobs.wake_up, wanted), event)


def wants(model: type[models.Model], using: str) -> bool:
    """Whether any enabled webhook wants anything of this model, or of those that it inherits rows from."""
    scope = existing(using)
    wanted = scope.wanted if scope else subscriptions.readable(using)
    return not wanted.ignore(model)


def _record_alone(change: Change, using: str, foreseen: Foreseen | None) -> None:
    """Record a change that is committed already: in autocommit mode Django signals a save after its commit."""
    wanted = foreseen.wanted if foreseen else subscriptions.current(using)
    if wanted.touch(change.label):
        with transaction.atomic(using):
            scope = open_scope(using, jobs.wake_up, wanted)
            if foreseen and change.label in foreseen.befores:
                scope.keep(change.key, foreseen.befores[change.label])
            _record(scope, change)


@contextmanager
def batch(using: str | None = None) -> Iterator[None]:
    """Record the changes of this block together at its end: for bulk work. Opens a transaction.

    The objects are read again at the end, all of a model in one query, and their Events inserted in one more.
    A batch within a batch adds to the outer one.
    """
    using = using or database()
    with transaction.atomic(using):
        scope = existing(using) or open_scope(using, jobs.wake_up, subscriptions.readable(using))
        with batching(scope) as gathered:
            yield
        if gathered:
            _close(scope, gathered)


def _close(scope: Scope, gathered: Batch) -> None:
    try:
        with transaction.atomic(scope.using):
            settling.settle_together(scope, gathered)
    except Exception as error:
        pass_on(error)
        logger.warning("The changes of a batch cannot be recorded together, and are one by one: %s", error)
        if is_aborted(scope.using):
            raise
        _close_one_by_one(scope, gathered)


def _close_one_by_one(scope: Scope, gathered: Batch) -> None:
    for one in scope.pending(gathered):
        with Sparing(scope.using, "No webhook will hear that %s", one), transaction.atomic(scope.using):
            settling.settle_one(scope, one)


def prepare_deletion(changes: Sequence[Change], using: str) -> None:
    """Within a batch: read objects that are about to be deleted all at once, not one by one."""
    scope = open_scope(using, jobs.wake_up)
    if scope.batch:
        wanted = [change for change in changes if scope.wanted.touch(change.label)]
        scope.batch.prepared.update(readings.read_all(scope, wanted))


def _record(scope: Scope, change: Change) -> None:
    trace = scope.trace(change)
    if scope.batch is None:
        settling.settle(scope, change, trace, None)
    elif change.action == Action.DELETED:
        state = scope.batch.prepared.pop(change.key, None)
        scope.postpone(scope.batch, change, state or readings.read_or_failed(scope, change))
    else:
        scope.postpone(scope.batch, change, None)
