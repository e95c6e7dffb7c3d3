"""Milliseconds from a commit to the arrival at the receiver: when idle, and while other endpoints hang."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median, quantiles
from typing import Any

import django_rq
from django.db import transaction

from dcim.models import Device
from scripts.benchmark import clients
from scripts.benchmark.deliveries import FORKING, wait_until_recorded
from scripts.benchmark.receiver import Inbox
from scripts.benchmark.sample_data import make_devices
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    Workload,
    difference_at_most,
    ratio_at_most,
    value_at_most,
)
from webhooks.models import Delivery, Webhook


def measure_idle(bench: Bench) -> Iterator[Measurements]:
    while True:
        usual = latencies_of_rq_jobs(bench, bench.size(60, 5))
        ours = latencies_of_webhooks(bench, bench.size(200, 10))
        yield {
            "latency": Measurement(median(ours), median(usual)),
            "latency-p99": Measurement(p99(ours), p99(usual)),
        }


def latencies_of_webhooks(bench: Bench, count: int) -> list[float]:
    bench.clear()
    inbox = bench.inbox()
    devices = make_devices(min(count, 100))
    webhook = bench.webhook(inbox.url, Device)
    committed = []
    with bench.workers():
        for device in itertools.islice(itertools.cycle(devices), count):
            pause()
            committed.append(commit(device.save))
        inbox.wait_for(count, 10)
        wait_until_recorded(count)
        return milliseconds(by_delivery(webhook, committed), inbox)


def latencies_of_rq_jobs(bench: Bench, count: int) -> list[float]:
    bench.clear()
    inbox = bench.inbox()
    queue = django_rq.get_queue("webhooks", commit_mode="auto")
    requests = list(itertools.islice(itertools.cycle(bench.requests), count))
    committed = {}
    with bench.workers(FORKING):
        for number, request in enumerate(requests):
            pause()
            headers = {**request.headers, "webhook-id": str(number)}
            enqueue = partial(queue.enqueue, clients.post, inbox.url, headers, request.body)
            committed[str(number)] = commit(partial(transaction.on_commit, enqueue))
        inbox.wait_for(count, 30)
    return milliseconds(committed, inbox)


def pause() -> None:
    """Wait until the system is idle. The random time keeps saves out of step with any polling."""
    time.sleep(random.uniform(0.06, 0.14))  # noqa: S311 # nosec B311 # guards nothing


def commit(work: Callable[[], object]) -> float:
    """Do the work in a transaction. Returns the time of the commit (monotonic)."""
    committed: list[float] = []
    with transaction.atomic():
        transaction.on_commit(lambda: committed.append(time.monotonic()))
        work()
    return committed[0]


def by_delivery(webhook: Webhook, committed: Sequence[float]) -> dict[str, float]:
    """The times of commits, given in order, by the id of the delivery of each."""
    ids = Delivery.objects.filter(webhook=webhook).order_by("event_id").values_list("pk", flat=True)
    return dict(zip(map(str, ids), committed, strict=True))


def milliseconds(committed: Mapping[str, float], inbox: Inbox) -> list[float]:
    """Milliseconds from each commit to its request. ``committed`` has the times of commits by webhook-id."""
    return [1000 * (at - committed[webhook_id]) for webhook_id, at in inbox.times() if webhook_id in committed]


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


RQ_JOBS = "one RQ job each, forking worker"

IDLE = Workload(
    "latency",
    (
        Figure("latency", "commit to receipt, idle system, median", "ms", RQ_JOBS, value_at_most(6, "ms")),
        Figure("latency-p99", "commit to receipt, idle system, p99", "ms", RQ_JOBS, value_at_most(30, "ms")),
    ),
    measure_idle,
)

HANGING = 10
SECONDS_BETWEEN_SAVES = 0.04


def measure_hanging_endpoints(bench: Bench) -> Iterator[Measurements]:
    while True:
        alone, among_hanging = healthy_latencies(bench), healthy_latencies(bench, partial(_add_hanging, bench))
        beside_backlog = healthy_latencies(bench, partial(_add_hanging_backlog, bench))
        yield {
            "hanging": Measurement(p99(among_hanging), p99(alone)),
            "hanging-backlog": Measurement(p99(beside_backlog), p99(alone)),
        }


def _add_hanging(bench: Bench) -> None:
    """They get the same events."""
    for _ in range(HANGING):
        bench.webhook(bench.inbox("hang").url, Device)


def _add_hanging_backlog(bench: Bench) -> None:
    """A fast endpoint with a backlog, which begins to hang when it has got half of it."""
    backlog = bench.size(2000, 200)
    bench.add_events(bench.webhook(bench.inbox(f"hang-after-{backlog // 2}").url, Device), backlog)


def healthy_latencies(bench: Bench, add_others: Callable[[], None] = lambda: None, **settings: Any) -> list[float]:
    """The latencies of a healthy endpoint, while others that ``add_others`` creates misbehave."""
    bench.clear()
    devices = make_devices(100)
    add_others()
    inbox = bench.inbox()
    healthy = bench.webhook(inbox.url, Device)
    with bench.workers(**settings):
        committed = save_steadily(itertools.islice(itertools.cycle(devices), bench.size(600, 30)))
        inbox.wait_for(len(committed), 60)
        # Drop the first sixth: the others need that time to misbehave.
        warm = committed[len(committed) // 6]
        measured = {pk: at for pk, at in by_delivery(healthy, committed).items() if at > warm}
    return milliseconds(measured, inbox)


def save_steadily(devices: Iterable[Device]) -> list[float]:
    """Save devices at a steady pace. Returns the times of the commits (monotonic)."""
    started = time.monotonic()
    committed = []
    for number, device in enumerate(devices):
        time.sleep(max(0.0, started + number * SECONDS_BETWEEN_SAVES - time.monotonic()))
        committed.append(commit(device.save))
    return committed


HANGING_ENDPOINTS = Workload(
    "hanging",
    (
        Figure(
            "hanging",
            "commit to receipt at a healthy endpoint while ten others hang, p99",
            "ms",
            "without the ten",
            ratio_at_most(1.2) | difference_at_most(20, "ms"),
        ),
        Figure(
            "hanging-backlog",
            "the same beside a fast endpoint that begins to hang in the midst of a backlog, p99",
            "ms",
            "without it",
            ratio_at_most(1.2) | difference_at_most(20, "ms"),
        ),
    ),
    measure_hanging_endpoints,
    most_runs=2,
)
