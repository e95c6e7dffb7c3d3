"""``webhooks.batch()``: record the changes of a block together at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import _GeneratorContextManager, contextmanager

from django.db import transaction

from webhooks.capture import events, serialize
from webhooks.capture.skips import Skips
from webhooks.capture.transaction import Change, Entry, TransactionState, current_or_new_state
from webhooks.errors import log_errors
from webhooks.models import Event, Skip
from webhooks.text import short_repr


def batch(using: str | None = None) -> _GeneratorContextManager[None]:
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


@contextmanager
def _batch(using: str | None) -> Iterator[None]:
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
        if not state.connection.needs_rollback:
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
            continue
        with events.log_missed(state.using, entry), transaction.atomic(state.using):
            if isinstance(entry, Change):
                events.record_now(state, entry)
            else:
                state.insert_event(entry)
    skips.store()


def _record_together(state: TransactionState, entries: list[Entry]) -> None:
    """Record changes of different objects, custom events and skips, with as few queries as for one."""
    changes = [entry for entry in entries if isinstance(entry, Change)]
    merged = {change.key: events.merge(state, change) for change in changes}
    unread = [change for change in changes if merged[change.key].candidates and not change.serialized]
    known = serialize.serialize_all(state, unread)
    replaced: list[Change] = []
    new: list[tuple[list[int], Event]] = []
    skips = Skips(state)
    for entry in entries:
        if isinstance(entry, Event):
            new.append(([], entry))
        elif isinstance(entry, Skip):
            skips.add(entry)
        else:
            merged_change = merged[entry.key]
            name, refusals = "", merged_change.refusals
            if merged_change.candidates:
                serialized = entry.serialized or known[entry.key]
                if not serialized:
                    continue  # the object was deleted without a signal
                planned, refused = events.plan_events(state, merged_change, serialized)
                new += [(one.ids, Event(**one.columns)) for one in planned if one.columns]
                name, refusals = serialized.object_repr, refusals | refused
            replaced.append(entry)
            skips.replace(entry, merged_change.action, name, refusals)
    events.delete_pending(state, replaced)
    Event.insert_all([event for _, event in new], state.using)
    skips.store()
    for event_ids, event in new:
        event_ids.append(event.pk)
        state.has_events = True
