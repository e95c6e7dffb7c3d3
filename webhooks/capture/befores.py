"""What objects were before a transaction first changes them, read where somebody needs it and it is not known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import models

from webhooks import snapshots
from webhooks.capture.scopes import Scope
from webhooks.holdings import Holder, Holding
from webhooks.registration import Registration
from webhooks.snapshots import Before
from webhooks.sql import round_trips
from webhooks.sql.dialect import in_chunks

Key = tuple[str, str]


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
    holdings = [
        Holding(registration.model, relation, [holders[key] for key in keys], scope.using)
        for relation, keys in lacking.items()
    ]
    rows = snapshots.rows(registration, unknown, scope.using, lock=True)
    found, *members = round_trips.fetch([rows, *(holding.queryset for holding in holdings)], scope.using)
    _keep(scope, registration, unknown, registration.by_key(found))
    for (relation, keys), holding, those in zip(lacking.items(), holdings, members, strict=True):
        befores = [before for key in keys if (before := scope.before(key))]
        holding.give([before.row for before in befores if before.row is not None], those)
        for before in befores:
            before.relations.add(relation)


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
