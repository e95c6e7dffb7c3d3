"""The Markdown table for people, the JSON for programs, and the description of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import django_rq
from django.db import connection

from scripts.benchmark.targets import Measurement, Result

HEADER = ("figure", "measured", "baseline", "ratio", "target", "met")

METHOD = (
    "Measured, baseline and ratio are medians over {runs}. The ratio is the median of the ratios of the runs: each run "
    "measures the value and the baseline in turn."
)
NO_VERDICT = "This was a quick run: its numbers mean nothing, and no target is judged."

POSTGRESQL_SETTINGS = ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers"]
PACKAGES = ("django", "rq", "django-rq", "redis", "requests", "urllib3", "psycopg")


def table(results: Sequence[Result], judged: bool) -> str:
    """The results in Markdown; without verdicts if ``judged`` is false."""
    lines = [_row(HEADER), _row("---" for _ in HEADER)]
    lines += [_row(_cells(result, judged)) for result in results]
    failures = [f"{result.figure.name}: not measured. {result.failure}" for result in results if result.failure]
    notes = [METHOD.format(runs=_count_of_runs(results))] + ([] if judged else [NO_VERDICT]) + failures
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(result: Result, judged: bool) -> list[str]:
    figure, summary = result.figure, result.summary
    what = f"{figure.what} (`{figure.name}`)"
    target = figure.target.text if figure.target else "-"
    if summary is None:
        return [what, "not measured", figure.against, "-", target, "-"]
    baseline = "-" if summary.baseline is None else f"{format_number(summary.baseline)} {figure.unit}: {figure.against}"
    ratio = "-" if summary.ratio is None else f"{summary.ratio:.2f}"
    return [what, f"{format_number(summary.value)} {figure.unit}", baseline, ratio, target, _verdict(result, judged)]


def _verdict(result: Result, judged: bool) -> str:
    if not judged or result.is_met is None:
        return "-"
    return "yes" if result.is_met else "**no**"


def _count_of_runs(results: Sequence[Result]) -> str:
    counts = sorted({len(result.runs) for result in results if result.runs}) or [0]
    least, most = counts[0], counts[-1]
    return f"{most} run{'s' if most != 1 else ''}" if least == most else f"{least} to {most} runs"


def one_line(result: Result) -> str:
    """A result for the progress output."""
    figure, summary = result.figure, result.summary
    if summary is None:
        return f"{figure.name}: not measured"
    ratio = "" if summary.ratio is None else f", ratio {summary.ratio:.2f}"
    return f"{figure.name}: {format_number(summary.value)} {figure.unit}{ratio}"


def format_number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def as_json(machine: Mapping[str, Any], results: Sequence[Result], judged: bool) -> dict[str, Any]:
    return {"machine": dict(machine), "figures": [_figure_as_json(result, judged) for result in results]}


def _figure_as_json(result: Result, judged: bool) -> dict[str, Any]:
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
        "met": result.is_met if judged else None,
        "runs": [_run_as_json(run) for run in result.runs],
        "failure": result.failure or None,
    }


def _run_as_json(run: Measurement) -> dict[str, float | None]:
    return {"value": run.value, "baseline": run.baseline, "ratio": run.ratio}


def describe_machine() -> dict[str, Any]:
    """The commit, the hardware and the versions, so that figures of two machines can be compared."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "postgresql": _postgresql(),
        "valkey": _valkey_version(),
    }


def measured_on(machine: Mapping[str, Any]) -> str:
    """The description of the machine for a plot, in a sentence."""
    return (
        f"Measured {machine['measured']} on {machine['processors']} processors, {machine['processor']}, "
        f"PostgreSQL {machine['postgresql']['version']}, commit {machine['commit']}."
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    directory = Path(__file__).parent
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _postgresql() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", [POSTGRESQL_SETTINGS])
        settings = dict(cursor.fetchall())
        cursor.execute("SHOW server_version")
        return {"version": cursor.fetchone()[0], **settings}


def _valkey_version() -> str:
    server = django_rq.get_queue("webhooks").connection.info("server")
    return str(server.get("valkey_version", server.get("redis_version", "unknown")))
