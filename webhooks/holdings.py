"""What relations to many hold, read together with the rows of the objects that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.models.base import ModelState


@dataclass(frozen=True)
class Holder:
    """An object that holds a relation, before it is read: its key, and what is known of its columns, which are those
    that the model between refers to."""

    pk: Any
    columns: Mapping[str, Any]


class Holding:
    """What a relation holds of some objects, as a queryset to run; as Django prefetches it, but before the objects
    themselves are read. Raises whatever a manager of the project does that wants to know more of them."""

    def __init__(self, model: type[models.Model], relation: str, holders: Sequence[Holder], using: str) -> None:
        unread = [_unread(model, holder, using) for holder in holders]
        manager = getattr(unread[0], relation).db_manager(using)
        self._relation = relation
        self.queryset, self._held_by, self._key, _, self._name, _ = manager.get_prefetch_querysets(unread)
        self._asked_for = set(map(self._key, unread))

    def give(self, objects: Sequence[models.Model], members: Sequence[models.Model]) -> None:
        """Let these objects have prefetched what the queryset has found."""
        held = defaultdict(list)
        for member in members:
            held[self._held_by(member)].append(member)
        for one in objects:
            if self._key(one) in self._asked_for:
                self._put(one, held[self._key(one)])
            else:  # it was edited by an instance that has another value where the model between refers to
                models.prefetch_related_objects([one], self._relation)

    def _put(self, one: models.Model, members: list[models.Model]) -> None:
        prefetched = getattr(one, self._relation).get_queryset()
        prefetched._result_cache, prefetched._prefetch_done = members, True
        vars(one).setdefault("_prefetched_objects_cache", {})[self._name] = prefetched


def _unread(model: type[models.Model], holder: Holder, using: str) -> models.Model:
    """Made without ``__init__``: what projects do there may read other columns, and Django would then read those of
    objects that are made in turn, without an end."""
    one = model.__new__(model)
    one._state = ModelState()
    one._state.adding, one._state.db = False, using
    vars(one).update(holder.columns)
    return one
