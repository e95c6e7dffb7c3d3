"""PostgreSQL, Valkey, the receiver and the workers: all real, and started for this run alone."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import connection
from redis import Redis

from scripts.benchmark import sample_data, timed_worker
from scripts.benchmark.receiver import FastReceiver, Inbox, Request
from scripts.benchmark.targets import NotMeasured
from tests.support import servers
from tests.support.certificates import make_certificate
from tests.support.makers import make_webhook
from tests.support.tables import empty_all_tables
from tests.support.valkey import Valkey
from tests.support.workers import SHIPPED, Worker, Workers
from webhooks.models import Webhook
from webhooks.workers import jobs

SECRET = "whsec_c2VjcmV0IG9mIHRoZSBiZW5jaG1hcms="  # noqa: S105 # nosec B105 # for the benchmark's receiver alone
SETTINGS = "scripts.benchmark.settings"

# A payload URL for webhooks that no worker delivers.
UNREACHABLE = "http://127.0.0.1:1/"


@dataclass(frozen=True)
class Size:
    """How much to measure. ``size(full, quick)`` returns one of the two numbers."""

    runs: int
    is_quick: bool
    pinned_seconds: int
    """How long a snapshot is pinned, and the sweep deletes."""
    stored: int
    """Deliveries in a large database."""
    retention_seconds: int = 900
    """How long to measure a rate with retention."""
    endurance_seconds: int = 3600

    def __call__(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full


class BenchWorkers(Workers):
    """Workers with the settings of the benchmark."""

    def environment(self, **webhooks: Any) -> dict[str, str]:
        return super().environment(**webhooks) | {
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            timed_worker.VARIABLE: str(self.directory / "transactions"),
        }

    def transactions(self, begin: float, end: float) -> dict[str, list[float]]:
        """The milliseconds of each transaction of timed workers that ended within these times (monotonic), by name."""
        found: dict[str, list[float]] = defaultdict(list)
        for line in (self.directory / "transactions").read_text().splitlines():
            name, at, seconds = line.split()
            if begin <= float(at) < end:
                found[name].append(1000 * float(seconds))
        return found


class Bench:
    """The servers and workers of a benchmark run, as workloads use them."""

    def __init__(self, size: Size, redis_url: str, receiver: FastReceiver, directory: Path) -> None:
        self.size, self.redis_url, self.receiver = size, redis_url, receiver
        self._workers = BenchWorkers(directory, redis_url)
        self._workers.is_forking = size.is_quick
        self.requests: list[Request] = []
        """Requests of real deliveries, for the baselines to send."""

    def clear(self) -> None:
        """Delete everything in Redis, and all rows except content types and permissions."""
        empty_all_tables()
        self.clear_redis()

    def clear_redis(self) -> None:
        with Redis.from_url(self.redis_url) as client:
            client.flushdb()

    def inbox(self, behaviour: str = "ok", tls: bool = False) -> Inbox:
        return Inbox(self.receiver, behaviour, tls)

    def webhook(self, url: str, *models: Any, **fields: Any) -> Webhook:
        """Create an enabled webhook with a secret, for all changes of these models."""
        return make_webhook(*models, url=url, **{"secret": SECRET, **fields})

    def add_events(self, webhook: Webhook, count: int) -> int:
        """Commit undispatched Events, each of a different object, and wake a worker.

        Returns the highest id of an Event before.
        """
        highest = sample_data.insert_events(count, [webhook.pk])
        jobs.wake_up()
        return highest

    def environment(self) -> dict[str, str]:
        """The environment of another process of the host."""
        return self._workers.environment()

    def transactions(self, begin: float, end: float) -> dict[str, list[float]]:
        """The milliseconds of the transactions of workers of ``timed_worker.PATH`` between these times."""
        return self._workers.transactions(begin, end)

    def start_worker(self, worker_class: str = SHIPPED, **webhooks: Any) -> Worker:
        """Start one more worker process among ``workers``, which stop it too."""
        return self._workers.start(worker_class, **webhooks)

    @contextmanager
    def own_redis(self) -> Iterator[Valkey]:
        """Use another Redis meanwhile, which may be killed and revived."""
        usual, server = self.redis_url, Valkey()
        try:
            self._use_redis(server.url)
            yield server
        finally:
            self._use_redis(usual)
            server.stop()

    def _use_redis(self, url: str) -> None:
        self.redis_url = self._workers.redis_url = url
        servers.point_queues_to(url)

    @contextmanager
    def workers(self, worker_class: str = SHIPPED, count: int = 1, **webhooks: Any) -> Iterator[list[Worker]]:
        """Start worker processes and wait until they listen. Keywords override their setting WEBHOOKS."""
        workers = [self._workers.start(worker_class, **webhooks) for _ in range(count)]
        try:
            for worker in workers:
                worker.wait_until_listening()
            yield workers
        except (AssertionError, NotMeasured) as error:
            tails = "\n".join("\n".join(worker.text.splitlines()[-10:]) for worker in workers)
            raise NotMeasured(f"{error}\nThe workers' logs end with:\n{tails}") from error
        finally:
            if self.size.is_quick:
                self._workers.end()
            else:
                self._workers.stop_all()

    @contextmanager
    def database_copies(self, *names: str) -> Iterator[None]:
        """Copy the current database under more names, for ``use_database``. No process may be connected to it."""
        current = str(connection.settings_dict["NAME"])
        for name in names:
            connection.close()
            _execute_outside(f'CREATE DATABASE "{current}_{name}" TEMPLATE "{current}"')
        try:
            yield
        finally:
            for name in names:
                _execute_outside(f'DROP DATABASE IF EXISTS "{current}_{name}" WITH (FORCE)')

    @contextmanager
    def use_database(self, name: str) -> Iterator[None]:
        """Connect this process to a copy, and all workers that are started meanwhile."""
        current = connection.settings_dict["NAME"]
        connection.close()
        connection.settings_dict["NAME"] = f"{current}_{name}"
        try:
            yield
        finally:
            connection.close()
            connection.settings_dict["NAME"] = current


def _execute_outside(statement: str) -> None:
    """Execute a statement on a connection to no particular database."""
    with connection._nodb_cursor() as cursor:
        cursor.execute(statement)


@contextmanager
def open_bench(size: Size) -> Iterator[Bench]:
    """Start the servers, and stop them afterwards."""
    with servers.valkey() as redis_url, tempfile.TemporaryDirectory(prefix="webhooks-bench-") as directory:
        servers.point_queues_to(redis_url)
        receiver = FastReceiver(make_certificate(Path(directory)))
        try:
            # Durable: PostgreSQL with its default settings. A quick run judges nothing, and does not wait for the disk.
            with servers.default_database(servers.POSTGRESQL, durable=not size.is_quick):
                ContentType.objects.clear_cache()
                bench = Bench(size, redis_url, receiver, Path(directory))
                bench.requests = sample_data.create_templates(bench)
                yield bench
        finally:
            receiver.stop()
