"""Objects as they were before the open transaction, read under their locks before its first change.

Django does not signal which rows a deletion sets to null, and a receiver of the host may save them next. So these rows
are read when the deletion begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

from django.db import models

from webhooks import registry
from webhooks.capture.transaction import Key, TransactionState, current_or_new_state, current_state
from webhooks.db import PreparedRead, ReadWithNext, in_chunks, reading_from, savepoint
from webhooks.errors import is_aborted, log_errors
from webhooks.models import Event
from webhooks.payloads import snapshots
from webhooks.payloads.snapshots import PrechangeState
from webhooks.registry.framework import framework
from webhooks.registry.keys import key_text
from webhooks.registry.registration import Registration

ForeignKey = models.ForeignKey[Any, Any]

# What a deletion does to the rows that point to the object, other than changing them.
_UNCHANGED = (models.CASCADE, models.PROTECT, models.RESTRICT, models.DO_NOTHING, getattr(models, "DB_CASCADE", None))

# Rows that one deletion reads. The state before of more rows stays unknown.
MAX_POINTING = 1000


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
        with log_errors(using, "The state before a change cannot be read: %s", names), reading_from(using):
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
    if not in_savepoint and _may_read_later(state, registration, keys):
        for key, pk in keys.items():
            _read_with_next(state, registration, key, pk)
        return
    unread = [pk for key, pk in keys.items() if state.prechange.get(key) is None and state.history(key) is None]
    known = [prechange for prechange in map(state.prechange.get, keys) if prechange]
    try:
        if unread or any(prechange.lacks(relation) for prechange in known for relation in relations):
            with savepoint(state.using) if in_savepoint else nullcontext():
                _read_rows(state, registration, unread)
                # In separate queries, after the lock: a statement that waited for it sees other tables as before.
                _read_relations(filter(None, map(state.prechange.get, keys)), relations)
    finally:
        for key in keys:
            # If it was not read before the first change, the row may have half of the change by now.
            state.prechange.give_up(key)
            state.prechange.get(key).edited.update(relations)  # type: ignore[union-attr]


def _may_read_later(state: TransactionState, registration: Registration, keys: Collection[Any]) -> bool:
    """Whether the next statement, which is the UPDATE of a save, may read the row before it runs.

    A bulk operation reads many rows in one query.
    """
    is_unread = all(state.prechange.get(key) is None and state.history(key) is None for key in keys)
    return len(keys) == 1 and is_unread and state.is_open and framework().related_snapshot(registration.model) is None


def _read_with_next(state: TransactionState, registration: Registration, key: Key, pk: Any) -> None:
    """Read and lock a row with the next statement, in one round trip if possible."""
    prechange = PrechangeState()
    state.prechange.keep(key, prechange)
    prepared = PreparedRead(snapshots.rows_query(registration.model, [pk], state.using, lock=True))

    def use(found: list[tuple[Any, ...]]) -> None:
        with log_errors(state.using, "The state before a change cannot be read: %s %s", *key):
            for row in prepared.objects(found):
                prechange.row = None if _may_be_nulled(state, registration, row) else row

    def is_wanted() -> bool:
        return state.is_current and state.prechange.knows(key, prechange) and not is_aborted(state.using)

    state.prechange.reading.append(ReadWithNext(state.using, prepared.statement, use, is_wanted))


def read_pointing(model: type[models.Model], instance: models.Model, using: str, origin: Any) -> None:
    """Read the rows that point to an object of ``model``, before its deletion sets their foreign keys to null.

    ``origin`` is what the project deletes: this object, or a queryset. Then the rows that point to any of its objects
    are read, each model with one query. A deletion may also cascade to this object, and to thousands more. Then nothing
    is read, and the state before of a row with such a null stays unknown.
    """
    state = current_state(using)
    if (state and not state.subscriptions.prechange_types) or using != Event.objects.db:
        return
    for field in _nulled_fields(model):
        for registration in registry.registrations():
            if issubclass(registration.model, field.model):
                with log_errors(using, "The %s that point to %s cannot be read", registration.label, model._meta.label):
                    _read_pointing(current_or_new_state(using), registration, field, instance, origin)


def _read_pointing(
    state: TransactionState, registration: Registration, field: ForeignKey, instance: models.Model, origin: Any
) -> None:
    if registration.label not in state.subscriptions.prechange_types:
        return
    target = field.target_field.attname
    keys = _keys_to_read(state, registration, field, instance, origin)
    with savepoint(state.using):
        rows = registration.model._base_manager.using(state.using).order_by()
        chunks = [rows.filter(**{f"{field.name}__{target}__in": chunk}) for chunk in in_chunks(state.using, keys)]
        pks = [pk for chunk in chunks for pk in chunk.values_list("pk", flat=True)]
    read_prechange({registration: pks[:MAX_POINTING]}, state.using)
    for pk in map(registration.normalize_pk, pks[MAX_POINTING:]):
        unread = (registration.label, key_text(pk))
        if state.history(unread) is None:
            state.prechange.give_up(unread)


def _keys_to_read(
    state: TransactionState, registration: Registration, field: ForeignKey, instance: models.Model, origin: Any
) -> set[Any]:
    """The keys whose pointing rows must be read for this object: with the first object of a queryset, the keys of
    all."""
    target = field.target_field.attname
    key = getattr(instance, target)
    if origin is instance:
        return {key}
    known = state.prechange.deleted_keys(origin, registration.label, field)
    is_first = known is None
    if known is None:
        known = _read_keys(origin, instance, target, state.using)
        state.prechange.set_deleted_keys(origin, registration.label, field, known)
    if key not in known:
        state.prechange.nulled.add((registration.label, field))
    return known if is_first else set()


def _read_keys(origin: Any, instance: models.Model, target: str, using: str) -> set[Any]:
    """What foreign keys have of the objects of a queryset that the project deletes. Empty if it has other objects."""
    is_of_model = isinstance(origin, models.QuerySet) and isinstance(instance, origin.model)
    if not is_of_model or type(instance)._meta.concrete_model is not origin.model._meta.concrete_model:
        return set()
    with savepoint(using):
        return set(origin.using(using).order_by().values_list(target, flat=True))


@cache
def _nulled_fields(model: type[models.Model]) -> tuple[ForeignKey, ...]:
    """The foreign keys to a model that a deletion changes. A parent's rows have their own."""
    found: list[Any] = [one for one in model._meta.get_fields(include_hidden=True) if one.auto_created]
    keys = [one for one in found if not one.concrete and (one.one_to_many or one.one_to_one)]
    own = [one for one in keys if one.model is model._meta.concrete_model]
    return tuple(one.field for one in own if one.on_delete not in _UNCHANGED)


def forget_models() -> None:
    """Look at the relations of all models again: there is a new one."""
    _nulled_fields.cache_clear()


def _read_rows(state: TransactionState, registration: Registration, pks: list[Any]) -> None:
    """Read and lock the rows of these objects. A missing row is remembered, too."""
    for chunk in in_chunks(state.using, pks):
        rows = snapshots.read_rows(registration, chunk, state.using, lock=state.is_open)
        for pk in map(key_text, chunk):
            row = rows.get(pk)
            if row is not None and _may_be_nulled(state, registration, row):
                row = None
            related = snapshots.related_snapshot(registration, row) if row is not None else {}
            state.prechange.keep((registration.label, pk), PrechangeState(row, related=related))


def _may_be_nulled(state: TransactionState, registration: Registration, row: models.Model) -> bool:
    """Whether a deletion in this transaction may have changed a foreign key of a row before it was read."""
    fields = [field for label, field in state.prechange.nulled if label == registration.label]
    return any(
        field.remote_field.on_delete is not models.SET_NULL or getattr(row, field.attname) is None for field in fields
    )


def _read_relations(prechanges: Iterable[PrechangeState], relations: Collection[str]) -> None:
    """Read the members of these relations for the objects that lack them."""
    known = list(prechanges)
    for relation in relations:
        lacking = [prechange for prechange in known if prechange.lacks(relation)]
        models.prefetch_related_objects([one.row for one in lacking if one.row is not None], relation)
        for prechange in lacking:
            prechange.known.add(relation)
