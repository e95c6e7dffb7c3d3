"""Changes pour in while workers and writers are killed: exactly what was committed arrives, in order."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos import claims, ledger
from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.figures import Figures
from tests.inbox import Inbox
from tests.makers import make_webhook
from tests.testapp.models import Label
from tests.waiting import until
from webhooks.models import Delivery, Event, State

pytestmark = [pytest.mark.postgresql, pytest.mark.slow, pytest.mark.timeout(900)]

# What dead workers held is to be taken back soon: a lease of three seconds, and a look for it every half second.
WORKER = {"LEASE": 3, "SWEEP_INTERVAL": 0.5}
KILL_EVERY = 0.5


class Killer:
    """Kills, every half second, one worker that holds claims, and hires another in its place.

    A worker is left half a second from its first claim on: it takes longer to start than it would live.
    """

    def __init__(self, crew: Crew, workers: int, most: int) -> None:
        self.crew, self.most = crew, most
        self.alive = [crew.hire(**WORKER) for _ in range(workers)]
        self.kills = 0
        self.orphaned: Counter[uuid.UUID] = Counter()
        self._last = time.monotonic()
        self._working_since: dict[str, float] = {}

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
            self.orphaned.update(left_behind)
            self.kills += 1
            self.alive.remove(name)
            self.alive.append(self.crew.hire(**WORKER))
            self._last = time.monotonic()
        return bool(left_behind)

    def check_repeats(self, account: ledger.Account) -> None:
        """Each delivery came again no more often than a worker was killed that held it."""
        unexplained = account.repeated - Counter({str(pk): times for pk, times in self.orphaned.items()})
        assert not unexplained, f"{account}; without a kill to explain it: {unexplained}"


def unfinished() -> int:
    return Event.objects.undispatched().count() + Delivery.objects.exclude(state=State.SUCCEEDED).count()


def report() -> str:
    states = Counter(Delivery.objects.values_list("state", flat=True))
    return f"all to be delivered; {Event.objects.undispatched().count()} undispatched events, deliveries {dict(states)}"


def test_nothing_is_lost_invented_or_reordered_while_workers_and_writers_are_killed(
    crew: Crew,
    writers: Callable[[Plan], Writer],
    labels: list[int],
    inbox: Inbox,
    figures: Figures,
    is_long: bool,
) -> None:
    changes = 10_000 if is_long else 600
    url = "slow/0.01"
    make_webhook(Label, url=inbox.url(url))
    began = time.monotonic()
    killer = Killer(crew, workers=3, most=1000 if is_long else 15)
    crowd = [writers(Plan(f"w{n}", changes // 4, labels, pause=0.1)) for n in range(4)]

    def go_on() -> bool:
        killer.strike()
        for number, writer in enumerate(crowd, start=1):
            if not writer.kills and ledger.count(writer.plan.name) > number * changes // 20:
                writer.kill()
        return all(writer.is_done() for writer in crowd) and not unfinished()

    until(go_on, 900 if is_long else 90, report)
    took = time.monotonic() - began
    received = inbox.received(url)
    account = ledger.settle(received)
    intended = sum(line.count("(") for writer in crowd for line in writer.log.read_text().splitlines())
    figures(
        f"{account}; {killer.kills} workers killed holding {killer.orphaned.total()} claims, "
        f"{sum(writer.kills for writer in crowd)} writers killed, {intended - account.committed} changes died with "
        f"them, {took:.0f} s"
    )
    ledger.check_rows()
    account.check()
    killer.check_repeats(account)
    assert account.committed >= changes
    assert Event.objects.count() == account.committed
    assert killer.kills >= 5
