"""The plans that PostgreSQL really used for each statement, with the rows and pages read. By its module
auto_explain, so also for the checks of foreign keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connection

from webhooks.ground.db import execute

OPTIONS = {
    "log_min_duration": "0",
    "log_analyze": "on",
    "log_buffers": "on",
    "log_timing": "off",
    "log_nested_statements": "on",
    "log_format": "json",
    "log_level": "notice",
}

# They read the rows of a function, of another node, or of an index that the node above counts again.
NOT_TABLES = ("Function Scan", "CTE Scan", "Subquery Scan", "Bitmap Heap Scan")


@dataclass(frozen=True)
class Executed:
    """A statement as it was executed. ``rows`` counts all rows that its scans read, also those thrown away."""

    statement: str
    rows: float
    buffers: int
    indexes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rows:g} rows, {self.buffers} buffers, by {', '.join(self.indexes)}: {self.statement}"


@contextmanager
def executed_plans() -> Iterator[list[Executed]]:
    """The statements that the connection of this thread executes meanwhile."""
    found: list[Executed] = []

    def note(notice: Any) -> None:
        _, is_plan, text = (notice.message_primary or "").partition("plan:\n")
        if is_plan:
            plan = json.loads(text)
            nodes = list(_nodes(plan["Plan"]))
            found.append(
                Executed(
                    " ".join(plan["Query Text"].split()),
                    sum(map(_rows_read, nodes)),
                    plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"],
                    tuple(
                        str(node.get("Index Name", node["Node Type"])) for node in nodes if "Scan" in node["Node Type"]
                    ),
                )
            )

    execute("default", "LOAD 'auto_explain'")
    for name, value in OPTIONS.items():
        execute("default", f"SET auto_explain.{name} = '{value}'")
    driver: Any = connection.connection
    driver.add_notice_handler(note)
    try:
        yield found
    finally:
        driver.remove_notice_handler(note)
        connection.close()


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _rows_read(node: dict[str, Any]) -> float:
    if "Scan" not in node["Node Type"] or node["Node Type"] in NOT_TABLES:
        return 0
    thrown_away = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + thrown_away) * node["Actual Loops"])
