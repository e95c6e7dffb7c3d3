"""The table that people read, and the JSON that programs read. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmark.figures import Result, Run

HEADER = ("figure", "measured", "baseline", "ratio", "target", "met")

METHOD = (
    "Measured, baseline and ratio are medians over {runs}; the ratio is that of each pair of measurement and "
    "baseline, which are taken in turn."
)
NO_VERDICT = "This was a smoke run: its numbers mean nothing, and no target is judged."


def table(found: Sequence[Result], judged: bool) -> str:
    """Markdown. Without verdicts where ``judged`` is false."""
    lines = [_line(HEADER), _line("---" for _ in HEADER)]
    lines += [_line(_cells(result, judged)) for result in found]
    failures = [f"{result.figure.name}: not measured. {result.failure}" for result in found if result.failure]
    notes = [METHOD.format(runs=_runs(found))] + ([] if judged else [NO_VERDICT]) + failures
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(result: Result, judged: bool) -> list[str]:
    figure, summary = result.figure, result.summary
    what = f"{figure.what} (`{figure.name}`)"
    target = figure.target.text if figure.target else "-"
    if summary is None:
        return [what, "not measured", figure.against, "-", target, "-"]
    baseline = "-" if summary.baseline is None else f"{number(summary.baseline)} {figure.unit}: {figure.against}"
    ratio = "-" if summary.ratio is None else f"{summary.ratio:.2f}"
    return [what, f"{number(summary.value)} {figure.unit}", baseline, ratio, target, _verdict(result, judged)]


def _verdict(result: Result, judged: bool) -> str:
    if not judged or result.met is None:
        return "-"
    return "yes" if result.met else "**no**"


def brief(result: Result) -> str:
    """One line, for whoever waits for the table."""
    figure, summary = result.figure, result.summary
    if summary is None:
        return f"{figure.name}: not measured"
    ratio = "" if summary.ratio is None else f", ratio {summary.ratio:.2f}"
    return f"{figure.name}: {number(summary.value)} {figure.unit}{ratio}"


def _runs(found: Sequence[Result]) -> str:
    counts = sorted({len(result.runs) for result in found if result.runs}) or [0]
    least, most = counts[0], counts[-1]
    return f"{most} run{'s' if most != 1 else ''}" if least == most else f"{least} to {most} runs"


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def as_json(machine: Mapping[str, Any], found: Sequence[Result], judged: bool) -> dict[str, Any]:
    return {"machine": dict(machine), "figures": [_figure(result, judged) for result in found]}


def _figure(result: Result, judged: bool) -> dict[str, Any]:
    figure, summary = result.figure, result.summary
    return {
        "name": figure.name,
        "what": figure.what,
        "value": summary.value if summary else None,
        "unit": figure.unit,
        "against": figure.against,
        "baseline": summary.baseline if summary else None,
        "ratio": summary.ratio if summary else None,
        "target": figure.target.text if figure.target else None,
        "met": result.met if judged else None,
        "runs": [_run(run) for run in result.runs],
        "failure": result.failure or None,
    }


def _run(run: Run) -> dict[str, float | None]:
    return {"value": run.value, "baseline": run.baseline, "ratio": run.ratio}
