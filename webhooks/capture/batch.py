"""``webhooks.batch()``: record the changes of a block together at its end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from django.db import transaction

from webhooks.capture import events, serialize
from webhooks.capture.context import Block, block
from webhooks.capture.serialize import SerializedObject
from webhooks.capture.skips import Skips
from webhooks.capture.transaction import (
    Change,
    Entry,
    Key,
    TransactionState,
    current_or_new_state,
    current_state,
    known_state,
    transactions_as_batches,
)
from webhooks.ground.db.django_internals import reading_from
from webhooks.ground.errors import log_errors
from webhooks.ground.text import short_repr
from webhooks.models.event import Action, Event
from webhooks.models.skip import Skip


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
    return _batch(using)


@block
def _batch(using: str | None) -> Generator[None]:
    using = using or Event.objects.db
    with transaction.atomic(using):
        state = None
        with log_errors(using, "A batch cannot be opened, its changes are recorded one by one"):
            state = current_or_new_state(using)
        if state is None or state.batch is not None:
            yield
            return
        entries: list[Entry] = []
        state.batch = entries
        try:
            yield
        finally:
            state.batch = None
            state.serialized_for_deletion.clear()
        if not transaction.get_rollback(using):
            with reading_from(using):
                _record_batch(state, entries)


def end_transaction(connection: Any, is_kept: bool) -> None:
    """Record the changes of a transaction that is a batch, if it is to be committed. Raises only what aborts it."""
    state = known_state(connection.alias)
    if state is None or state.batch is None:
        return  # first: each transaction of the project ends here
    entries, state.batch = state.batch, None
    state.serialized_for_deletion.clear()
    if is_kept and entries and current_state(connection.alias):
        with transactions_as_batches(False), reading_from(state.using):
            _record_batch(state, entries)


def _record_batch(state: TransactionState, entries: list[Entry]) -> None:
    """Record the last change of each object, and all custom events, together. If that fails, record each by itself.

    So an object that cannot be serialized does not keep the others from being recorded."""
    latest = {entry.key if isinstance(entry, Change) else id(entry): entry for entry in entries}
    message = "The changes of a batch cannot be recorded together, so each is recorded by itself"
    with log_errors(state.using, message), transaction.atomic(state.using):
        _record_together(state, list(latest.values()))
        return
    skips = Skips(state)
    for entry in latest.values():
        if isinstance(entry, Skip):
            skips.add(entry)
        elif isinstance(entry, Event):
            with events.log_missed(state.using, entry), transaction.atomic(state.using):
                state.insert_event(entry)
        else:
            history = state.begin_history(entry)
            with events.log_missed(state.using, entry, history.actors[-1]), transaction.atomic(state.using):
                deleted = history.deleted if entry.action == Action.DELETED else None
                events.record_now(state, entry, deleted)
    skips.store()


def _record_together(state: TransactionState, entries: list[Entry]) -> None:
    """Record changes of different objects, custom events and skips, with as few queries as for one."""
    rows = _read_rows(state, [entry for entry in entries if isinstance(entry, Change)])
    replaced: list[Change] = []
    new: list[tuple[list[int], Event]] = []
    skips = Skips(state)
    for entry in entries:
        if isinstance(entry, Event):
            new.append(([], entry))
        elif isinstance(entry, Skip):
            skips.add(entry)
        else:
            change, serialized = _outcome(state, entry, rows)
            merged = events.merge(state, change)
            name, refusals = "", merged.refusals
            if merged.candidates:
                if not serialized:
                    continue  # the object was deleted without a signal
                planned, refused = events.plan_events(state, merged, serialized)
                new += [(plan.ids, Event(**plan.columns)) for plan in planned if plan.columns]
                name, refusals = serialized.object_repr, refusals | refused
            elif (merged.history.event_ids or merged.history.failed_ids) and events.is_gone(change, state.using):
                continue
            replaced.append(change)
            skips.replace(change, merged.action, merged.actor, name, refusals)
    events.delete_pending(state, replaced)
    Event.insert_all([event for _, event in new], state.using)
    state.note_recorded(event for _, event in new)
    skips.store()
    for event_ids, event in new:
        event_ids.append(event.pk)
        state.has_events = True


def _read_rows(state: TransactionState, changes: list[Change]) -> dict[Key, SerializedObject | None]:
    """Serialize the objects as they are at the end of the batch, if any webhook wants the change. None for an object
    whose row is gone."""
    unread = []
    for change in changes:
        if state.begin_history(change).deleted or events.merge(state, change).candidates:
            # A deletion may have been rolled back unseen, by SQL. Then the row is still there.
            is_deleted = change.action == Action.DELETED
            unread.append(Change(change.registration, change.pk, Action.UPDATED) if is_deleted else change)
    return serialize.serialize_all(state, unread)


def _outcome(
    state: TransactionState, change: Change, rows: dict[Key, SerializedObject | None]
) -> tuple[Change, SerializedObject | None]:
    """The last change of an object, and the object: the row decides whether it is deleted, not the last signal."""
    row, deleted = rows.get(change.key), state.begin_history(change).deleted
    is_gone = change.key in rows and row is None
    if is_gone and deleted:
        return replace(change, action=Action.DELETED), deleted
    if row and change.action == Action.DELETED:
        return replace(change, action=Action.UPDATED), row
    return change, row
