"""A healthy receiver among others whose answers cost the worker much processor time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from scripts.benchmark.deliveries import Delivered, deliver, deliver_to
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
from scripts.benchmark.workloads.latency import healthy_latencies, p99
from tests.support import inbox
from tests.support.inbox import ReceiverProcess
from webhooks.delivery.dispatch import dispatch

COSTLY = 20

# They would be paused after some failures, which is not what this measures.
SETTINGS: dict[str, Any] = {"PAUSE_AFTER": 1_000_000}


def measure(bench: Bench) -> Iterator[Measurements]:
    receiver = ReceiverProcess()
    try:
        # Each answers in chunks of one byte, without end.
        urls = [inbox.Inbox(receiver).url("tiny-chunks") for _ in range(bench.size(COSTLY, 3))]
        while True:
            count = bench.size(5000, 200)
            alone, among = deliver(bench, count, **SETTINGS), _deliver_among(bench, urls, count)
            quick = p99(healthy_latencies(bench, **SETTINGS))
            late = p99(healthy_latencies(bench, partial(_add_backlog, bench, urls), **SETTINGS))
            yield {
                "costly-rate": Measurement(among.rate, alone.rate),
                "costly-cpu": Measurement(1000 * among.cpu / count, 1000 * alone.cpu / count),
                "costly-p99": Measurement(late, quick),
            }
    finally:
        receiver.stop()


def _deliver_among(bench: Bench, urls: Sequence[str], count: int) -> Delivered:
    """Deliver to a healthy receiver, while the receivers at these URLs have a backlog."""
    bench.clear()
    _add_backlog(bench, urls)
    healthy = bench.inbox()
    return deliver_to(healthy, bench.webhook(healthy.url), bench, count, **SETTINGS)


def _add_backlog(bench: Bench, urls: Sequence[str]) -> None:
    """The worker would create their deliveries before those of the healthy receiver, however costly the answers are. So
    they are there already."""
    for url in urls:
        bench.add_events(bench.webhook(url), bench.size(500, 20))
    while dispatch():
        pass


WITHOUT = f"without the {COSTLY}"

ANSWERS = Workload(
    "costly",
    (
        Figure(
            "costly-rate",
            f"one worker, a fast receiver among {COSTLY} that answer in chunks of one byte",
            "deliveries/s",
            WITHOUT,
            ratio_at_least(0.9),
        ),
        Figure(
            "costly-cpu",
            f"CPU of the worker per delivery among {COSTLY} such receivers",
            "ms",
            WITHOUT,
            ratio_at_most(1.15),
        ),
        Figure(
            "costly-p99",
            f"commit to receipt at a healthy endpoint among {COSTLY} such receivers, p99",
            "ms",
            WITHOUT,
            ratio_at_most(1.1) | difference_at_most(5, "ms"),
        ),
    ),
    measure,
    most_runs=2,
)
