"""How long it takes from a commit to its receipt, on a system that has nothing else to do."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median, quantiles

import django_rq
from django.db import transaction

from dcim.models import Device
from scripts.benchmark import usual_job
from scripts.benchmark.drains import wait_until_recorded
from scripts.benchmark.figures import Experiment, Figure, Reading, Run, value_at_most
from scripts.benchmark.inventory import make_devices
from scripts.benchmark.lab import Lab
from scripts.benchmark.mailbox import Mailbox
from scripts.benchmark.usual import FORKING
from webhooks.models import Delivery, Webhook


def commit(work: Callable[[], object]) -> float:
    """Do it in a transaction, and return when that was committed (monotonic)."""
    committed: list[float] = []
    with transaction.atomic():
        transaction.on_commit(lambda: committed.append(time.monotonic()))
        work()
    return committed[0]


def rest() -> None:
    """Let everything come to rest, for no regular time: nothing should keep step with it."""
    time.sleep(random.uniform(0.06, 0.14))  # noqa: S311 # nosec B311 # guards nothing


def milliseconds(committed: Mapping[str, float], mailbox: Mailbox) -> list[float]:
    """From each commit to its receipt, both by webhook-id."""
    received = mailbox.times()
    return [1000 * (at - committed[pk]) for pk, at in received if pk in committed]


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


def by_delivery(webhook: Webhook, committed: Sequence[float]) -> dict[str, float]:
    """The times of commits, in order, by the id of the delivery to this webhook that came of each."""
    ids = Delivery.objects.filter(webhook=webhook).order_by("event_id").values_list("pk", flat=True)
    return dict(zip(map(str, ids), committed, strict=True))


def shipped(lab: Lab, count: int) -> list[float]:
    lab.empty()
    mailbox = lab.mailbox()
    devices = make_devices(min(count, 100))
    webhook = lab.webhook(mailbox.url, Device)
    committed = []
    with lab.workers():
        for device in itertools.islice(itertools.cycle(devices), count):
            rest()
            committed.append(commit(device.save))
        mailbox.wait_for(count, 10)
        wait_until_recorded(count)
        return milliseconds(by_delivery(webhook, committed), mailbox)


def the_usual_way(lab: Lab, count: int) -> list[float]:
    lab.empty()
    mailbox = lab.mailbox()
    queue = django_rq.get_queue("webhooks", commit_mode="auto")
    requests = list(itertools.islice(itertools.cycle(lab.sample), count))
    committed = {}
    with lab.workers(FORKING):
        for number, request in enumerate(requests):
            rest()
            headers = {**request.headers, "webhook-id": str(number)}
            enqueue = partial(queue.enqueue, usual_job.post, mailbox.url, headers, request.body)
            committed[str(number)] = commit(partial(transaction.on_commit, enqueue))
        mailbox.wait_for(count, 30)
    return milliseconds(committed, mailbox)


def measure(lab: Lab) -> Iterator[Reading]:
    while True:
        usual = the_usual_way(lab, lab.size(60, 5))
        ours = shipped(lab, lab.size(200, 10))
        yield {
            "latency": Run(median(ours), median(usual)),
            "latency-p99": Run(p99(ours), p99(usual)),
        }


USUAL = "one RQ job each, forking worker"

IDLE = Experiment(
    "latency",
    (
        Figure("latency", "commit to receipt, idle system, median", "ms", USUAL, value_at_most(10, "ms")),
        Figure("latency-p99", "commit to receipt, idle system, p99", "ms", USUAL, value_at_most(30, "ms")),
    ),
    measure,
)
