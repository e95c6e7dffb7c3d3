"""Runs workloads in turn and collects their results. A failed workload does not stop the others."""

from __future__ import annotations

import itertools
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from scripts.benchmark.report import describe_machine, one_line
from scripts.benchmark.servers import Bench, Size, open_bench
from scripts.benchmark.targets import Measurements, Result, Workload, results_of


def run_all(workloads: Sequence[Workload], size: Size) -> tuple[dict[str, Any], list[Result]]:
    """Start the servers and run the workloads. Returns the description of the machine and the results."""
    with open_bench(size) as bench:
        machine, began = describe_machine(), time.monotonic()
        results = [result for workload in workloads for result in run_workload(workload, bench)]
        _print_progress(f"all of them: {(time.monotonic() - began) / 60:.1f} min")
    return machine, results


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
    results = results_of(workload, runs, failure)
    for result in results:
        _print_progress(f"  {one_line(result)}")
    _print_progress(f"{workload.name}: {failure or 'done'}, {time.monotonic() - started:.0f} s")
    return results


def _measure(workload: Workload, bench: Bench, runs: list[Measurements]) -> None:
    bench.clear()
    # Close the generator after the last run, so that it cleans up.
    with closing(workload.measure(bench)) as endless:  # type: ignore[type-var]
        count, began = min(bench.size.runs, workload.most_runs), time.monotonic()
        for measurements in itertools.islice(endless, count):
            runs.append(measurements)
            now = time.monotonic()
            _print_progress(f"{workload.name}: run {len(runs)} of {count}, {now - began:.0f} s")
            began = now


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
