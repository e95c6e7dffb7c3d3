"""What a delivery costs, if its event is for 1, 10 or 100 webhooks: rows, write-ahead log and processor time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.benchmark import sample_data
from scripts.benchmark.deliveries import MINIMUM_RATE, wait_until_recorded
from scripts.benchmark.measure import cpu_seconds, database_pids, table_writes
from scripts.benchmark.receiver import Inbox
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import Figure, Measurement, Measurements, Workload, ratio_at_most, value_at_most
from webhooks.workers import jobs

DELIVERIES = 6000
ONE, SEVERAL = 1, (10, 100)


@dataclass(frozen=True)
class Cost:
    """Of one delivery: rows that were inserted, updated and deleted, bytes of write-ahead log, and milliseconds of
    processor time."""

    rows: float
    wal: float
    cpu: float
    database: float


def measure(bench: Bench) -> Iterator[Measurements]:
    while True:
        one, *several = (_cost(bench, webhooks) for webhooks in (ONE, *SEVERAL))
        found = {"tuples": Measurement(one.rows), "wal": Measurement(one.wal)}
        for webhooks, cost in zip(SEVERAL, several, strict=True):
            for name, value in vars(cost).items():
                found[f"fan-out-{name}-{webhooks}"] = Measurement(value, getattr(one, name))
        yield found


def _cost(bench: Bench, webhooks: int) -> Cost:
    bench.clear()
    sample_data.vacuum()
    inbox = bench.inbox()
    ids = [bench.webhook(inbox.url).pk for _ in range(webhooks)]
    count = bench.size(DELIVERIES, 200)
    with bench.workers() as [worker]:
        _deliver(inbox, ids, count)  # the first ones start the sender, and write whole pages after the checkpoint
        wait_until_recorded(count)
        written = table_writes()
        connections = database_pids()
        cpu, database = cpu_seconds([worker.pid]), cpu_seconds(connections)
        _deliver(inbox, ids, count)
        wait_until_recorded(2 * count)
        cpu, database = cpu_seconds([worker.pid]) - cpu, cpu_seconds(connections) - database
        written = table_writes() - written
    return Cost(written.tuples / count, written.wal_bytes / count, 1000 * cpu / count, 1000 * database / count)


def _deliver(inbox: Inbox, webhooks: Sequence[int], count: int) -> None:
    """Commit events of different objects that make so many deliveries, and wait for the requests."""
    received = inbox.received().count
    sample_data.insert_events(count // len(webhooks), webhooks)
    jobs.wake_up()
    inbox.wait_for(received + count, seconds=60 + count / MINIMUM_RATE)


def _figures(name: str, what: str, unit: str, limit: float) -> Iterator[Figure]:
    for webhooks in SEVERAL:
        whole = f"{what} of a delivery, an event for {webhooks} webhooks"
        yield Figure(f"fan-out-{name}-{webhooks}", whole, unit, "for one webhook", ratio_at_most(limit))


# The event, its payload and its place among the undispatched ones are written once, whatever the number of webhooks:
# two or three of the rows of a delivery to one webhook, and two fifths of its write-ahead log. The work for a request
# is the same: its headers, two signatures, an outcome, a record. So that must not cost more than for one webhook.
FAN_OUT = Workload(
    "fan-out",
    (
        Figure("tuples", "rows inserted, updated and deleted for a delivery", "rows", "", value_at_most(7, "rows")),
        Figure("wal", "write-ahead log for a delivery", "bytes", "", value_at_most(2500, "bytes")),
        *_figures("rows", "rows", "rows", 0.8),
        *_figures("wal", "write-ahead log", "bytes", 0.7),
        *_figures("cpu", "CPU of the worker", "ms", 1),
        *_figures("database", "CPU of PostgreSQL", "ms", 1),
    ),
    measure,
    most_runs=2,
)
