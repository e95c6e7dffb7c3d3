"""Draws two busy workers over time, with and without a pinned snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from scripts.benchmark.pinned import OBJECTS, BusyWorker, measure_in_turn
from scripts.benchmark.plot import Panel, Points, draw_lines
from scripts.benchmark.report import measured_on
from scripts.benchmark.servers import Bench

WITHOUT, WITH = "without a pinned snapshot", "with one, pinned at 0 s"


def draw_pinned(bench: Bench, machine: Mapping[str, Any]) -> str:
    """The deliveries a second, and the processor time of PostgreSQL for each delivery, as an SVG document."""
    workers = dict(zip((WITHOUT, WITH), measure_in_turn(bench), strict=True))
    description = f"Two workers in turn, a fast receiver, changes of {OBJECTS} objects. {measured_on(machine)}"
    panels = [
        Panel("Deliveries a second", {name: _rates(worker) for name, worker in workers.items()}),
        Panel(
            "Processor time of PostgreSQL for each delivery, in ms",
            {name: _costs(worker) for name, worker in workers.items()},
        ),
    ]
    return draw_lines(panels, "s", description)


def _rates(worker: BusyWorker) -> Points:
    return [(at, sample.deliveries / sample.seconds) for at, sample in zip(_times(worker), worker.samples, strict=True)]


def _costs(worker: BusyWorker) -> Points:
    costs = (1000 * sample.database_cpu / sample.deliveries for sample in worker.samples)
    return list(zip(_times(worker), costs, strict=True))


def _times(worker: BusyWorker) -> list[float]:
    """The seconds of work until the end of each sample."""
    return list(accumulate(sample.seconds for sample in worker.samples))
