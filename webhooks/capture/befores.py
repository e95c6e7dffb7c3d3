"""What objects were before a transaction first changes them, read where somebody needs it and it is not known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import models, transaction

from webhooks import snapshots
from webhooks.capture.scopes import Scope
from webhooks.holdings import Holder, Holding
from webhooks.interruptions import pass_on
from webhooks.registration import Registration
from webhooks.snapshots import Before
from webhooks.sql import round_trips
from webhooks.sql.dialect import in_chunks

Key = tuple[str, str]

# The objects of which it is not known yet what a relation held, by its name.
Lacking = Mapping[str, Sequence[Key]]


def remember(scope: Scope, registration: Registration, pks: Sequence[Any]) -> None:
    """Read the rows of objects that are about to be saved, in one query."""
    if not scope.wanted.need_before(registration.label):
        return
    for some in in_chunks(scope.using, [pk for pk in pks if _is_unknown(scope, (registration.label, str(pk)))]):
        _keep(scope, registration, some, snapshots.read(registration, some, scope.using, lock=True))


def remember_relations(
    scope: Scope, registration: Registration, holders: Sequence[Holder], relations: Sequence[str]
) -> None:
    """Read what relations to many hold that are about to be edited, and the rows of their ``holders``, in one query."""
    if not scope.wanted.need_before(registration.label):
        return
    for some in in_chunks(scope.using, holders):
        named = {(registration.label, str(registration.key(one.pk))): one for one in some}
        _remember_relations(scope, registration, named, relations)


def _remember_relations(
    scope: Scope, registration: Registration, holders: Mapping[Key, Holder], relations: Sequence[str]
) -> None:
    unknown = [registration.key(holder.pk) for key, holder in holders.items() if _is_unknown(scope, key)]
    lacking = {
        relation: keys for relation in relations if (keys := [key for key in holders if _lacks(scope, key, relation)])
    }
    if not lacking:
        return
    try:
        holdings = [
            Holding(registration.model, relation, [holders[key] for key in keys], scope.using)
            for relation, keys in lacking.items()
        ]
    except Exception as error:
        pass_on(error)
        # A manager of the project wants to know more of an object than there is before it is read.
        _read_one_by_one(scope, registration, unknown, lacking)
    else:
        _read_together(scope, registration, unknown, lacking, holdings)
    for relation, keys in lacking.items():
        for before in filter(None, map(scope.before, keys)):
            before.relations.add(relation)


def _read_together(
    scope: Scope, registration: Registration, pks: Sequence[Any], lacking: Lacking, holdings: Sequence[Holding]
) -> None:
    rows = snapshots.rows(registration, pks, scope.using, lock=True)
    found, *members = round_trips.fetch([rows, *(holding.queryset for holding in holdings)], scope.using)
    _keep(scope, registration, pks, registration.by_key(found))
    for keys, holding, those in zip(lacking.values(), holdings, members, strict=True):
        holding.give(_rows(scope, keys), those)


def _read_one_by_one(scope: Scope, registration: Registration, pks: Sequence[Any], lacking: Lacking) -> None:
    with transaction.atomic(scope.using):
        _keep(scope, registration, pks, snapshots.read(registration, pks, scope.using, lock=True))
        for relation, keys in lacking.items():
            models.prefetch_related_objects(_rows(scope, keys), relation)


def _rows(scope: Scope, keys: Sequence[Key]) -> list[models.Model]:
    return [before.row for before in map(scope.before, keys) if before and before.row is not None]


def _is_unknown(scope: Scope, key: Key) -> bool:
    """Whether the object may have been there before the transaction, and nothing of it as it was then was read."""
    trace = scope.traced(key)
    return scope.before(key) is None and (trace is None or trace.existed)


def _lacks(scope: Scope, key: Key, relation: str) -> bool:
    """Whether it is not known yet what a relation of the object held."""
    before = scope.before(key)
    return relation not in before.relations if before and before.row is not None else _is_unknown(scope, key)


def _keep(scope: Scope, registration: Registration, pks: Sequence[Any], rows: Mapping[str, models.Model]) -> None:
    for pk in pks:
        scope.keep((registration.label, str(pk)), Before(rows.get(str(pk))))
