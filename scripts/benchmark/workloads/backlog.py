"""What many stored or waiting deliveries cost: a claim, a delivery, a save, and the status page."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client
from django.utils import timezone

from dcim.models import Device
from scripts.benchmark import sample_data
from scripts.benchmark.deliveries import deliver_to
from scripts.benchmark.measure import Condition, Work, median_seconds
from scripts.benchmark.servers import UNREACHABLE, Bench
from scripts.benchmark.targets import Figure, Measurement, Measurements, NotMeasured, Workload, ratio_at_most
from webhooks.models import Delivery, QueuedDelivery, Webhook, Worker
from webhooks.models.worker import begin_transaction

CLAIM_SIZE = 100
BEHIND = 100_000


def measure_claim(bench: Bench) -> Iterator[Measurements]:
    healthy = bench.webhook(UNREACHABLE)
    paused = bench.webhook(UNREACHABLE, probe_at=timezone.now() + timedelta(days=1))
    backlog = bench.size(BEHIND, 1000)
    fills: dict[str, Callable[[], None]] = {
        "empty": lambda: None,
        "object": lambda: sample_data.insert_waiting(healthy, backlog, objects=1),
        "paused": lambda: sample_data.insert_due(paused, backlog),
    }
    with bench.database_copies(*fills):
        for database, fill in fills.items():
            with bench.use_database(database):
                fill()
                sample_data.vacuum()
        conditions: list[Condition] = [partial(_claiming_in, bench, database, healthy) for database in fills]
        while True:
            empty, behind_object, behind_paused = median_seconds(bench.size(20, 2), *conditions)
            yield {
                "claim-object": Measurement(1000 * behind_object, 1000 * empty),
                "claim-paused": Measurement(1000 * behind_paused, 1000 * empty),
            }


@contextmanager
def _claiming_in(bench: Bench, database: str, webhook: Webhook) -> Iterator[Work]:
    with bench.use_database(database), claiming(webhook) as work:
        yield work


@contextmanager
def claiming(webhook: Webhook) -> Iterator[Work]:
    """One claim, with more due deliveries than it takes."""
    highest = sample_data.highest_event_id()
    sample_data.insert_due(webhook, 2 * CLAIM_SIZE)
    claim()  # warm up a new connection
    claimed: list[uuid.UUID] = []
    yield lambda: claimed.extend(claim())
    if len(claimed) != CLAIM_SIZE:
        raise NotMeasured(f"a claim of {CLAIM_SIZE} took {len(claimed)}")
    sample_data.delete_events(after=highest)


def claim() -> list[uuid.UUID]:
    """Find the webhooks with due deliveries and claim from them, like a worker."""
    using, token = Delivery.objects.db, Worker.objects.register("benchmark")
    capacity = dict.fromkeys(QueuedDelivery.objects.due_webhooks(), CLAIM_SIZE)
    with transaction.atomic(using):
        begin_transaction(using, token)
        return [one.id for one in QueuedDelivery.objects.claim(capacity, token)]


A_CLAIM = f"a claim of {CLAIM_SIZE} with {BEHIND:,} waiting behind"
EMPTY = "with an empty backlog"

CLAIM = Workload(
    "claim",
    (
        Figure("claim-object", f"{A_CLAIM} one object", "ms", EMPTY, ratio_at_most(1.5)),
        Figure("claim-paused", f"{A_CLAIM} a paused webhook", "ms", EMPTY, ratio_at_most(1.5)),
    ),
    measure_claim,
)

WAITING, OBJECTS, FEW = 100_000, 50, 10_000
STATUS_PAGE = "/admin/webhook-backend-status/"
SUCCEEDED_LIST = "/admin/rq_webhooks/delivery/?state=succeeded"
SMALL, LARGE = "small", "large"


def measure_database_size(bench: Bench) -> Iterator[Measurements]:
    project = Project(bench)
    with bench.database_copies(SMALL, LARGE):
        project.fill(SMALL, bench.size(FEW, 500), bench.size(FEW // 10, 100))
        project.fill(LARGE, bench.size(bench.size.stored, 2000), bench.size(WAITING, 200))
        while True:
            few, many = (project.deliver(database, bench.size(3000, 60)) for database in (SMALL, LARGE))
            yield {
                "size-drain": Measurement(many, few),
                "size-claim": project.compare_claims(),
                "size-save": project.compare(project.save),
                "size-status": project.compare(partial(project.show, STATUS_PAGE)),
                "size-list": project.compare(partial(project.show, SUCCEEDED_LIST)),
            }


class Project:
    """Devices, a webhook and a logged-in admin, in a small and a large database."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.devices = sample_data.make_devices(bench.size(100, 10))
        self.webhook = bench.webhook(UNREACHABLE, Device)
        self.client = Client()
        self.client.force_login(get_user_model().objects.create_superuser("admin"))

    def fill(self, database: str, total: int, waiting: int) -> None:
        with self.bench.use_database(database):
            with sample_data.without_indexes():
                sample_data.insert_succeeded(self.webhook, total - waiting)
            sample_data.insert_waiting(self.webhook, waiting, OBJECTS)
            sample_data.vacuum()

    def deliver(self, database: str, count: int) -> float:
        """Milliseconds for each delivery of one worker."""
        with self.bench.use_database(database):
            inbox = self.bench.inbox()
            Webhook.objects.filter(pk=self.webhook.pk).update(payload_url=inbox.url)
            highest = sample_data.highest_event_id()
            delivered = deliver_to(inbox, self.webhook, self.bench, count)
            sample_data.delete_events(after=highest)
            return 1000 / delivered.rate

    def compare(self, work: Work) -> Measurement:
        """Milliseconds of the work in the large database, with the small one as the baseline."""
        return self._compare([partial(self.warmed_up, database, work) for database in (SMALL, LARGE)])

    def compare_claims(self) -> Measurement:
        return self._compare([partial(_claiming_in, self.bench, database, self.webhook) for database in (SMALL, LARGE)])

    def _compare(self, conditions: Sequence[Condition]) -> Measurement:
        small, large = median_seconds(self.bench.size(5, 1), *conditions)
        return Measurement(1000 * large, 1000 * small)

    @contextmanager
    def warmed_up(self, database: str, work: Work) -> Iterator[Work]:
        """The work on this database, over a connection that has done it before."""
        with self.bench.use_database(database):
            highest = sample_data.highest_event_id()
            work()
            yield work
            sample_data.delete_events(after=highest)

    def save(self) -> None:
        with transaction.atomic():
            for device in self.devices:
                device.save()

    def show(self, address: str) -> None:
        if (response := self.client.get(address)).status_code != 200:
            raise NotMeasured(f"{address} answers {response.status_code}")


WHERE = f"with many stored deliveries (--rows), {WAITING:,} of them waiting"
SMALLER = f"with {FEW:,}"

DATABASE_SIZE = Workload(
    "size",
    (
        Figure("size-drain", f"a delivery of one worker {WHERE}", "ms", SMALLER, ratio_at_most(1.2)),
        Figure("size-claim", f"a claim of {CLAIM_SIZE} {WHERE}", "ms", SMALLER, ratio_at_most(1.2)),
        Figure("size-save", f"saving 100 devices in a transaction {WHERE}", "ms", SMALLER, ratio_at_most(1.2)),
        Figure("size-status", f"the first page of the status page {WHERE}", "ms", SMALLER, ratio_at_most(1.2)),
        Figure("size-list", f"the list of succeeded deliveries {WHERE}", "ms", SMALLER, ratio_at_most(1.2)),
    ),
    measure_database_size,
)
