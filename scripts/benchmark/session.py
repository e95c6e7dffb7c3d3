"""One run of the benchmark: every chosen experiment in turn, whatever becomes of the one before."""

from __future__ import annotations

import itertools
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from scripts.benchmark.figures import Experiment, Reading, Result, results
from scripts.benchmark.lab import Lab, Size, open_lab
from scripts.benchmark.machine import describe
from scripts.benchmark.report import brief


def run(experiments: Sequence[Experiment], size: Size) -> tuple[dict[str, Any], list[Result]]:
    """Describe the machine, and measure; what goes wrong with one experiment stands in its results."""
    with open_lab(size) as lab:
        machine = describe()
        found = [result for experiment in experiments for result in attempt(experiment, lab)]
    return machine, found


def attempt(experiment: Experiment, lab: Lab) -> list[Result]:
    """The results of one experiment; none of its failures is raised."""
    started = time.monotonic()
    readings: list[Reading] = []
    failure = ""
    try:
        _measure(experiment, lab, readings)
    except Exception as error:
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
    _say(f"{experiment.name}: {failure or 'done'} after {time.monotonic() - started:.0f} s")
    found = results(experiment, readings, failure)
    for result in found:
        _say(f"  {brief(result)}")
    return found


def _measure(experiment: Experiment, lab: Lab, readings: list[Reading]) -> None:
    lab.empty()
    # Closed at the end of the last run, so that it tidies up even where it could go on.
    with closing(experiment.measure(lab)) as endless:  # type: ignore[type-var]
        for reading in itertools.islice(endless, lab.size.runs):
            readings.append(reading)
            _say(f"{experiment.name}: run {len(readings)} of {lab.size.runs}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
