"""Deliveries by this app's workers, and the baselines: RQ jobs and bare loops."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django_rq

from scripts.benchmark import clients
from scripts.benchmark.measure import CoreTimes, Meter, cpu_seconds, database_pids, niced, server_pids
from scripts.benchmark.receiver import Inbox, Received
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import NotMeasured
from tests.support.waiting import until
from tests.support.workers import SHIPPED, STOCK
from webhooks.models import Attempt, Delivery, State, Webhook

ROOT = Path(__file__).resolve().parents[2]
FORKING, SIMPLE = STOCK, "rq.worker.SimpleWorker"

# A run with fewer deliveries a second than this has failed.
MINIMUM_RATE = 20


@dataclass(frozen=True)
class Delivered:
    """Deliveries by one or more workers.

    ``cpu`` and ``database_cpu`` are the CPU seconds of the workers and of their PostgreSQL processes. They count from
    the commit of the Events until the last delivery is recorded. ``database_cpu`` is None if it is unknown. ``busy`` is
    the share of the time of all cores of the machine that was used, until the last one arrived. ``cores`` are the cores
    in use by the workers, PostgreSQL and the receiver.
    """

    count: int
    received: Received
    times: list[float]
    cpu: float
    database_cpu: float | None
    busy: float
    cores: dict[str, float]

    @property
    def rate(self) -> float:
        """Deliveries a second, from the first request to the last, without the start of the processes."""
        return self.received.rate

    @property
    def steady_rate(self) -> float:
        """Deliveries a second in the middle three fifths, while all workers are busy."""
        return self.rate_of_waves(1)

    def rate_of_waves(self, at_once: int) -> float:
        """The same for a slow receiver that gets so many requests at once. They arrive in waves, so that the time of a
        part of a wave says nothing: counts whole waves, if there is one."""
        first, most = len(self.times) // 5, len(self.times) * 3 // 5 - 1
        count = most // at_once * at_once or most
        return count / (self.times[first + count] - self.times[first])


def deliver(
    bench: Bench,
    count: int,
    behaviour: str = "ok",
    worker_class: str = SHIPPED,
    workers: int = 1,
    others_niced: bool = False,
    tls: bool = False,
    **settings: Any,
) -> Delivered:
    """Deliver Events of different objects from an empty database. Keywords override the setting WEBHOOKS. With
    ``others_niced``, PostgreSQL and the receiver take only what the workers leave.

    Raises NotMeasured unless each Event is delivered exactly once.
    """
    bench.clear()
    inbox = bench.inbox(behaviour, tls)
    webhook = bench.webhook(inbox.url, ca_file_path=inbox.authority)
    return deliver_to(inbox, webhook, bench, count, worker_class, workers, others_niced, **settings)


def deliver_to(
    inbox: Inbox,
    webhook: Webhook,
    bench: Bench,
    count: int,
    worker_class: str = SHIPPED,
    workers: int = 1,
    others_niced: bool = False,
    **settings: Any,
) -> Delivered:
    """Like ``deliver``, but from the current database, for a webhook that sends to ``inbox``."""
    with bench.workers(worker_class, workers, **settings) as processes:
        pids = [process.pid for process in processes]
        # The stock worker opens its connections in forks, so it has none yet.
        connections = _wait_for_connections(workers if worker_class == SHIPPED else 0, bench.size(3, 0) / 10)
        groups = {"workers": pids, "postgresql": server_pids(), "receiver": [bench.receiver.process.pid]}
        others = [*groups["postgresql"], *groups["receiver"]]
        cpu, database_cpu = cpu_seconds(pids), database_cpu_seconds(connections)
        with niced(others) if others_niced else nullcontext():
            highest = bench.add_events(webhook, count)
            began, meters = CoreTimes.now(), {name: Meter(group) for name, group in groups.items()}
            received = inbox.wait_for(count, seconds=30 + count / MINIMUM_RATE)
            busy, cores = CoreTimes.now().busy_since(began), {name: meter.cores() for name, meter in meters.items()}
        wait_until_recorded(count, after=highest)
        cpu = cpu_seconds(pids) - cpu
        if database_cpu is not None and (now := database_cpu_seconds(connections)) is not None:
            database_cpu = now - database_cpu
        else:
            database_cpu = None
        return Delivered(count, received, [at for _, at in inbox.times()], cpu, database_cpu, busy, cores)


def _wait_for_connections(count: int, seconds: float) -> list[int]:
    """Wait until the workers are connected to the database, and ``seconds`` more, so that they are idle. Returns their
    PostgreSQL processes."""
    until(lambda: len(database_pids()) == count, 30, f"{count} connections to the database")
    time.sleep(seconds)
    return database_pids()


def database_cpu_seconds(pids: list[int]) -> float | None:
    """The CPU seconds of PostgreSQL processes, or None if they have ended or run on another machine."""
    try:
        return cpu_seconds(pids)
    except OSError:
        return None


def wait_until_recorded(count: int, after: int = 0) -> None:
    """Wait until the database has this many succeeded deliveries of Events with an id above ``after``."""
    deliveries = Delivery.objects.in_states(State.SUCCEEDED).filter(event_id__gt=after)
    try:
        until(lambda: deliveries.count() >= count, 30, f"{count} deliveries to be recorded", every=0.05)
    except AssertionError as error:
        raise NotMeasured(str(error)) from None
    if (attempts := Attempt.objects.filter(delivery__event_id__gt=after).count()) != count:
        raise NotMeasured(f"{count} deliveries took {attempts} attempts")


def deliver_with_rq_jobs(bench: Bench, count: int, worker_class: str = FORKING) -> Received:
    """The usual way: one RQ job for each delivery, on rq's own worker. All jobs wait before the worker starts."""
    bench.clear_redis()
    inbox = bench.inbox()
    queue = django_rq.get_queue("webhooks", commit_mode="auto")
    for request in itertools.islice(itertools.cycle(bench.requests), count):
        queue.enqueue(clients.post, inbox.url, request.headers, request.body, result_ttl=0)
    with bench.workers(worker_class):
        return inbox.wait_for(count, seconds=60 + count)


@dataclass(frozen=True)
class Looped:
    """The seconds and the CPU seconds of a loop, without the start of its process."""

    count: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def deliver_in_loop(bench: Bench, client: str, count: int, behaviour: str = "ok", tls: bool = False) -> Looped:
    """Send requests one after the other in a process without a database. ``client``: requests or urllib3."""
    inbox = bench.inbox(behaviour, tls)
    command = [sys.executable, "-m", "scripts.benchmark.clients", client, inbox.url, str(count)]
    if tls:
        command.append(inbox.authority)
    text = json.dumps([{"headers": request.headers, "body": request.body.decode()} for request in bench.requests])
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
    return Looped(count, **json.loads(done.stdout))
