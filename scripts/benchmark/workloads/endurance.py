"""A long run: a steady load with retention, kills and a report with an old snapshot. Nothing is lost, nothing grows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from scripts.benchmark import sample_data
from scripts.benchmark.measure import mean_within, memory_mb, storage
from scripts.benchmark.pinned import SNAPSHOT
from scripts.benchmark.servers import Bench
from scripts.benchmark.steady import Events, load
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    NotMeasured,
    Workload,
    difference_at_most,
    ratio_at_least,
    ratio_at_most,
    value_at_most,
)
from tests.support.history import undivide
from tests.support.sessions import session
from tests.support.waiting import until
from webhooks.models.statistic import DAY

RATE = 500

# Of an hour: kills each minute, a retention of ten minutes, and a snapshot for 20 minutes from the 20th on. A process
# needs some seconds to start, so a shorter run has fewer kills.
KILLS, PERIODS, SNAPSHOT_FROM, SNAPSHOT_UNTIL = 60, 6, 1 / 3, 2 / 3
START_SECONDS = 5

# The times that are compared end with the snapshot's begin, when the tables are full, and with the run.
COMPARED = 1 / 12

SAMPLES = 240

# Seconds after the load until the last request, with the lease of a killed worker and the next sweep.
QUIET = 60


class Sample(NamedTuple):
    """Megabytes and open files of the worker that is never killed, and what the tables take, after some seconds."""

    seconds: float
    sent: int
    memory: float
    files: int
    tables: float
    indexes: float
    disk: float
    dead: int


@dataclass(frozen=True)
class LongRun:
    samples: list[Sample]
    seconds: float
    committed: int
    lost: int
    kills: int

    def compare(self, name: str) -> Measurement:
        """The mean of the last five minutes of an hour, with the five before the snapshot as the baseline."""
        return Measurement(self._mean(name, 1 - COMPARED), self._mean(name, SNAPSHOT_FROM - COMPARED))

    def _mean(self, name: str, begin: float) -> float:
        return mean_within(self.samples, name, begin * self.seconds, (begin + COMPARED) * self.seconds)


def measure(bench: Bench) -> Iterator[Measurements]:
    while True:
        run = endure(bench, bench.size(bench.size.endurance_seconds, 12))
        yield {
            "endurance-rate": Measurement((run.committed - run.lost) / run.seconds, run.committed / run.seconds),
            "endurance-lost": Measurement(run.lost),
            "endurance-kills": Measurement(run.kills),
            **{f"endurance-{name}": run.compare(name) for name in WHATS},
        }


def endure(bench: Bench, seconds: float) -> LongRun:
    bench.clear()
    sample_data.vacuum()
    undivide()  # partitions that were made for a longer retention last too long
    stream, samples, kills = Events(bench), list[Sample](), 0
    settings: dict[str, Any] = {"RETENTION_DAYS": {"succeeded": seconds / PERIODS / DAY}}
    with bench.workers(count=0), ExitStack() as report:
        survivor, victim = bench.start_worker(**settings), bench.start_worker(**settings)
        for worker in (survivor, victim):
            worker.wait_until_listening()
        with load(bench.size(RATE, 100), stream.commit):
            began, has_snapshot = time.monotonic(), False
            while (now := time.monotonic() - began) < seconds:
                if not has_snapshot and now >= SNAPSHOT_FROM * seconds:
                    report.enter_context(session(SNAPSHOT))
                    has_snapshot = True
                if now >= SNAPSHOT_UNTIL * seconds:
                    report.close()
                if now >= (kills + 1) * max(START_SECONDS, seconds / KILLS):
                    victim.kill()
                    victim = bench.start_worker(**settings)
                    kills += 1
                memory, files = memory_mb(survivor.pid), len(os.listdir(f"/proc/{survivor.pid}/fd"))
                samples.append(Sample(now, stream.count_requests(), memory, files, **vars(storage())))
                time.sleep(max(0.0, began + len(samples) * seconds / SAMPLES - time.monotonic()))
        arrived = _arrived(stream)
    return LongRun(samples, seconds, len(stream.committed), len(stream.committed) - arrived, kills)


def _arrived(stream: Events) -> int:
    """How many of the changes have arrived when nothing more comes. Raises NotMeasured if there are too many."""
    committed = len(stream.committed)
    with suppress(AssertionError):  # the figure shows how many are missing
        until(lambda: len(stream.received_ids()) >= committed, QUIET, "the last requests", every=1)
    if (arrived := len(stream.received_ids())) > committed:
        raise NotMeasured(f"{committed} changes were committed, and {arrived} arrived")
    return arrived


LOAD = f"{RATE} changes a second with retention, kills and an old snapshot"
WHATS = {
    "memory": ("memory of a worker", "MB", ratio_at_most(1.1)),
    "files": ("open files of a worker", "files", difference_at_most(5, "files")),
    "tables": ("size of the tables", "MB", ratio_at_most(1.25)),
    "indexes": ("size of the indexes", "MB", ratio_at_most(1.25)),
    "disk": ("size of the database", "MB", ratio_at_most(1.25)),
    "dead": ("dead rows", "rows", ratio_at_most(1.5) | difference_at_most(50_000, "rows")),
}

ENDURANCE = Workload(
    "endurance",
    (
        Figure("endurance-rate", LOAD, "deliveries/s", "changes that were committed", ratio_at_least(1)),
        Figure("endurance-lost", f"changes that are lost, {LOAD}", "changes", "", value_at_most(0, "changes")),
        Figure("endurance-kills", f"workers that were killed, {LOAD}", "workers", ""),
        *(
            Figure(f"endurance-{name}", f"{what} at the end, {LOAD}", unit, "before the snapshot", target)
            for name, (what, unit, target) in WHATS.items()
        ),
    ),
    measure,
    most_runs=1,
)
