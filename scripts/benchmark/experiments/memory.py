"""Whether a worker grows, and what it takes beside rq's own."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.benchmark.drains import wait_until_recorded
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, more_at_most, times_at_most
from scripts.benchmark.lab import Lab
from scripts.benchmark.processes import memory_mb
from tests.workers import STOCK

EARLY, LATE, AT_ONCE = 1000, 100_000, 10_000


def measure(lab: Lab) -> Iterator[Reading]:
    while True:
        lab.empty()
        with lab.workers(STOCK) as [idle]:
            stock = memory_mb(idle.pid)
        early, late = grow(lab, lab.size(EARLY, 100), lab.size(LATE, 300))
        yield {"memory": Run(late, early), "memory-stock": Run(late, stock)}


def grow(lab: Lab, few: int, many: int) -> tuple[float, float]:
    """Megabytes of one worker process after it made so many deliveries, and so many."""
    lab.empty()
    mailbox = lab.mailbox()
    webhook = lab.webhook(mailbox.url)
    taken = []
    done = 0
    with lab.workers() as [worker]:
        for goal in (few, many):
            while done < goal:
                portion = min(AT_ONCE, goal - done)
                lab.fill(webhook, portion)
                done += portion
                mailbox.wait_for(done, seconds=30 + portion / 20)
            wait_until_recorded(done)
            taken.append(memory_mb(worker.pid))
    return taken[0], taken[1]


WHAT = f"memory of a worker after {LATE:,} deliveries"

GROWTH = Experiment(
    "memory",
    (
        Figure("memory", WHAT, "MB", f"after {EARLY:,}", times_at_most(1.05)),
        Figure("memory-stock", WHAT, "MB", "an idle stock rqworker", more_at_most(25, "MB")),
    ),
    measure,
)
