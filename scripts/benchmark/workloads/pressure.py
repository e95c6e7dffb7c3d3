"""What a worker delivers while a snapshot is pinned."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.benchmark import sample_data, timed_worker
from scripts.benchmark.deliveries import MINIMUM_RATE, wait_until_recorded
from scripts.benchmark.measure import Writes, table_writes
from scripts.benchmark.pinned import CHANGES_OF_FEW, OBJECTS, SNAPSHOT, measure_in_turn
from scripts.benchmark.receiver import Inbox
from scripts.benchmark.servers import Bench
from scripts.benchmark.steady import Events, Phases, follow, let_arrive
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    Workload,
    difference_at_most,
    ratio_at_least,
    ratio_at_most,
    value_at_least,
    value_at_most,
)
from scripts.benchmark.workloads.latency import p99
from tests.support.sessions import session
from webhooks.models import Webhook
from webhooks.workers import jobs

PORTION = 4000

RATE = 500


def measure_pinned(bench: Bench) -> Iterator[Measurements]:
    """Deliver changes of a few objects, in turn with and without another session that keeps its snapshot."""
    portion = bench.size(PORTION, 200)
    while True:
        writes = _writes_of(bench, portion)
        free, pinned = measure_in_turn(bench)
        yield {
            "pinned": Measurement(pinned.rate, free.rate),
            "hot-updates": Measurement(100 * writes.hot_updates / max(1, writes.updates)),
        }


def _writes_of(bench: Bench, count: int) -> Writes:
    """What is written for so many deliveries of a worker that runs already."""
    bench.clear()
    sample_data.vacuum()
    inbox = bench.inbox()
    webhook = bench.webhook(inbox.url)
    with bench.workers():
        _deliver(inbox, webhook, count)  # the first ones start the senders
        before = table_writes()
        _deliver(inbox, webhook, count)
        wait_until_recorded(2 * count)
        return table_writes() - before


def _deliver(inbox: Inbox, webhook: Webhook, count: int) -> None:
    received = inbox.received().count
    sample_data.insert_events(count, [webhook.pk], object_id=CHANGES_OF_FEW)
    jobs.wake_up()
    inbox.wait_for(received + count, seconds=60 + count / MINIMUM_RATE)


def measure_steady(bench: Bench) -> Iterator[Measurements]:
    """A steady load of changes of a few objects, before and while another session keeps its snapshot."""
    while True:
        bench.clear()
        stream = Events(bench, object_id=CHANGES_OF_FEW)
        phases = Phases(0.3, 1, 1, 1.1, 5) if bench.size.is_quick else Phases(3, 10, bench.size.pinned_seconds, 5, 10)

        def keep_snapshot(seconds: float, stream: Events = stream) -> None:
            with session(SNAPSHOT):
                let_arrive(stream, seconds)

        with bench.workers(timed_worker.PATH):
            course = follow([stream], [1], bench.size(RATE, 100), phases, keep_snapshot)
        clean, pinned = bench.transactions(course.clean, course.begin), bench.transactions(course.begin, course.over)
        yield {
            "pinned-steady": Measurement(course.rate, course.clean_rate),
            "pinned-p99": Measurement(p99(course.delays), p99(course.clean_delays)),
            "pinned-recovery": Measurement(course.recovery),
            "claim-p99": Measurement(p99(pinned["claim"]), p99(clean["claim"])),
            "record-p99": Measurement(p99(pinned["record"]), p99(clean["record"])),
        }


PINNED = Workload(
    "pinned",
    (
        Figure(
            "pinned",
            f"one worker, changes of {OBJECTS} objects, with a pinned snapshot",
            "deliveries/s",
            "without the snapshot",
            ratio_at_least(0.95),
        ),
        Figure("hot-updates", "updates that wrote no index entry (HOT)", "%", "", value_at_least(90, "%")),
    ),
    measure_pinned,
    most_runs=1,
)

STEADILY = f"{RATE} changes a second, with a pinned snapshot"
BEFORE = "before"
P99 = ratio_at_most(1.5) | difference_at_most(10, "ms")

STEADY = Workload(
    "steady",
    (
        Figure("pinned-steady", STEADILY, "deliveries/s", BEFORE, ratio_at_least(0.95)),
        Figure("pinned-p99", f"commit to receipt, {STEADILY}, p99", "ms", BEFORE, P99),
        Figure("pinned-recovery", f"until the rate is back after {STEADILY}", "s", "", value_at_most(1, "s")),
        Figure("claim-p99", f"a dispatch or claim, {STEADILY}, p99", "ms", BEFORE, P99),
        Figure("record-p99", f"a record, {STEADILY}, p99", "ms", BEFORE, P99),
    ),
    measure_steady,
    most_runs=2,
)
