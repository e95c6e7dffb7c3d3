"""Objects as they were before the open transaction, read under their locks before its first change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from django.db import models

from webhooks.capture.transaction import TransactionState, current_or_new_state
from webhooks.db import in_chunks, savepoint
from webhooks.errors import log_errors
from webhooks.payloads import snapshots
from webhooks.payloads.snapshots import PrechangeState
from webhooks.registry.keys import key_text
from webhooks.registry.registration import Registration


def read_prechange(
    objects: Mapping[Registration, Collection[Any]],
    using: str,
    relations: Mapping[Registration, Collection[str]] | None = None,
    in_savepoint: bool = True,
) -> TransactionState | None:
    """Read objects before they change, if a webhook needs that. If this fails, the prechange state stays unknown.

    It reads their rows, and the members of the ``relations`` that are about to be edited.

    ``in_savepoint``: an error leaves the transaction usable. A save does not need that if it takes the same lock next,
    because it would meet the same error. In autocommit mode the rows are read without a lock, and the returned state is
    for ``events.record``. Raises only what aborted the transaction.
    """
    state = None
    for registration, pks in objects.items():
        names = ", ".join(f"{registration.label} {pk}" for pk in pks)
        with log_errors(using, "The state before a change cannot be read: %s", names):
            state = current_or_new_state(using, state)
            if registration.label in state.subscriptions.prechange_types:
                _read(state, registration, pks, relations[registration] if relations else (), in_savepoint)
    return state


def _read(
    state: TransactionState,
    registration: Registration,
    pks: Collection[Any],
    relations: Collection[str],
    in_savepoint: bool,
) -> None:
    keys = {(registration.label, key_text(pk)): pk for pk in map(registration.normalize_pk, pks)}
    keys = {key: pk for key, pk in keys.items() if state.needs_prechange(key)}
    unread = [pk for key, pk in keys.items() if state.prechange(key) is None and state.history(key) is None]
    known = [prechange for prechange in map(state.prechange, keys) if prechange]
    try:
        if unread or any(prechange.lacks(relation) for prechange in known for relation in relations):
            with savepoint(state.using) if in_savepoint else nullcontext():
                _read_rows(state, registration, unread)
                # In separate queries, after the lock: a statement that waited for it sees other tables as before.
                _read_relations(filter(None, map(state.prechange, keys)), relations)
    finally:
        for key in keys:
            if state.prechange(key) is None:
                # It was not read before the first change. The row may have half of the change by now.
                state.set_prechange(key, PrechangeState())
            state.prechange(key).edited.update(relations)  # type: ignore[union-attr]


def _read_rows(state: TransactionState, registration: Registration, pks: list[Any]) -> None:
    """Read and lock the rows of these objects. A missing row is remembered, too."""
    for chunk in in_chunks(state.using, pks):
        rows = snapshots.read_rows(registration, chunk, state.using, lock=state.is_open)
        for pk in map(key_text, chunk):
            state.set_prechange((registration.label, pk), PrechangeState(rows.get(pk)))


def _read_relations(prechanges: Iterable[PrechangeState], relations: Collection[str]) -> None:
    """Read the members of these relations for the objects that lack them."""
    known = list(prechanges)
    for relation in relations:
        lacking = [prechange for prechange in known if prechange.lacks(relation)]
        models.prefetch_related_objects([one.row for one in lacking if one.row is not None], relation)
        for prechange in lacking:
            prechange.known.add(relation)
