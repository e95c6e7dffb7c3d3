"""What a figure is, what its runs come to, and whether that meets its target. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.benchmark.lab import Lab


@dataclass(frozen=True)
class Run:
    """What one run measured, and its baseline, measured beside it."""

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
    """What the runs come to: each number is the median of that number over the runs.

    So the ratio is the median of the ratios of the pairs, not the ratio of the medians: the two halves of a pair
    are measured one after the other, and what slows the machine down for a while slows both.
    """

    value: float
    baseline: float | None
    ratio: float | None
    difference: float | None


def summarize(runs: Sequence[Run]) -> Summary:
    """Raises ValueError when there are no runs."""
    if not runs:
        raise ValueError("it has no runs")
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
    """What a figure is to reach, in words and as a test of its summary."""

    text: str
    holds: Callable[[Summary], bool]

    def __or__(self, other: Target) -> Target:
        """Met where either is: where the larger of two limits counts."""
        return Target(f"{self.text}, or {other.text}", lambda summary: self.holds(summary) or other.holds(summary))


def times_at_least(limit: float) -> Target:
    return Target(f"≥ {limit:g} times", lambda summary: summary.ratio is not None and summary.ratio >= limit)


def times_at_most(limit: float) -> Target:
    return Target(f"≤ {limit:g} times", lambda summary: summary.ratio is not None and summary.ratio <= limit)


def value_at_most(limit: float, unit: str) -> Target:
    return Target(f"≤ {limit:g} {unit}", lambda summary: summary.value <= limit)


def more_at_most(limit: float, unit: str) -> Target:
    """At most so much more than the baseline."""
    return Target(
        f"≤ {limit:g} {unit} more", lambda summary: summary.difference is not None and summary.difference <= limit
    )


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``what`` says what is measured, ``against`` what its baseline is."""

    name: str
    what: str
    unit: str
    against: str
    target: Target | None = None


# One run of an experiment: a Run for each of its figures, by name.
Reading = Mapping[str, Run]


@dataclass(frozen=True)
class Experiment:
    """Figures that come from the same runs. ``measure`` sets up, then gives one reading after another, without end
    or ``lab.size.runs`` of them."""

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[Lab], Iterator[Reading]]


@dataclass(frozen=True)
class Result:
    """A figure with its runs, or why it could not be measured."""

    figure: Figure
    runs: tuple[Run, ...]
    failure: str = ""

    @property
    def summary(self) -> Summary | None:
        return summarize(self.runs) if self.runs and not self.failure else None

    @property
    def met(self) -> bool | None:
        """None where there is no target, or nothing was measured."""
        return self.figure.target.holds(self.summary) if self.figure.target and self.summary else None


def results(experiment: Experiment, readings: Sequence[Reading], failure: str = "") -> list[Result]:
    """The results of one experiment; those of its figures that a reading lacks have failed."""
    found = []
    for figure in experiment.figures:
        runs = tuple(reading[figure.name] for reading in readings if figure.name in reading)
        missing = "" if runs and len(runs) == len(readings) else f"{len(runs)} of {len(readings)} runs gave it"
        found.append(Result(figure, runs, failure or missing))
    return found
