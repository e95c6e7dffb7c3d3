"""Figures, their targets, and whether a target is met. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.benchmark.servers import Bench


class NotMeasured(Exception):
    """A figure could not be measured; the message says why."""


@dataclass(frozen=True)
class Measurement:
    """The value of one run, and its baseline from the same run."""

    value: float
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None else self.value - self.baseline


@dataclass(frozen=True)
class Summary:
    """The medians over all runs.

    The ratio is the median of the ratios, not the ratio of the medians. The value and the baseline of a run are
    measured one after the other, so a slow moment of the machine slows both.
    """

    value: float
    baseline: float | None
    ratio: float | None
    difference: float | None


def summarize(runs: Sequence[Measurement]) -> Summary:
    """Raises ValueError if there are no runs."""
    if not runs:
        raise ValueError("there are no runs")
    return Summary(
        median(run.value for run in runs),
        _median([run.baseline for run in runs]),
        _median([run.ratio for run in runs]),
        _median([run.difference for run in runs]),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


@dataclass(frozen=True)
class Target:
    """A limit for a figure, as text and as a test of its summary."""

    text: str
    holds: Callable[[Summary], bool]

    def __and__(self, other: Target) -> Target:
        """A target that is met if both are met."""
        return Target(f"{self.text}, and {other.text}", lambda summary: self.holds(summary) and other.holds(summary))

    def __or__(self, other: Target) -> Target:
        """A target that is met if either of the two is met."""
        return Target(f"{self.text}, or {other.text}", lambda summary: self.holds(summary) or other.holds(summary))


def ratio_at_least(limit: float) -> Target:
    return Target(f"≥ {limit:g} times", lambda summary: summary.ratio is not None and summary.ratio >= limit)


def ratio_at_most(limit: float) -> Target:
    return Target(f"≤ {limit:g} times", lambda summary: summary.ratio is not None and summary.ratio <= limit)


def value_at_least(limit: float, unit: str) -> Target:
    return Target(f"≥ {limit:g} {unit}", lambda summary: summary.value >= limit)


def value_at_most(limit: float, unit: str) -> Target:
    return Target(f"≤ {limit:g} {unit}", lambda summary: summary.value <= limit)


def difference_at_most(limit: float, unit: str) -> Target:
    return Target(
        f"≤ {limit:g} {unit} more", lambda summary: summary.difference is not None and summary.difference <= limit
    )


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``what`` describes the value, ``against`` the baseline."""

    name: str
    what: str
    unit: str
    against: str
    target: Target | None = None


# The measurements of one run, by the names of the figures.
Measurements = Mapping[str, Measurement]


@dataclass(frozen=True)
class Workload:
    """Figures that are measured together.

    ``measure`` prepares the data, then yields the measurements of one run after another. It may yield without end.
    ``most_runs`` limits the runs of a workload that takes long: its runs have many samples, and vary little.
    """

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[Bench], Iterator[Measurements]]
    most_runs: int = 100


@dataclass(frozen=True)
class Result:
    """A figure with its runs, or the reason why it could not be measured."""

    figure: Figure
    runs: tuple[Measurement, ...]
    failure: str = ""

    @property
    def summary(self) -> Summary | None:
        return summarize(self.runs) if self.runs and not self.failure else None

    @property
    def is_met(self) -> bool | None:
        """None if there is no target or no measurement."""
        return self.figure.target.holds(self.summary) if self.figure.target and self.summary else None


def results_of(workload: Workload, runs: Sequence[Measurements], failure: str = "") -> list[Result]:
    """The results of a workload. A figure fails if any run lacks it."""
    results = []
    for figure in workload.figures:
        measured = tuple(run[figure.name] for run in runs if figure.name in run)
        missing = "" if measured and len(measured) == len(runs) else f"{len(measured)} of {len(runs)} runs measured it"
        results.append(Result(figure, measured, failure or missing))
    return results
