"""Whatever is sent in a second is deleted in a second: its price, and whether the tables stay level."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.benchmark.retention import STEADY, Course, busy, steady
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    Workload,
    difference_at_most,
    ratio_at_least,
    ratio_at_most,
)
from scripts.benchmark.workloads.latency import p99

SIZES = {"tables": "MB", "indexes": "MB", "disk": "MB", "dead": "rows"}


def measure(bench: Bench) -> Iterator[Measurements]:
    while True:
        plain, kept = steady(bench, is_deleting=False), steady(bench, is_deleting=True)
        plain_busy, kept_busy = busy(bench, is_deleting=False), busy(bench, is_deleting=True)
        yield {
            **_compare("retention", kept, plain),
            "retention-p99": Measurement(p99(kept.delays), p99(plain.delays)),
            **_compare("retention-busy", kept_busy, plain_busy),
        }


def _compare(name: str, kept: Course, plain: Course) -> Measurements:
    return {
        f"{name}-rate": Measurement(kept.rate, plain.rate),
        f"{name}-deleted": Measurement(kept.deleted, kept.rate),
        **{f"{name}-{size}": Measurement(kept.at_the_end(size), kept.at_half(size)) for size in SIZES},
    }


def _figures(name: str, load: str) -> Iterator[Figure]:
    what = f"{load}, with retention"
    yield Figure(f"{name}-rate", what, "deliveries/s", "without", ratio_at_least(0.9))
    yield Figure(f"{name}-deleted", f"deleted, {what}", "deliveries/s", "sent", ratio_at_least(0.9))
    whats = {"tables": "size of the tables", "indexes": "size of the indexes", "disk": "size of the database"}
    for size, unit in SIZES.items():
        whole = f"{whats.get(size, 'dead rows')} at the end, {what}"
        # The dead rows of one autovacuum to the next vary more than what they leave on the disk.
        limit = ratio_at_most(1.5) | difference_at_most(50_000, "rows") if size == "dead" else ratio_at_most(1.25)
        yield Figure(f"{name}-{size}", whole, unit, "at half of the time", limit)


LOAD = f"{STEADY:,} changes a second, one worker"

RETENTION = Workload(
    "retention",
    (
        *_figures("retention", LOAD),
        Figure(
            "retention-p99",
            f"commit to receipt, {LOAD}, with retention, p99",
            "ms",
            "without",
            ratio_at_most(1.5),
        ),
        *_figures("retention-busy", "a worker that is never idle"),
    ),
    measure,
    most_runs=1,
)
