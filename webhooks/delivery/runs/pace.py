"""How many events one query of a run looks at, so that no query takes long, however many rows there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import OperationalError

from webhooks.delivery.clock import elapsed
from webhooks.errors import is_statement_timeout

T = TypeVar("T")

# Events that one query looks at, at first. A quick query doubles this number, a slow one halves it down to the fewest:
# if a query for so few is slow, then not because of their number, and fewer would only need more queries.
LOOK_AT, FEWEST = 10_000, 1000
QUICK_SECONDS, SLOW_SECONDS = 0.02, 0.1

# A query that PostgreSQL has stopped is tried again with so many times fewer events.
STOPPED_FACTOR = 64


class Pace:
    """Adapts a number of events or deliveries to the time that the queries take. A page is hurried: its first queries
    look at the fewest."""

    def __init__(self, is_hurried: bool = False) -> None:
        self.events = min(LOOK_AT, FEWEST) if is_hurried else LOOK_AT
        """Events or deliveries that the next query looks at."""

    def read(self, read: Callable[[], T]) -> T | None:
        """Read rows, in a transaction with a time limit. None if PostgreSQL has stopped it: read fewer then."""
        began = elapsed()
        try:
            found = read()
        except OperationalError as error:
            if not is_statement_timeout(error):
                raise
            self.events = max(1, self.events // STOPPED_FACTOR)
            return None
        took = elapsed() - began
        if took < QUICK_SECONDS:
            self.events *= 2
        elif took > SLOW_SECONDS and self.events > FEWEST:
            self.events = max(FEWEST, self.events // 2)
        return found
