"""Draws the deliveries a second of one worker beside its baselines, from the JSON of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from scripts.benchmark.plot import draw_bars
from scripts.benchmark.report import measured_on
from scripts.benchmark.targets import NotMeasured
from scripts.benchmark.workloads.workers import ONE_WORKER, RATE, SLOW_RECEIVER, SLOW_RECEIVERS, THROUGHPUT

DRAWN = {
    figure.name
    for workload in (THROUGHPUT, SLOW_RECEIVER, SLOW_RECEIVERS)
    for figure in workload.figures
    if figure.what.startswith(f"{ONE_WORKER}, ")
}


def draw_rates(run: Mapping[str, Any]) -> str:
    """An SVG document with a group of bars for each receiver. Raises NotMeasured if the run lacks all these figures."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for figure in run["figures"]:
        if figure["name"] in DRAWN and figure["unit"] == RATE and figure["value"]:
            bars = groups[figure["what"].removeprefix(f"{ONE_WORKER}, ")]
            bars[f"{ONE_WORKER} of this app"] = figure["value"]
            if figure["baseline"]:
                bars[figure["against"]] = figure["baseline"]
    if not groups:
        raise NotMeasured("this run has not measured the deliveries a second of one worker")
    return draw_bars("Deliveries a second", groups, measured_on(run["machine"]))
