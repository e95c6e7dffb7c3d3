"""Measures one busy worker over time, with and without a pinned snapshot, and draws it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from scripts.benchmark import sample_data
from scripts.benchmark.measure import cpu_seconds, database_pids
from scripts.benchmark.plot import Panel, Points, draw_lines
from scripts.benchmark.receiver import Inbox
from scripts.benchmark.report import measured_on
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import NotMeasured
from scripts.benchmark.workloads.pressure import OBJECTS, pinned_snapshot
from webhooks.models import Webhook
from webhooks.workers import jobs

# The points of each line, the fewest seconds between two, and the seconds before the first.
POINTS, EVERY, WARM_UP = 30, 2, 5

# So many changes wait at least, so that the worker always has work.
BACKLOG = 6000

WITHOUT, WITH = "without a pinned snapshot", "with one, pinned at 0 s"


def draw_pinned(bench: Bench, machine: Mapping[str, Any]) -> str:
    """The deliveries a second, and the processor time of PostgreSQL for each delivery, as an SVG document."""
    rates: dict[str, Points] = {}
    costs: dict[str, Points] = {}
    for name in (WITHOUT, WITH):
        rates[name], costs[name] = _measure(bench, is_pinned=name == WITH)
    description = f"One worker, a fast receiver, changes of {OBJECTS} objects. {measured_on(machine)}"
    panels = [
        Panel("Deliveries a second", rates),
        Panel("Processor time of PostgreSQL for each delivery, in ms", costs),
    ]
    return draw_lines(panels, "s", description)


def _measure(bench: Bench, is_pinned: bool) -> tuple[Points, Points]:
    bench.clear()
    sample_data.vacuum()
    inbox = bench.inbox()
    backlog = Backlog(inbox, bench.webhook(inbox.url))
    samples: list[tuple[float, int, float]] = []
    every = bench.size(max(EVERY, bench.size.pinned_seconds // POINTS), 1)
    with bench.workers():
        backlog.keep_up(bench.size(WARM_UP, 2))
        backends = database_pids()
        with pinned_snapshot() if is_pinned else nullcontext():
            started = time.monotonic()
            for _ in range(bench.size(bench.size.pinned_seconds // every, 2) + 1):
                samples.append((time.monotonic() - started, inbox.received().count, cpu_seconds(backends)))
                backlog.keep_up(every)
    rates, costs = [], []
    for (before, done, cpu), (at, count, cpu_then) in itertools.pairwise(samples):
        if count == done:
            raise NotMeasured(f"nothing arrived from {before:.0f} to {at:.0f} s")
        rates.append((at, (count - done) / (at - before)))
        costs.append((at, 1000 * (cpu_then - cpu) / (count - done)))
    return rates, costs


class Backlog:
    """Changes of a few objects for one webhook, so many that a worker always has work."""

    def __init__(self, inbox: Inbox, webhook: Webhook) -> None:
        self._inbox, self._webhook = inbox, webhook
        self._added = 0

    def keep_up(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # A count in the database would cost more, the more dead rows it has.
            if self._added - self._inbox.received().count < BACKLOG:
                self._added += (portion := BACKLOG // 3)
                sample_data.insert_events(portion, [self._webhook.pk], object_id=f"(g.n %% {OBJECTS})::text")
                jobs.wake_up()
            time.sleep(0.1)
