"""A run of 100,000 deliveries: its rate and memory, the request that begins it, and live traffic alongside."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median

from django.contrib.auth import get_user_model
from rest_framework.test import APIClient

from dcim.models import Device
from scripts.benchmark import sample_data
from scripts.benchmark.deliveries import MINIMUM_RATE, deliver
from scripts.benchmark.measure import memory_mb
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import (
    Figure,
    Measurement,
    Measurements,
    NotMeasured,
    Workload,
    ratio_at_least,
    ratio_at_most,
    value_at_most,
)
from scripts.benchmark.workloads.latency import by_delivery, milliseconds, p99, save_steadily
from tests.support.waiting import until
from webhooks.models import Run, RunState, Webhook

TOTAL = 100_000

# Webhooks of the run over many.
MANY = 50

# Saves of live traffic, one each 40 ms. They begin when the run has counted its rows.
LIVE = 600


def measure_run(bench: Bench) -> Iterator[Measurements]:
    while True:
        plain = [_rate_of_new(bench)]
        alone = _live_latencies(bench, _prepare(bench, 0), begins=False)
        webhook = _prepare(bench, bench.size(TOTAL, 300))
        seconds, early, late, milliseconds_to_begin = _resend(bench, {"webhook": webhook.pk})
        plain.append(_rate_of_new(bench))
        _prepare(bench, bench.size(TOTAL, 300), MANY)
        of_many = _resend(bench, {"state": ["succeeded"]})[0]
        plain.append(_rate_of_new(bench))
        beside = _live_latencies(bench, _prepare(bench, bench.size(TOTAL, 300)), begins=True)
        yield {
            "run-rate": Measurement(bench.size(TOTAL, 300) / seconds, median(plain)),
            "run-many": Measurement(bench.size(TOTAL, 300) / of_many, median(plain)),
            "run-memory": Measurement(late, early),
            "run-begin": Measurement(milliseconds_to_begin),
            "run-live": Measurement(p99(beside), p99(alone)),
        }


def _rate_of_new(bench: Bench) -> float:
    """Deliveries of new events a second. They last long enough that the worker's other duties count, too, as they do in
    a run."""
    return deliver(bench, bench.size(20_000, 200)).rate


def _prepare(bench: Bench, count: int, webhooks: int = 1) -> Webhook:
    """Webhooks that have so many deliveries together, which succeeded, each of another object. Returns the last."""
    bench.clear()
    inbox = bench.inbox()
    for _ in range(webhooks):
        webhook = bench.webhook(inbox.url)
        if count:
            sample_data.insert_succeeded(webhook, count // webhooks)
    if count:
        sample_data.vacuum()
    return webhook


def _resend(bench: Bench, filters: Mapping[str, object]) -> tuple[float, float, float, float]:
    """Seconds from the first step of a run to its last, megabytes of the worker early and late, and the milliseconds
    of the request that begins the run."""
    with bench.workers() as [worker]:
        time.sleep(bench.size(10, 1) / 10)
        request = _begin(filters)
        _until(lambda run: run.taken >= run.total / 20 if run.total else False)
        began, first, early = time.monotonic(), Run.objects.get().taken, memory_mb(worker.pid)
        _until(lambda run: run.state == RunState.DONE)
        run = Run.objects.get()
        seconds = (time.monotonic() - began) * run.done / max(1, run.done - first)
        if run.failed or run.skipped or run.done != run.total:
            raise NotMeasured(f"a run of {run.total} did {run.done}")
        return seconds, early, memory_mb(worker.pid), request


def _begin(filters: Mapping[str, object]) -> float:
    """Milliseconds of the request that begins a run that resends what the filters choose."""
    client = APIClient()
    client.force_authenticate(get_user_model().objects.create_superuser(f"bench{time.monotonic_ns()}"))
    body = {"kind": "resend", "filters": filters}
    started = time.perf_counter()
    response = client.post("/api/webhooks/runs/", body, format="json")
    if response.status_code != 201:
        raise NotMeasured(f"the request answers {response.status_code}: {response.content!r}")
    return 1000 * (time.perf_counter() - started)


def _until(condition: Callable[[Run], bool]) -> None:
    until(lambda: condition(Run.objects.get()), 30 + TOTAL / MINIMUM_RATE, "the run to go on", every=0.05)


def _live_latencies(bench: Bench, resent: Webhook, begins: bool) -> list[float]:
    """Milliseconds from commits to receipts at another webhook, alongside a run if it ``begins``."""
    inbox, devices = bench.inbox(), sample_data.make_devices(100)
    live = bench.webhook(inbox.url, Device)
    with bench.workers():
        time.sleep(bench.size(10, 1) / 10)
        if begins:
            _begin({"webhook": resent.pk})
            _until(lambda run: run.taken > 0)
        committed = save_steadily(itertools.islice(itertools.cycle(devices), bench.size(LIVE, 20)))
        if begins and bench.size(True, False) and Run.objects.get().state != RunState.RUNNING:
            raise NotMeasured("the run ended before the live traffic")
        inbox.wait_for(len(committed), 60)
        # Without the first sixth: the worker has to warm up.
        warm = committed[len(committed) // 6]
        measured = {pk: at for pk, at in by_delivery(live, committed).items() if at > warm}
    return milliseconds(measured, inbox)


A_RUN = f"a run that resends {TOTAL:,} deliveries"

RUN = Workload(
    "run",
    (
        Figure("run-rate", f"{A_RUN}, one worker", "deliveries/s", "new events, one worker", ratio_at_least(0.8)),
        Figure("run-many", f"{A_RUN} of {MANY} webhooks", "deliveries/s", "events of one webhook", ratio_at_least(0.8)),
        Figure("run-memory", f"memory of a worker at the end of {A_RUN}", "MB", "at a twentieth", ratio_at_most(1.05)),
        Figure("run-begin", f"the request that begins {A_RUN}", "ms", "", value_at_most(300, "ms")),
        Figure("run-live", f"commit to receipt during {A_RUN}, p99", "ms", "without the run", ratio_at_most(1.5)),
    ),
    measure_run,
    most_runs=1,
)
