"""Objects as they were before the open transaction, read under their locks before its first change.

Django does not signal which rows a deletion sets to null, and a receiver of the host may save them next. So these rows
are read when the deletion begins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

from django.apps import apps
from django.db import models, transaction
from django.db.models.deletion import Collector  # Django's Collector: see ``delete_within``

from webhooks.capture.context import is_silenced
from webhooks.capture.transaction import Key, TransactionState, current_or_new_state, current_state
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.ground.db import PreparedRead
from webhooks.ground.db.django_internals import ReadWithNext, reading_from, savepoint
from webhooks.ground.db.host_rows import in_chunks
from webhooks.ground.errors import is_aborted, log_errors
from webhooks.ground.payloads import snapshots
from webhooks.ground.payloads.snapshots import PrechangeState
from webhooks.ground.registry.framework import framework
from webhooks.ground.registry.keys import key_text
from webhooks.ground.registry.registration import Registration
from webhooks.models.event import Event

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

    def use(rows: list[tuple[Any, ...]]) -> None:
        with log_errors(state.using, "The state before a change cannot be read: %s %s", *key):
            for row in prepared.objects(rows):
                prechange.row = None if state.prechange.may_be_nulled(registration.label, row) else row

    def is_wanted() -> bool:
        return state.is_current and state.prechange.knows(key, prechange) and not is_aborted(state.using)

    state.prechange.reading.append(ReadWithNext(state.using, prepared.statement, use, is_wanted))


@contextmanager
def read_before_deletion(collector: Collector) -> Iterator[None]:
    """Read the rows whose foreign keys a deletion is about to set to null, up to ``MAX_POINTING`` for each key.

    Of more rows, and of those that point to a row that the deletion cascades to, the state before stays unknown if they
    are saved later in the transaction. So do the members of a relation, if rows of its model between are deleted.
    """
    using, origin = collector.using, _model_of(collector.origin)
    deleted: set[Any] = {*collector.data, *(rows.model for rows in collector.fast_deletes)}
    nulled = [(model, field) for model in collector.data for field in _nulled_fields(model._meta.concrete_model)]
    between = deleted & _models_between()
    state = current_state(using)
    if state and origin in state.prechange.signalled:
        state.prechange.signalled.discard(origin)
        between -= {origin}
    is_unwanted = (state and not state.subscriptions.prechange_types) or using != Event.objects.db or is_silenced()
    if not (nulled or between) or is_unwanted or not conf.enabled:
        yield
        return
    with transaction.atomic(using, savepoint=False):  # as Django does next
        state, cuts = None, list[tuple[str, str, set[str]]]()
        with log_errors(using, "The %s that point to deleted objects cannot be read", "rows"):
            state = current_or_new_state(using)
        for registration in registry.registrations():
            label, model = registration.label, registration.model
            if state is None or label not in state.subscriptions.prechange_types:
                continue
            with log_errors(using, "The %s that point to deleted objects cannot be read", label):
                for target, field in nulled:
                    if issubclass(model, field.model):
                        keys = {getattr(row, field.target_field.attname) for row in collector.data[target]}
                        _read_pointing(state, registration, field, keys if target is origin else ())
                for relation in model._meta.many_to_many:
                    if relation.remote_field.through in between and _may_lose_members(relation, model, deleted, origin):
                        gone = {registration.key_of(row) for row in collector.data.get(model, ())}
                        cuts.append((label, relation.name, gone))
        yield
        if state is not None:  # afterwards: a receiver of pre_delete may still read the members and take them out
            for cut in cuts:
                state.prechange.note_cut(*cut)


def _model_of(origin: Any) -> Any:
    """The model of what the project deletes: an object, or a queryset."""
    return origin.model if isinstance(origin, models.QuerySet) else type(origin)


def _may_lose_members(
    relation: models.ManyToManyField[Any, Any], model: type[models.Model], deleted: set[Any], origin: Any
) -> bool:
    """Whether objects of the model that stay may lose members if these models, and rows between, are deleted."""
    if model in deleted and relation.related_model not in deleted:
        return False  # the members of an object that is deleted go with it
    through: Any = relation.remote_field.through
    pointed_to = {field.related_model for field in through._meta.fields if field.related_model}
    if any(issubclass(model, target) for target in pointed_to) or origin is through or origin not in deleted:
        return True
    # Rows of django-taggit point to their objects by type and key. So they go with those, or with their tag.
    return not deleted.isdisjoint(pointed_to)


def _read_pointing(
    state: TransactionState, registration: Registration, field: ForeignKey, keys: Collection[Any]
) -> None:
    """Read the rows that point to these keys by a foreign key."""
    pks: list[Any] = []
    with savepoint(state.using):
        rows: models.QuerySet[Any] = models.QuerySet(registration.model, using=state.using).order_by()
        for chunk in in_chunks(state.using, keys):
            if len(pks) <= MAX_POINTING:
                pointing = rows.filter(**{f"{field.name}__{field.target_field.attname}__in": chunk})
                pks += pointing.values_list("pk", flat=True)[: MAX_POINTING + 1 - len(pks)]
    read_prechange({registration: pks[:MAX_POINTING]}, state.using)
    if not keys or len(pks) > MAX_POINTING:
        state.prechange.note_nulled(registration.label, field)


@cache
def _nulled_fields(model: type[models.Model]) -> tuple[ForeignKey, ...]:
    """The foreign keys to a concrete model that a deletion changes. A parent's rows have their own."""
    reverse: list[Any] = [field for field in model._meta.get_fields(include_hidden=True) if field.auto_created]
    keys = [relation for relation in reverse if not relation.concrete and (relation.one_to_many or relation.one_to_one)]
    own = [relation for relation in keys if relation.model._meta.concrete_model is model]  # or a proxy of it
    return tuple(relation.field for relation in own if relation.on_delete not in _UNCHANGED)


@cache
def _models_between() -> frozenset[Any]:
    """The models of the rows that many-to-many relations consist of."""
    relations = [relation for model in apps.get_models() for relation in model._meta.many_to_many]
    return frozenset(field.remote_field.through for field in relations if field.remote_field.through is not None)


def forget_models() -> None:
    """Look at the relations of all models again: there is a new one."""
    _nulled_fields.cache_clear()
    _models_between.cache_clear()


def _read_rows(state: TransactionState, registration: Registration, pks: list[Any]) -> None:
    """Read and lock the rows of these objects. A missing row is remembered, too."""
    for chunk in in_chunks(state.using, pks):
        rows = snapshots.read_rows(registration, chunk, state.using, lock=state.is_open)
        for pk in map(key_text, chunk):
            row = rows.get(pk)
            if row is not None and state.prechange.may_be_nulled(registration.label, row):
                row = None
            related = snapshots.related_snapshot(registration, row) if row is not None else {}
            state.prechange.keep((registration.label, pk), PrechangeState(row, related=related))


def _read_relations(prechanges: Iterable[PrechangeState], relations: Collection[str]) -> None:
    """Read the members of these relations for the objects that lack them."""
    known = list(prechanges)
    for relation in relations:
        lacking = [prechange for prechange in known if prechange.lacks(relation)]
        models.prefetch_related_objects([state.row for state in lacking if state.row is not None], relation)
        for prechange in lacking:
            prechange.known.add(relation)
