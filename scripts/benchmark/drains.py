"""Lets real workers deliver what is on file, and measures that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.lab import Lab
from scripts.benchmark.mailbox import Mailbox, Received
from scripts.benchmark.processes import backends, cpu_seconds
from tests.waiting import until
from tests.workers import SHIPPED
from webhooks.models import Attempt, Delivery, State, Webhook

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
    """Commit so many Events of objects that are all different to an empty database, and let workers deliver them.

    Keywords are laid over their setting WEBHOOKS. Raises NotMeasured when not each of them is delivered once.
    """
    lab.empty()
    mailbox = lab.mailbox(behaviour)
    return deliver_more(lab, lab.webhook(mailbox.url), mailbox, count, worker_class, workers, **webhooks)


def deliver_more(
    lab: Lab,
    webhook: Webhook,
    mailbox: Mailbox,
    count: int,
    worker_class: str = SHIPPED,
    workers: int = 1,
    **webhooks: Any,
) -> Drained:
    """The same beside whatever is on file, for a webhook that sends to this mailbox."""
    with lab.workers(worker_class, workers, **webhooks) as crew:
        pids, theirs = [worker.pid for worker in crew], at_rest(workers if worker_class == SHIPPED else 0)
        cpu, database = cpu_seconds(pids), cpu_seconds(theirs)
        before = lab.fill(webhook, count)
        received = mailbox.wait_for(count, seconds=30 + count / SLOWEST)
        wait_until_recorded(count, before)
        cpu, database = cpu_seconds(pids) - cpu, _since(theirs, database)
    return Drained(count, received, [at for _, at in mailbox.times()], cpu, database)


def at_rest(workers: int) -> list[int]:
    """Wait until so many workers are connected to the database, and have no more to do at their start. Returns the
    processes of PostgreSQL that serve them."""
    until(lambda: len(backends()) == workers, 30, f"{workers} connections to the database")
    time.sleep(0.3)
    return backends()


def _since(pids: list[int], before: float) -> float:
    try:
        return cpu_seconds(pids) - before
    except OSError:
        return 0.0  # a worker has connected anew


def wait_until_recorded(count: int, after: int = 0) -> None:
    """Wait until the Events with ids above ``after`` are delivered so many times, as far as the database knows."""
    deliveries = Delivery.objects.filter(event_id__gt=after, state=State.SUCCEEDED)
    try:
        until(lambda: deliveries.count() >= count, 30, f"{count} deliveries to be recorded", every=0.05)
    except AssertionError as error:
        raise NotMeasured(str(error)) from None
    if (attempts := Attempt.objects.filter(delivery__event_id__gt=after).count()) != count:
        raise NotMeasured(f"{count} deliveries took {attempts} attempts")
