"""A rate of deliveries for some time, while the sweep deletes what its retention is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from scripts.benchmark import sample_data
from scripts.benchmark.measure import mean_within, storage
from scripts.benchmark.servers import Bench
from scripts.benchmark.steady import Events, load
from scripts.benchmark.targets import NotMeasured
from tests.support.history import undivide
from tests.support.waiting import until
from webhooks.models import Delivery
from webhooks.models.statistic import DAY

# Changes a second of the steady load.
STEADY = 1700

# How many times the retention fits into the time that is measured. The first half of that time fills the tables: a
# partition goes when all of it is old, and at most a minute later.
PERIODS = 6

SAMPLES = 100

# Seconds that a worker may need for what waits when the load ends.
CATCH_UP = 60

# Of a load that always has work: at least so many changes wait.
BACKLOG = 6000


class Sample(NamedTuple):
    """What had happened after some seconds. Sizes are in megabytes."""

    seconds: float
    sent: int
    stored: int
    tables: float
    indexes: float
    disk: float
    dead: int


@dataclass(frozen=True)
class Course:
    """The samples of one run. ``delays`` are milliseconds from commit to receipt of the changes of the last part whose
    deliveries are still stored; empty if they were not measured."""

    samples: list[Sample]
    seconds: float
    delays: list[float]

    @property
    def rate(self) -> float:
        """Deliveries a second in the second half."""
        begin, end = self._second_half()
        return (end.sent - begin.sent) / (end.seconds - begin.seconds)

    @property
    def deleted(self) -> float:
        """Deliveries that the sweep deleted in a second of the second half."""
        begin, end = self._second_half()
        return self.rate - (end.stored - begin.stored) / (end.seconds - begin.seconds)

    def at_half(self, name: str) -> float:
        return self._mean(name, self.seconds / 2)

    def at_the_end(self, name: str) -> float:
        return self._mean(name, self.seconds * (1 - 1 / PERIODS))

    def _second_half(self) -> tuple[Sample, Sample]:
        late = [sample for sample in self.samples if sample.seconds >= self.seconds / 2]
        if len(late) < 2:
            raise NotMeasured(f"{len(late)} samples were taken in the second half")
        return late[0], late[-1]

    def _mean(self, name: str, begin: float) -> float:
        """The mean over one time of retention: a sweep may delete much at once, so a moment says little."""
        return mean_within(self.samples, name, begin, begin + self.seconds / PERIODS)


def steady(bench: Bench, is_deleting: bool) -> Course:
    """Deliver a steady load, each change of a different object."""
    bench.clear()
    sample_data.vacuum()
    stream = Events(bench)

    def delays(since: float) -> list[float]:
        try:
            until(lambda: stream.count_requests() >= len(stream.committed), CATCH_UP, "the last requests", every=0.2)
        except AssertionError as error:
            raise NotMeasured(f"{error}: the machine is too slow or too busy for this rate") from None
        arrived = stream.arrived()
        return [1000 * (at - begin) for pk, at in arrived.items() if (begin := stream.committed[pk]) > since]

    rate = bench.size(STEADY, 100)
    return _watch(bench, rate, stream.commit, stream.count_requests, is_deleting, delays)


def busy(bench: Bench, is_deleting: bool) -> Course:
    """Deliver as fast as the worker can."""
    bench.clear()
    sample_data.vacuum()
    inbox = bench.inbox()
    webhook, backlog, added = bench.webhook(inbox.url), bench.size(BACKLOG, 300), 0

    def commit(count: int) -> None:
        nonlocal added
        if added - inbox.received().count < backlog:
            sample_data.insert_events(backlog // 3, [webhook.pk])
            added += backlog // 3

    return _watch(bench, 20, commit, lambda: inbox.received().count, is_deleting)


def _watch(
    bench: Bench,
    rate: int,
    commit: Callable[[int], None],
    count_sent: Callable[[], int],
    is_deleting: bool,
    delays: Callable[[float], list[float]] = lambda since: [],
) -> Course:
    """Keep up a load of one worker. Without retention, for a third of the time: that is only the baseline."""
    whole = bench.size(bench.size.retention_seconds, 6)
    settings: dict[str, Any] = {"RETENTION_DAYS": {"succeeded": whole / PERIODS / DAY}} if is_deleting else {}
    seconds = whole if is_deleting else whole / 3
    undivide()  # partitions that were made for a longer retention last too long
    samples = list[Sample]()
    with bench.workers(**settings):
        with load(rate, commit):
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                samples.append(Sample(now, count_sent(), Delivery.objects.count(), **vars(storage())))
                time.sleep(max(0.0, began + len(samples) * seconds / SAMPLES - time.monotonic()))
        return Course(samples, seconds, delays(began + seconds * 2 / 3))
