"""What objects were before a transaction first changes them, read where somebody needs it and it is not known yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.db import OperationalError, models, transaction

from webhooks import snapshots
from webhooks.capture.scopes import Scope
from webhooks.holdings import Holder, Holding
from webhooks.interruptions import pass_on
from webhooks.registration import Registration
from webhooks.snapshots import Before
from webhooks.sql import round_trips
from webhooks.sql.dialect import in_chunks
from webhooks.sql.round_trips import Query
from webhooks.transactions import is_aborted

Key = tuple[str, str]

# The objects of which it is not known yet what a relation held, by its name.
Lacking = Mapping[str, Sequence[Key]]

# Objects that change at once of which relations are read that may be edited later. Few edit more of them than that
# one by one, and what is read is kept in memory.
AHEAD = 100


def remember(
    scope: Scope, registration: Registration, holders: Sequence[Holder], guarded: bool, edited: Collection[str] = ()
) -> None:
    """Read objects that are about to be saved, or whose relations to many, ``edited``, are about to be edited: at the
    first change of an object its row, and with it the relations that its payload shows, in one query.

    ``guarded``: an error leaves the transaction as it was. A save waits for the very lock that is taken here, so it
    may fail with that; an edit would not wait for it.
    """
    if not scope.wanted.need_before(registration.label):
        return
    shown = _shown(registration, tuple(scope.wanted.serializers(registration.label)), scope.using)
    ahead = shown.difference(edited) if len(holders) <= AHEAD else frozenset()
    for some in in_chunks(scope.using, holders):
        objects = {(registration.label, str(registration.key(one.pk))): one for one in some}
        _Reading(scope, registration, objects, guarded).remember(edited, sorted(ahead))


@lru_cache(maxsize=1024)  # REST framework makes the fields of a serializer anew each time that it is asked for them
def _shown(registration: Registration, serializers: tuple[str, ...], using: str) -> frozenset[str]:
    """The relations to many that the payload shows, as far as that is known without an object. No more than a guess:
    what is edited is read in any case."""
    try:
        with round_trips.asking_nothing(using):
            return frozenset().union(*(snapshots.shown_relations(registration, name) for name in serializers))
    except (Exception, round_trips.Asks) as error:
        pass_on(error)
        return frozenset()


@dataclass(frozen=True)
class _Reading:
    """Objects of one model, by what names them, of which some may be known already."""

    scope: Scope
    registration: Registration
    objects: Mapping[Key, Holder]
    guarded: bool

    def remember(self, edited: Collection[str], ahead: Collection[str]) -> None:
        """Read what is not known of them; of the relations ``ahead``, what takes no query more."""
        unknown = [key for key in self.objects if self._is_unknown(key)]
        lacking = {relation: keys for relation in edited if (keys := self._lacking(relation))}
        try:
            if unknown or lacking:
                self._read(unknown, lacking, ahead)
        except Exception as error:
            pass_on(error)
            # After the change it is too late to look.
            self._keep([key for key in unknown if self.scope.before(key) is None], {})
            raise
        finally:
            for before in filter(None, map(self.scope.before, self.objects)):
                before.edited.update(edited)

    def _read(self, unknown: Sequence[Key], lacking: Lacking, ahead: Collection[str]) -> None:
        try:
            holdings = {relation: self._holding(relation, keys) for relation, keys in lacking.items()}
        except Exception as error:
            pass_on(error)
            # A manager of the project wants to know more of an object than there is before it is read.
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
            is_lost = is_aborted(self.scope.using) or (self.guarded and isinstance(error, OperationalError))
            if is_lost or not along:
                raise
            self._read_together(unknown, lacking, holdings, {})  # at least the rows

    def _is_unknown(self, key: Key) -> bool:
        """Whether the object may have been there before the transaction, and nothing of it as it was then was read."""
        trace = self.scope.traced(key)
        return self.scope.before(key) is None and (trace is None or trace.existed)

    def _lacking(self, relation: str) -> list[Key]:
        """The objects of which it is not known yet what a relation held, and can be."""
        return [key for key in self.objects if self._lacks(key, relation)]

    def _lacks(self, key: Key, relation: str) -> bool:
        before = self.scope.before(key)
        return relation not in before.known if before and before.row is not None else self._is_unknown(key)

    def _holding(self, relation: str, keys: Sequence[Key]) -> Holding:
        return Holding(self.registration.model, relation, [self.objects[key] for key in keys], self.scope.using)

    def _going_along(self, keys: Sequence[Key], relations: Collection[str]) -> Iterator[tuple[str, Holding]]:
        """What relations hold that may be edited next, where it takes no query more to know it."""
        for relation in relations:
            try:
                with round_trips.asking_nothing(self.scope.using):
                    holding = self._holding(relation, keys)
            except (Exception, round_trips.Asks) as error:
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
            if relation in holdings:
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
        for before in map(self.scope.before, keys):
            if before and before.row not in left:
                before.known.add(relation)
