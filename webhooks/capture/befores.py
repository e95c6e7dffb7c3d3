"""What objects were before a transaction first changes them, read where somebody needs it and it is not known yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from webhooks.sql.round_trips import Query
from webhooks.transactions import is_aborted, is_conflict

Key = tuple[str, str]

# The objects of which it is not known yet what a relation held, by its name.
Lacking = Mapping[str, Sequence[Key]]

# With more objects that change at once, no relations are read that may be edited later: of so many they seldom are.
AHEAD = 100


def remember(
    scope: Scope, registration: Registration, holders: Sequence[Holder], guarded: bool, edited: Collection[str] = ()
) -> None:
    """Read objects that are about to be saved, or whose relations to many, ``edited``, are about to be edited: at the
    first change of an object its row, and with it the relations that its payload shows, in one query.

    ``guarded``: an error leaves the transaction as it was. A save waits for the very lock that is taken here, so it
    may fail with that; an edit would not wait for it. What could not be read stays unknown.
    """
    if not scope.wanted.need_before(registration.label):
        return
    ahead = _shown(scope, registration).difference(edited) if len(holders) <= AHEAD else frozenset()
    objects = {(registration.label, str(registration.key(one.pk))): one for one in holders}
    try:
        for some in in_chunks(scope.using, objects.items()):
            _Reading(scope, registration, dict(some), guarded).read(edited, sorted(ahead))
    except Exception as error:
        pass_on(error)
        for key in objects:
            if _is_unknown(scope, key):
                scope.keep(key, Before())  # what is there after the change was not there before it
        raise
    finally:
        for before in filter(None, map(scope.before, objects)):
            before.edited.update(edited)


def _shown(scope: Scope, registration: Registration) -> frozenset[str]:
    """The relations to many that the payload shows, as far as that is known without an object. No more than a guess:
    what is edited is read in any case."""
    found: frozenset[str] = frozenset()
    for serializer in scope.wanted.serializers(registration.label):
        try:
            found |= _shown_by(registration, serializer, scope.using)
        except Exception as error:
            pass_on(error)
            continue  # the Event will tell of it
    return found


@lru_cache(maxsize=1024)  # REST framework makes the fields of a serializer anew each time that it is asked for them
def _shown_by(registration: Registration, serializer: str, using: str) -> frozenset[str]:
    with round_trips.asking_nothing(using):
        found = snapshots.shown_relations(registration, serializer)
    return frozenset(found)


def _is_unknown(scope: Scope, key: Key) -> bool:
    """Whether the object may have been there before the transaction, and nobody has tried to read it as it was."""
    trace = scope.traced(key)
    return scope.before(key) is None and (trace is None or trace.existed)


@dataclass(frozen=True)
class _Reading:
    """Objects of one model, by what names them, of which some may be known already."""

    scope: Scope
    registration: Registration
    objects: Mapping[Key, Holder]
    guarded: bool

    def read(self, edited: Collection[str], ahead: Collection[str]) -> None:
        """What is not known of them; of the relations ``ahead``, what takes no query more."""
        unknown = [key for key in self.objects if _is_unknown(self.scope, key)]
        lacking = {relation: keys for relation in edited if (keys := self._lacking(relation))}
        if not unknown and not lacking:
            return
        try:
            holdings = {relation: self._holding(relation, keys) for relation, keys in lacking.items()}
        except Exception as error:
            pass_on(error)
            # A manager of the project wants to know more than there is before the objects are read.
            self._read_one_by_one(unknown, lacking)
            return
        along = {}
        if unknown and all(holding.query.goes_along for holding in holdings.values()):
            along = dict(self._going_along(unknown, ahead))
        try:
            self._read_together(unknown, lacking, holdings, along)
        except Exception as error:
            pass_on(error)
            # A lock that was not given is not waited for twice.
            if not along or is_aborted(self.scope.using) or is_conflict(error):
                raise
            self._read_together(unknown, lacking, holdings, {})  # at least the rows

    def _lacking(self, relation: str) -> list[Key]:
        """The objects of which it is not known yet what a relation held, and may have to be."""
        return [key for key in self.objects if self._lacks(key, relation)]

    def _lacks(self, key: Key, relation: str) -> bool:
        before = self.scope.before(key)
        if before is None:
            return _is_unknown(self.scope, key)
        is_needed = before.shown is None or relation in before.shown
        return before.row is not None and is_needed and relation not in before.known | before.edited

    def _holding(self, relation: str, keys: Sequence[Key]) -> Holding:
        holders = [self.objects[key] for key in keys]
        # A manager that fails at the database here would end the transaction.
        with round_trips.asking_nothing(self.scope.using):
            holding = Holding(self.registration.model, relation, holders, self.scope.using)
        return holding  # noqa: RET504 # for mypy, the block might end without an error

    def _going_along(self, keys: Sequence[Key], relations: Collection[str]) -> Iterator[tuple[str, Holding]]:
        """What relations hold that may be edited next, where it takes no query more to know it."""
        for relation in relations:
            try:
                holding = self._holding(relation, keys)
            except Exception as error:
                pass_on(error)
                continue  # it is read when it is edited, whatever that takes
            if holding.query.goes_along:
                yield relation, holding

    def _read_together(
        self, keys: Sequence[Key], lacking: Lacking, holdings: Mapping[str, Holding], along: Mapping[str, Holding]
    ) -> None:
        rows = snapshots.rows(self.registration, self._pks(keys), self.scope.using, lock=True)
        held = {**holdings, **along}
        if held or self.guarded:
            queries = [Query(rows, self.scope.using), *(holding.query for holding in held.values())]
            found, *members = round_trips.fetch(queries, self.scope.using, is_first_guarded=self.guarded)
        else:
            found, members = list(rows), []
        self._keep(keys, self.registration.by_key(found))
        for (relation, holding), those in zip(held.items(), members, strict=True):
            holders = lacking.get(relation, keys)
            left = holding.give(self._rows(holders), those)
            if relation in lacking:
                models.prefetch_related_objects(left, relation)
                left = []
            self._know(relation, holders, left)

    def _read_one_by_one(self, keys: Sequence[Key], lacking: Lacking) -> None:
        with transaction.atomic(self.scope.using):
            self._keep(keys, snapshots.read(self.registration, self._pks(keys), self.scope.using, lock=True))
            for relation, holders in lacking.items():
                models.prefetch_related_objects(self._rows(holders), relation)
                self._know(relation, holders)

    def _pks(self, keys: Sequence[Key]) -> list[Any]:
        return [self.registration.key(self.objects[key].pk) for key in keys]

    def _rows(self, keys: Sequence[Key]) -> list[models.Model]:
        return [before.row for before in map(self.scope.before, keys) if before and before.row is not None]

    def _keep(self, keys: Sequence[Key], rows: Mapping[str, models.Model]) -> None:
        for label, pk in keys:
            self.scope.keep((label, pk), Before(rows.get(pk)))

    def _know(self, relation: str, keys: Sequence[Key], left: Sequence[models.Model] = ()) -> None:
        """Note that the rows have prefetched a relation, but for those ``left``."""
        without = set(map(id, left))  # a model of the project may say in its own way what is equal
        for before in map(self.scope.before, keys):
            if before and id(before.row) not in without:
                before.known.add(relation)
