"""Where a worker begins to look through an index, so that it need not pass the dead entries at the low end.

A worker takes its work from the low end of an index. While a transaction with an older snapshot is open, such as a
report or a backup, PostgreSQL keeps the entries of all work since. Each scan would pass them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db.models import QuerySet

# A scan without floors follows when so many times its cost has passed: always if it is cheap. At the latest after
# ``LONGEST`` seconds: its cost may have been a wait for a lost connection.
COST_FACTOR = 100
LONGEST = 60.0

# ScanFloors are at least this many seconds old. So a scan finds entries of short transactions that commit late.
LAG = 2.0


class ScanFloors:
    """The lowest entries that scans met a moment ago, by key. A scan without floors finds later additions below."""

    def __init__(self) -> None:
        self._floors: dict[int, Any] = {}
        self._coming: dict[int, tuple[Any, float]] = {}
        """The next floors, and since when they are known."""
        self._next_full = 0.0

    @property
    def known(self) -> Mapping[int, Any]:
        """The floors as they are now."""
        return self._floors

    @property
    def is_full_scan_due(self) -> bool:
        """Whether it is time to scan everything."""
        return time.monotonic() >= self._next_full

    @contextmanager
    def scan(self) -> Iterator[Mapping[int, Any]]:
        """The floors of this scan: none, if it is time to scan everything."""
        began = time.monotonic()
        is_full = began >= self._next_full
        try:
            yield {} if is_full else self._floors
        finally:
            if is_full:
                ended = time.monotonic()
                self._next_full = ended + min(COST_FACTOR * (ended - began), LONGEST)

    def lowest(self, rows: QuerySet[Any], most: int) -> list[Any]:
        """The lowest primary keys of rows, up to ``most``, in order."""
        with self.scan() as known:
            from_floor = rows.filter(pk__gte=known[0]) if known else rows
            lowest = list(from_floor.order_by("pk").values_list("pk", flat=True)[:most])
        if lowest:
            self.note(0, lowest[0])
        return lowest

    def note(self, key: int, lowest: Any) -> None:
        """Note the lowest entry that a scan has met. It becomes the floor after ``LAG``."""
        now = time.monotonic()
        coming, since = self._coming.get(key, (lowest, now))
        coming = min(coming, lowest)
        if now - since >= LAG:
            self._floors[key], coming, since = coming, lowest, now
        elif key in self._floors:
            self._floors[key] = min(self._floors[key], lowest)
        self._coming[key] = coming, since
