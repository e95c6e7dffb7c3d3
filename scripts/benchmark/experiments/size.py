"""What a million deliveries on file do to the work of a worker, to a save, and to the status page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client

from dcim.models import Device
from scripts.benchmark import history
from scripts.benchmark.conditions import Work, medians
from scripts.benchmark.drains import deliver_more
from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, times_at_most
from scripts.benchmark.inventory import make_devices
from scripts.benchmark.lab import Lab
from scripts.benchmark.templates import highest_event, remove, settle
from webhooks.models import Webhook

ON_FILE, WAITING, OBJECTS, FEW = 1_000_000, 100_000, 50, 10_000
NOWHERE = "http://127.0.0.1:1/"
STATUS = "/admin/webhook-backend-status/"
SMALL, LARGE = "small", "large"


class Inventory:
    """The project with its devices, one webhook and somebody who is logged in; all of that is in both databases."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.devices = make_devices(lab.size(100, 10))
        self.webhook = lab.webhook(NOWHERE, Device)
        self.client = Client()
        self.client.force_login(get_user_model().objects.create_superuser("admin"))

    def fill(self, database: str, total: int, waiting: int) -> None:
        with self.lab.on(database):
            history.succeeded(self.webhook, total - waiting)
            history.waiting(self.webhook, waiting, OBJECTS)
            settle()

    def deliver(self, database: str, count: int) -> float:
        """Milliseconds for each delivery of one worker, on this database."""
        with self.lab.on(database):
            mailbox = self.lab.mailbox()
            Webhook.objects.filter(pk=self.webhook.pk).update(payload_url=mailbox.url)
            before = highest_event()
            drained = deliver_more(self.lab, self.webhook, mailbox, count)
            remove(after=before)
            return 1000 / drained.rate

    @contextmanager
    def saving(self, database: str) -> Iterator[Work]:
        with self.warm(database, self.save):
            before = highest_event()
            yield self.save
            remove(after=before)

    @contextmanager
    def showing(self, database: str) -> Iterator[Work]:
        with self.warm(database, self.show):
            yield self.show

    @contextmanager
    def warm(self, database: str, work: Work) -> Iterator[None]:
        """On this database, with a connection that has done the same before."""
        with self.lab.on(database):
            work()
            yield

    def save(self) -> None:
        with transaction.atomic():
            for device in self.devices:
                device.save()

    def show(self) -> None:
        response = self.client.get(STATUS)
        if response.status_code != 200:
            raise NotMeasured(f"the status page answers {response.status_code}")


def measure(lab: Lab) -> Iterator[Reading]:
    inventory = Inventory(lab)
    with lab.copies(SMALL, LARGE):
        inventory.fill(SMALL, lab.size(FEW, 500), lab.size(FEW // 10, 100))
        inventory.fill(LARGE, lab.size(ON_FILE, 2000), lab.size(WAITING, 200))
        while True:
            yield reading(inventory, lab)


def reading(inventory: Inventory, lab: Lab) -> Reading:
    count, rounds = lab.size(3000, 60), lab.size(5, 1)
    few, many = (inventory.deliver(database, count) for database in (SMALL, LARGE))

    def compare(condition: Callable[[str], object]) -> Run:
        small, large = medians(rounds, partial(condition, SMALL), partial(condition, LARGE))  # type: ignore[arg-type]
        return Run(1000 * large, 1000 * small)

    return {
        "size-drain": Run(many, few),
        "size-save": compare(inventory.saving),
        "size-status": compare(inventory.showing),
    }


WHERE = f"with {ON_FILE:,} deliveries on file, {WAITING:,} of them waiting"
AGAINST = f"with {FEW:,}"

ON_RECORD = Experiment(
    "size",
    (
        Figure("size-drain", f"a delivery of one worker {WHERE}", "ms", AGAINST, times_at_most(1.2)),
        Figure("size-save", f"saving 100 devices in a transaction {WHERE}", "ms", AGAINST, times_at_most(1.2)),
        Figure("size-status", f"the first page of the status page {WHERE}", "ms", AGAINST, times_at_most(1.2)),
    ),
    measure,
)
