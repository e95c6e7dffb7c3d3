"""Every experiment, in the order of the table.

A new one is a module in ``experiments/`` with an Experiment, and its line here. What saves cost goes to ``saves``:
``Saves.each`` times the same saves under any number of conditions, in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from scripts.benchmark.experiments import claims, deletes, hanging, latency, memory, saves, scaling, size, throughput
from scripts.benchmark.figures import Experiment

EXPERIMENTS: Sequence[Experiment] = (
    throughput.SHIPPED,
    throughput.ON_STOCK,
    throughput.SLOW,
    throughput.CPU,
    latency.IDLE,
    saves.UNSUBSCRIBED,
    saves.SUBSCRIBED,
    saves.CROWD,
    saves.BEFORE,
    saves.EDIT_BEFORE,
    saves.FORM_BEFORE,
    hanging.ENDPOINTS,
    size.ON_RECORD,
    claims.BACKLOGS,
    deletes.CASCADE,
    memory.GROWTH,
    scaling.WORKERS,
)


def chosen(names: Sequence[str], among: Sequence[Experiment] = EXPERIMENTS) -> list[Experiment]:
    """The experiments of these names, or that have a figure of these names; all of them if there are none. Raises
    LookupError for a name that nothing has."""
    known = {name: one for one in among for name in (one.name, *(figure.name for figure in one.figures))}
    if unknown := sorted(set(names) - set(known)):
        raise LookupError(f"There is no figure {', '.join(unknown)}. There are: {', '.join(known)}.")
    wanted = [known[name] for name in names] or list(among)
    return [one for one in among if one in wanted]
