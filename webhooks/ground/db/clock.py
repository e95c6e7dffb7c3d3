"""The database's time in a process. Signatures and attempts of a worker carry it, so a wrong clock does no harm."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from webhooks.ground.db import database_time, elapsed
from webhooks.ground.errors import get_logger

logger = get_logger(__name__)

# Seconds between two comparisons with the database. ``elapsed`` counts in between: no step of a clock moves it.
COMPARE_EVERY = 30

# A clock that differs by more seconds than this is reported.
CLOCK_TOLERANCE = 5


class DatabaseClock:
    """Counts on from the last comparison with the database. Other threads may read it meanwhile."""

    def __init__(self) -> None:
        self._origin = time.time() - elapsed()
        """The database's time at which ``elapsed`` was 0; before the first comparison, this machine's."""
        self._compared = -float(COMPARE_EVERY)
        self._is_reported = False
        self.offset = 0.0
        """Seconds that this machine's clock was ahead of the database's."""

    def compare(self, using: str) -> None:
        """Ask the database for its time, if the last answer is old. Raises django.db.Error if the database is away."""
        before = elapsed()
        if before - self._compared < COMPARE_EVERY:
            return
        answer = database_time(using)
        self._compared = elapsed()
        self._origin = answer - (before + self._compared) / 2  # the answer was true halfway
        self.offset = time.time() - self.now().timestamp()
        if abs(self.offset) > CLOCK_TOLERANCE and not self._is_reported:
            logger.warning(
                "The clock of this machine differs by %.0f s from the database's. Requests carry the database's time",
                self.offset,
            )
            self._is_reported = True

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._origin + elapsed(), UTC)
