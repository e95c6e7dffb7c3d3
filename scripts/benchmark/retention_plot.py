"""Draws what is stored over time while the sweep deletes as much as a worker sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scripts.benchmark.plot import Panel, draw_lines
from scripts.benchmark.report import measured_on
from scripts.benchmark.retention import PERIODS, STEADY, Sample, busy, steady
from scripts.benchmark.servers import Bench


def draw_retention(bench: Bench, machine: Mapping[str, Any]) -> str:
    """The stored deliveries, the size of tables and indexes and the dead rows at two rates, as an SVG document."""
    courses = {
        f"{STEADY:,} changes a second": steady(bench, is_deleting=True),
        "as fast as a worker goes": busy(bench, is_deleting=True),
    }

    def panel(title: str, value: Callable[[Sample], float]) -> Panel:
        return Panel(
            title, {name: [(one.seconds, value(one)) for one in course.samples] for name, course in courses.items()}
        )

    retention = bench.size.retention_seconds / PERIODS
    panels = [
        panel("Stored deliveries, in thousands", lambda one: one.stored / 1000),
        panel("Tables and indexes, in MB", lambda one: one.tables + one.indexes),
        panel("Dead rows, in thousands", lambda one: one.dead / 1000),
    ]
    return draw_lines(panels, "s", f"One worker, a retention of {retention:.0f} s. {measured_on(machine)}")
