"""What relations to many hold, read together with the rows of the objects that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.db import models
from django.db.models.base import ModelState

from webhooks import keys
from webhooks.sql.round_trips import Query


@dataclass(frozen=True)
class Holder:
    """An object that holds relations, before it is read: its key, and what is known of its columns, by the names of
    their attributes. A model between may refer to another one than the key."""

    pk: Any
    columns: Mapping[str, Any] = field(default_factory=dict)

    def stored(self, attribute: str) -> Any:
        """Raises KeyError for a column that is not known, or will be computed by the database."""
        value = self.columns[attribute]
        if hasattr(value, "resolve_expression"):
            raise KeyError(attribute)
        return value


class Holding:
    """What a relation holds of some objects, as a query to run; as Django prefetches it, but before the objects
    themselves are read. Raises KeyError where the column is not known that the model between refers to, and whatever a
    manager of the project does that wants to know more of them."""

    def __init__(self, model: type[models.Model], relation: str, holders: Sequence[Holder], using: str) -> None:
        referred = _referred(model, relation)
        unread = [_unread(model, _columns(holder, model, referred), using) for holder in holders]
        manager = getattr(unread[0], relation).db_manager(using)
        queryset, self._held_by, self._key, _, self._name, _ = manager.get_prefetch_querysets(unread)
        self._relation, self.query = relation, Query(queryset, using)
        self._asked_for = set(map(self._key, unread))

    def give(self, objects: Sequence[models.Model], members: Sequence[models.Model]) -> list[models.Model]:
        """Let these objects have prefetched what the query has found. Returns those that are left: where the model
        between refers to, they have another value than was known."""
        held, left = defaultdict(list), []
        for member in members:
            held[self._held_by(member)].append(member)
        for one in objects:
            if self._key(one) in self._asked_for:
                self._put(one, held[self._key(one)])
            else:
                left.append(one)
        return left

    def _put(self, one: models.Model, members: list[models.Model]) -> None:
        prefetched = getattr(one, self._relation).get_queryset()
        prefetched._result_cache, prefetched._prefetch_done = members, True
        vars(one).setdefault("_prefetched_objects_cache", {})[self._name] = prefetched


@cache
def _referred(model: type[models.Model], relation: str) -> list[tuple[str, bool]]:
    """The attributes of a model for its key and for what the model between refers to, each with whether it is the
    key."""
    pk, name = model._meta.pk, model._meta.get_field(relation).m2m_target_field_name()  # type: ignore[union-attr]
    columns = [one for one in model._meta.concrete_fields if one is pk or one.name == name]
    return [(one.attname, keys.is_shared(one, pk)) for one in columns]


def _columns(holder: Holder, model: type[models.Model], referred: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    key = keys.stored(model._meta.pk, holder.pk)
    return {attribute: key if is_key else holder.stored(attribute) for attribute, is_key in referred}


def _unread(model: type[models.Model], columns: Mapping[str, Any], using: str) -> models.Model:
    """Made without ``__init__``: what projects do there may read other columns, and Django would then read those of
    objects that are made in turn, without an end."""
    one = model.__new__(model)
    one._state = ModelState()
    one._state.adding, one._state.db = False, using
    vars(one).update(columns)
    return one
