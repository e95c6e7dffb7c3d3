"""What more workers bring, and what they cost each other."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.benchmark.drains import Drained, drain
from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, times_at_least, times_at_most
from scripts.benchmark.lab import Lab

SENDERS = 10
ONE = "one worker"


def slow_drain(lab: Lab, workers: int) -> Drained:
    """So that each run takes about as long, each worker gets the same share."""
    return drain(lab, lab.size(1200, 60) * workers, "slow", workers=workers, SENDERS=SENDERS)


def reading(name: str, several: Drained, one: Drained) -> Reading:
    return {
        f"{name}-workers": Run(several.steady_rate, one.steady_rate),
        f"{name}-workers-cpu": Run(1000 * several.cpu / several.count, 1000 * one.cpu / one.count),
        f"{name}-workers-database": Run(
            1000 * known(several.database) / several.count, 1000 * known(one.database) / one.count
        ),
    }


def known(database: float) -> float:
    if not database:
        raise NotMeasured("a worker has changed its connection to PostgreSQL, or that is on another machine")
    return database


def measure(lab: Lab) -> Iterator[Reading]:
    while True:
        one, two, four = (slow_drain(lab, workers) for workers in (1, 2, 4))
        yield {**reading("two", two, one), **reading("four", four, one)}


def figures(name: str, times: float) -> tuple[Figure, ...]:
    what = f"{name} workers of {SENDERS} senders, a receiver of 50 ms"
    return (
        Figure(f"{name}-workers", what, "deliveries/s", ONE, times_at_least(times)),
        Figure(f"{name}-workers-cpu", f"CPU of {name} workers per delivery", "ms", ONE, times_at_most(1.15)),
        Figure(
            f"{name}-workers-database",
            f"CPU of PostgreSQL per delivery of {name} workers",
            "ms",
            ONE,
            times_at_most(1.15),
        ),
    )


WORKERS = Experiment("workers", (*figures("two", 1.8), *figures("four", 3.2)), measure)
