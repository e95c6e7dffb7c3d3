"""The time that simulated processes see. PostgreSQL's is in ``postgresql``."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, tzinfo
from typing import Any
from unittest.mock import patch

from django.utils import timezone

from tests.simulation.world import World
from webhooks.models import queue

# Minutes before midnight, so that partitions and days of statistics change during a story.
START = datetime(2030, 5, 31, 23, 59, 0, tzinfo=UTC).timestamp()


class Clocks:
    """Time in one world. The clock of the machines may be wrong, and so may the database's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.start = START
        self.database_error = 0.0
        """Seconds that the database's clock is ahead."""
        self.most_ahead = 0.0
        """The most that it was ahead so far."""

    def database(self) -> float:
        """Seconds since 1970 by the clock of the database."""
        return self.start + self._world.now + self.database_error

    def machine(self) -> float:
        """Seconds since 1970 by the clock of the machine of the running process."""
        task = self._world.current
        return self.start + self._world.now + (task.process.clock_error if task else self.database_error)

    def monotonic(self) -> float:
        return self._world.now + 1000

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def installed(self, seed: int) -> list[Any]:
        """Patches that give this time, and chance from the seed, to all code of this process."""
        chance = random.Random(seed)
        random.seed(seed)

        class Moment(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.fromtimestamp(self.machine(), tz)

        return [
            patch.object(time, "time", self.machine),
            patch.object(time, "time_ns", lambda: int(self.machine() * 1e9)),
            patch.object(time, "monotonic", self.monotonic),
            patch.object(time, "clock_gettime", lambda clock: self.monotonic()),
            patch.object(time, "sleep", self.sleep),
            patch.object(timezone, "datetime", Moment),
            patch.object(queue, "datetime", Moment),
            patch("os.urandom", chance.randbytes),
        ]
