"""Runs workloads in turn and collects their results. A failed workload does not stop the others."""

from __future__ import annotations

import itertools
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from scripts.benchmark.pinned_plot import draw_pinned
from scripts.benchmark.report import describe_machine, one_line
from scripts.benchmark.servers import Bench, Size, open_bench
from scripts.benchmark.targets import Measurements, Result, Workload, results_of


def run_all(workloads: Sequence[Workload], size: Size) -> tuple[dict[str, Any], list[Result]]:
    """Start the servers and run the workloads. Returns the description of the machine and the results."""
    with open_bench(size) as bench:
        machine = describe_machine()
        results = [result for workload in workloads for result in run_workload(workload, bench)]
    return machine, results


def run_plot(size: Size) -> str:
    """Start the servers and measure a worker over time. Returns the plot as SVG."""
    with open_bench(size) as bench:
        return draw_pinned(bench, describe_machine())


def run_workload(workload: Workload, bench: Bench) -> list[Result]:
    """Run one workload. An error becomes the failure of its results; it is not raised."""
    started = time.monotonic()
    runs: list[Measurements] = []
    failure = ""
    try:
        _measure(workload, bench, runs)
    except Exception as error:
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
    _print_progress(f"{workload.name}: {failure or 'done'} after {time.monotonic() - started:.0f} s")
    results = results_of(workload, runs, failure)
    for result in results:
        _print_progress(f"  {one_line(result)}")
    return results


def _measure(workload: Workload, bench: Bench, runs: list[Measurements]) -> None:
    bench.clear()
    # Close the generator after the last run, so that it cleans up.
    with closing(workload.measure(bench)) as endless:  # type: ignore[type-var]
        for measurements in itertools.islice(endless, bench.size.runs):
            runs.append(measurements)
            _print_progress(f"{workload.name}: run {len(runs)} of {bench.size.runs}")


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
