"""All workloads, in the order of the table.

To add one, write it in the module of its subject and list it in ``ALL``.
"""

from __future__ import annotations

from collections.abc import Sequence

from scripts.benchmark.targets import Workload
from scripts.benchmark.workloads import (
    backlog,
    costly,
    endurance,
    fan_out,
    incident,
    latency,
    pressure,
    retention,
    rights,
    runs,
    saves_and_deletes,
    troubles,
    unused,
    workers,
)

PRESSURE: Sequence[Workload] = (pressure.PINNED, pressure.STEADY, *troubles.ALL)

ALL: Sequence[Workload] = (
    workers.THROUGHPUT,
    workers.ANSWERS,
    fan_out.FAN_OUT,
    workers.SLOW_RECEIVER,
    workers.SLOW_RECEIVERS,
    workers.LIMITED_RECEIVER,
    latency.IDLE,
    saves_and_deletes.UNSUBSCRIBED,
    saves_and_deletes.SUBSCRIBED,
    saves_and_deletes.MANY_SUBSCRIBERS,
    saves_and_deletes.SKIPPED,
    *saves_and_deletes.PRECHANGE,
    latency.HANGING_ENDPOINTS,
    costly.ANSWERS,
    backlog.DATABASE_SIZE,
    backlog.CLAIM,
    incident.INCIDENT,
    rights.RIGHTS,
    saves_and_deletes.DELETE,
    workers.MEMORY,
    workers.SCALING,
    workers.FAST_SCALING,
    runs.RUN,
    unused.UNUSED,
    *PRESSURE,
)

# These take long, and are measured only if they are named, or to see that they can be.
LONG: Sequence[Workload] = (retention.RETENTION, endurance.ENDURANCE)


def figure_names() -> list[str]:
    return [figure.name for workload in (*ALL, *LONG) for figure in workload.figures]


def select(names: Sequence[str]) -> list[Workload]:
    """The workloads with these names or with figures of these names; all workloads if there are no names.

    Raises LookupError for an unknown name.
    """
    every = (*ALL, *LONG)
    by_name = {name: one for one in every for name in (one.name, *(figure.name for figure in one.figures))}
    if unknown := sorted(set(names) - set(by_name)):
        raise LookupError(f"There is no figure {', '.join(unknown)}. Choose from: {', '.join(by_name)}.")
    selected = [by_name[name] for name in names] or ALL
    return [one for one in every if one in selected]
