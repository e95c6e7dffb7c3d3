"""Where a worker begins to look through an index, so that it need not pass the dead entries at the low end.

A worker takes its work from the low end of an index. PostgreSQL keeps the entries that it has taken while any
transaction with an older snapshot is open, such as a report or a backup. Each look would pass all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# A look without floors is made again when so many times its cost has passed: always if it is cheap.
COST_FACTOR = 20


class Floors:
    """The lowest entries that the last look found, by key. Entries that come in below are found without floors."""

    def __init__(self) -> None:
        self._lowest: dict[int, Any] = {}
        self._next_full = 0.0

    @property
    def known(self) -> Mapping[int, Any]:
        """The floors of the last look."""
        return self._lowest

    @contextmanager
    def look(self) -> Iterator[dict[int, Any]]:
        """The floors of this look. Write into it what the look finds."""
        began = time.monotonic()
        is_full = began >= self._next_full
        if is_full:
            self._lowest.clear()
        yield self._lowest
        if is_full:
            ended = time.monotonic()
            self._next_full = ended + COST_FACTOR * (ended - began)
