"""Two busy workers in turn: the database of one has a pinned snapshot. So both meet the same moods of the machine."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import NamedTuple

from scripts.benchmark import sample_data
from scripts.benchmark.measure import cpu_seconds, database_pids
from scripts.benchmark.receiver import Inbox
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import NotMeasured
from tests.support.sessions import session
from webhooks.models import Webhook

OBJECTS = 255
CHANGES_OF_FEW = f"(g.n %% {OBJECTS})::text"

# Another session that has run this keeps its snapshot, so no dead row can be removed meanwhile.
SNAPSHOT = "SELECT COUNT(*) FROM rq_webhooks_event"

# The samples of each worker, the fewest seconds of one, and the seconds before each. A worker whose backlog is gone
# looks again after a second, so a shorter sample might find nothing.
SAMPLES, EVERY, WARM_UP = 20, 2, 2

# At least as many changes wait, so that the worker always has work.
BACKLOG = 6000

FREE, PINNED = "free", "pinned"


class Sample(NamedTuple):
    """What a worker has delivered after some seconds of work, and the processor time of PostgreSQL for that."""

    seconds: float
    deliveries: int
    database_cpu: float


class BusyWorker:
    """A worker that always has changes of a few objects to deliver while it is its turn."""

    def __init__(self, bench: Bench, database: str) -> None:
        self._bench, self._database = bench, database
        self._added = 0
        self._inbox: Inbox
        self._webhook: Webhook
        self.samples: list[Sample] = []

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return sum(sample.deliveries for sample in self.samples) / sum(sample.seconds for sample in self.samples)

    def start(self) -> None:
        with self._bench.use_database(self._database):
            self._inbox = self._bench.inbox()
            self._webhook = self._bench.webhook(self._inbox.url)
            self._bench.start_worker().wait_until_listening()
        self.deliver(WARM_UP)
        self.samples.clear()

    def deliver(self, seconds: float) -> None:
        """Take a sample of so many seconds."""
        with self._bench.use_database(self._database):
            self._keep_up(self._bench.size(WARM_UP, 1))
            processes, began = database_pids(), time.monotonic()
            done, cpu = self._inbox.received().count, cpu_seconds(processes)
            self._keep_up(seconds)
            arrived = self._inbox.received().count - done
            if not arrived:
                raise NotMeasured(f"nothing arrived in {seconds} s")
            self.samples.append(Sample(time.monotonic() - began, arrived, cpu_seconds(processes) - cpu))
            self._inbox.wait_for(self._added, seconds=60)

    def _keep_up(self, seconds: float) -> None:
        # The worker looks by itself. Both have one Redis, so the other one might take a wake-up.
        deadline, backlog = time.monotonic() + seconds, self._bench.size(BACKLOG, 300)
        while time.monotonic() < deadline:
            # A count in the database would cost more, the more dead rows it has.
            if self._added - self._inbox.received().count < backlog:
                self._added += (portion := backlog // 3)
                sample_data.insert_events(portion, [self._webhook.pk], object_id=CHANGES_OF_FEW)
            time.sleep(0.1)


def measure_in_turn(bench: Bench) -> tuple[BusyWorker, BusyWorker]:
    """Let a worker without a pinned snapshot and one with it deliver for as long as ``--pinned`` says."""
    bench.clear()
    sample_data.vacuum()
    every = max(EVERY, bench.size.pinned_seconds // SAMPLES)
    with bench.database_copies(FREE, PINNED), bench.workers(count=0), ExitStack() as stack:
        free, pinned = BusyWorker(bench, FREE), BusyWorker(bench, PINNED)
        free.start()
        pinned.start()
        with bench.use_database(PINNED):
            stack.enter_context(session(SNAPSHOT))
        for _ in range(bench.size(bench.size.pinned_seconds // every, 2)):
            free.deliver(every)
            pinned.deliver(every)
    return free, pinned
