"""Lets real workers deliver what is on file, and measures that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.lab import Lab
from scripts.benchmark.mailbox import Received
from scripts.benchmark.processes import backends, cpu_seconds
from tests.waiting import until
from tests.workers import SHIPPED
from webhooks.models import Attempt, Delivery, State

# At the slowest, deliveries a second; what takes longer has stalled.
SLOWEST = 20


@dataclass(frozen=True)
class Drained:
    """What came of so many deliveries; ``cpu`` and ``database`` are CPU seconds of the worker processes and of the
    processes of PostgreSQL that serve them, from the commit of the Events to the last record."""

    count: int
    received: Received
    times: list[float]
    cpu: float
    database: float

    @property
    def rate(self) -> float:
        """Deliveries a second, from the first receipt to the last: starting the processes is not part of it."""
        return self.received.rate

    @property
    def steady_rate(self) -> float:
        """The same of the middle three fifths, when all of several workers are at work."""
        middle = self.times[len(self.times) // 5 : len(self.times) * 4 // 5]
        return (len(middle) - 1) / (middle[-1] - middle[0])


def drain(
    lab: Lab, count: int, behaviour: str = "ok", worker_class: str = SHIPPED, workers: int = 1, **webhooks: Any
) -> Drained:
    """Commit so many Events of objects that are all different, and let workers deliver them.

    Keywords are laid over their setting WEBHOOKS. Raises NotMeasured when not each of them is delivered once.
    """
    lab.empty()
    mailbox = lab.mailbox(behaviour)
    webhook = lab.webhook(mailbox.url)
    with lab.workers(worker_class, workers, **webhooks) as crew:
        pids, theirs = [worker.pid for worker in crew], backends()
        cpu, database = cpu_seconds(pids), cpu_seconds(theirs)
        lab.fill(webhook, count)
        received = mailbox.wait_for(count, seconds=30 + count / SLOWEST)
        wait_until_recorded(count)
        cpu, database = cpu_seconds(pids) - cpu, _since(theirs, database)
    return Drained(count, received, [at for _, at in mailbox.times()], cpu, database)


def _since(pids: list[int], before: float) -> float:
    try:
        return cpu_seconds(pids) - before
    except OSError:
        return 0.0  # a worker has connected anew


def wait_until_recorded(count: int) -> None:
    succeeded = Delivery.objects.filter(state=State.SUCCEEDED)
    try:
        until(lambda: succeeded.count() >= count, 30, f"{count} deliveries to be recorded", every=0.02)
    except AssertionError as error:
        raise NotMeasured(str(error)) from None
    if (attempts := Attempt.objects.count()) != count:
        raise NotMeasured(f"{count} deliveries took {attempts} attempts")
