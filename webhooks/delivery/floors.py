"""Where a worker begins to look through an index, so that it need not pass the dead entries at the low end.

A worker takes its work from the low end of an index. While a transaction with an older snapshot is open, such as a
report or a backup, PostgreSQL keeps the entries of all work since. Each look would pass them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from webhooks.db import Snapshot

# A look without floors follows when so many times its cost has passed: always if it is cheap. Rarely, if no entry is
# expected below a floor.
COST_FACTOR = 100
RARE_COST_FACTOR = 1000

# Without a better reason, floors are at least this many seconds old. So a look finds entries of short transactions that
# commit late.
LAG = 2.0


@dataclass(slots=True)
class _NextFloor:
    lowest: Any
    since: float
    bound: float
    """Transactions from this id on began after ``lowest`` was found. So what they add is above it."""


class Floors:
    """The lowest entries that looks found a moment ago, by key. A look without floors finds later additions below.

    An entry below a floor is of a transaction that was open when the floor was found. With the snapshots of its looks,
    a worker knows when these have ended.
    """

    def __init__(self) -> None:
        self._floors: dict[int, Any] = {}
        self._next: dict[int, _NextFloor] = {}
        self._oldest_open = 0
        """The oldest transaction that was open at the last snapshot."""
        self._in_doubt: float = 0
        """Transactions below this id may still add entries below a floor."""
        self._full_ended = self._full_cost = 0.0

    @property
    def known(self) -> Mapping[int, Any]:
        """The floors as they are now."""
        return self._floors

    @property
    def is_full_look_due(self) -> bool:
        """Whether it is time for a look at everything."""
        factor = COST_FACTOR if self._in_doubt else RARE_COST_FACTOR
        return time.monotonic() >= self._full_ended + factor * self._full_cost

    @contextmanager
    def look(self) -> Iterator[Mapping[int, Any]]:
        """The floors of this look: none, if it is time for a look at everything."""
        began, is_full = time.monotonic(), self.is_full_look_due
        ends_doubt = is_full and self._oldest_open >= self._in_doubt
        try:
            yield {} if is_full else self._floors
        finally:
            if is_full:
                self._full_ended = time.monotonic()
                self._full_cost = self._full_ended - began
        if ends_doubt:
            self._in_doubt = 0

    def lowest(self, rows: QuerySet[Any], most: int) -> list[Any]:
        """The lowest primary keys of rows, up to ``most``, in order."""
        with self.look() as known:
            from_floor = rows.filter(pk__gte=known[0]) if known else rows
            found = list(from_floor.order_by("pk").values_list("pk", flat=True)[:most])
        if found:
            self.note(0, found[0])
        return found

    def note(self, key: int, lowest: Any, snapshot: Snapshot | None = None) -> None:
        """Note the lowest entry that a look has found. It becomes the floor after ``LAG``.

        With the snapshot of the look, it becomes the floor as soon as all transactions have ended that may add entries
        below it.
        """
        now = time.monotonic()
        found = _NextFloor(lowest, now, snapshot.next if snapshot else math.inf)
        coming = self._next.setdefault(key, found)
        coming.lowest = min(coming.lowest, lowest)
        if key in self._floors:
            self._floors[key] = min(self._floors[key], lowest)
        if snapshot:
            self._oldest_open = snapshot.oldest_open
        is_certain = self._oldest_open >= coming.bound
        if is_certain or now - coming.since >= LAG:
            if not is_certain:
                self._in_doubt = max(self._in_doubt, coming.bound)
            self._floors[key], self._next[key] = coming.lowest, found
