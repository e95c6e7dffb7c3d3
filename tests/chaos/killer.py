"""Kills workers that hold claims, and counts the claims."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from typing import Any

from tests.chaos import claims, ledger
from tests.chaos.crew import Crew
from tests.support.workers import Worker
from webhooks import models

# What dead workers held is to be taken back soon: a lease of six seconds, which a worker that lives can
# renew on a busy machine too, and a look for it every half second.
WORKER = {"LEASE": 6, "SWEEP_INTERVAL": 0.5}
KILL_EVERY = 0.5


class Killer:
    """Kills, every half second, one worker that holds claims, and hires another in its place.

    A worker is left half a second from its first claim on: it takes longer to start than it would live. After the last
    kill, the leases of the dead workers end at once: until then they overlap with the storm.
    """

    def __init__(self, crew: Crew, workers: int, most: int) -> None:
        self.crew, self.most = crew, most
        self.alive = [crew.hire(**WORKER) for _ in range(workers)]
        self.dead: list[Worker] = []
        self.orphaned: Counter[uuid.UUID] = Counter()
        self._last = time.monotonic()
        self._working_since: dict[str, float] = {}

    @property
    def kills(self) -> int:
        return len(self.dead)

    def __str__(self) -> str:
        return f"{self.kills} workers killed that held {self.orphaned.total()} claims"

    def strike(self) -> None:
        now = time.monotonic()
        for name in claims.claimants():
            self._working_since.setdefault(name, now)
        if now - self._last > KILL_EVERY and self.kills < self.most:
            ripe = [name for name in self.alive if now - self._working_since.get(name, now) > KILL_EVERY]
            any(self._kill(name) for name in random.sample(ripe, len(ripe)))

    def _kill(self, name: str) -> bool:
        left_behind = claims.kill_holder(self.crew.by_name[name], name)
        if left_behind:
            self.dead.append(self.crew.by_name[name])
            self.orphaned.update(left_behind)
            self.alive.remove(name)
            self.alive.append(self.crew.hire(**WORKER))
            self._last = time.monotonic()
        if self.kills == self.most:
            for worker in self.dead:
                worker.end_lease()
        return bool(left_behind)

    def check_repeats(self, account: ledger.Account) -> None:
        """Each delivery came again no more often than a worker was killed that held it."""
        unexplained = account.repeated - Counter({str(pk): times for pk, times in self.orphaned.items()})
        assert not unexplained, f"{account}; without a kill to explain it: {unexplained}"


class Reaper:
    """Kills one worker after the other, whatever it does, on any database. Each lives for half a second at least."""

    def __init__(self, crew: Crew, workers: int, most: int, settings: dict[str, Any]) -> None:
        self.crew, self.most, self._settings = crew, most, settings
        self._alive = [self._hire() for _ in range(workers)]
        self.dead: list[Worker] = []

    @property
    def kills(self) -> int:
        return len(self.dead)

    def __str__(self) -> str:
        return f"{self.kills} workers killed"

    def strike(self) -> None:
        """Kill the one that has worked for longest, once it has claimed something."""
        oldest = self._alive[0]
        known = models.Worker.objects.filter(name__endswith=f":{oldest.pid}").exists()
        if self.kills < self.most and known and time.time() - oldest.started_at > KILL_EVERY:
            oldest.kill()
            self.dead.append(self._alive.pop(0))
            self._alive.append(self._hire())
        if self.kills == self.most:
            for worker in self.dead:
                worker.end_lease()

    def _hire(self) -> Worker:
        return self.crew.by_name[self.crew.hire(**self._settings)]
