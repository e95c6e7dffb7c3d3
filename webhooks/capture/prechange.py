"""The state of objects before a transaction changes them, read where a webhook needs it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

from django.db import models, transaction

from webhooks.capture.transaction import Key, Scope
from webhooks.db import in_chunks
from webhooks.payloads import snapshots
from webhooks.payloads.snapshots import PreviousState
from webhooks.registry.registration import Registration


def needs_prechange(scope: Scope, key: Key) -> bool:
    """Whether a webhook wants the state before an update, and the object may be older than the transaction."""
    label, _ = key
    trace = scope.traced(key)
    return scope.wanted.need_before(label) and (trace is None or trace.existed)


def snapshot_before(
    scope: Scope,
    registration: Registration,
    pks: Collection[Any],
    relations: Collection[str] = (),
    guarded: bool = True,
) -> None:
    """Read and lock rows that are about to change, and what these ``relations`` to many hold, once a transaction.

    ``guarded`` reads in a savepoint, so that an error leaves the transaction usable. A save that waits for the same
    lock next does not need that. If reading fails, the state before stays unknown, and the error is raised.
    """
    named = {(registration.label, str(pk)): pk for pk in map(registration.normalize_pk, pks)}
    objects = {key: pk for key, pk in named.items() if needs_prechange(scope, key)}
    unread = [pk for key, pk in objects.items() if scope.previous(key) is None and scope.traced(key) is None]
    states = filter(None, map(scope.previous, objects))
    try:
        if unread or any(state.lacks(relation) for state in states for relation in relations):
            with transaction.atomic(scope.using) if guarded else nullcontext():
                _read_rows(scope, registration, unread)
                for relation in relations:
                    _read_relation(scope, list(objects), relation)
    finally:
        for key in objects:
            _note_edit(scope, key, relations)


def _read_rows(scope: Scope, registration: Registration, pks: Collection[Any]) -> None:
    for some in in_chunks(scope.using, pks):
        rows = snapshots.read_rows(registration, some, scope.using, lock=True)
        for pk in map(str, some):
            scope.keep((registration.label, pk), PreviousState(rows.get(pk)))


def _read_relation(scope: Scope, keys: Sequence[Key], relation: str) -> None:
    # A separate query, after the lock: a statement that waited for a lock sees other tables as before its wait.
    lacking = [state for state in map(scope.previous, keys) if state and state.lacks(relation)]
    models.prefetch_related_objects([state.row for state in lacking if state.row is not None], relation)
    for state in lacking:
        state.known.add(relation)


def _note_edit(scope: Scope, key: Key, relations: Collection[str]) -> None:
    state = scope.previous(key)
    if state is None:
        # It could not be read, or changed before a webhook wanted this. The row may have half of the change by now.
        state = PreviousState()
        scope.keep(key, state)
    state.edited.update(relations)
