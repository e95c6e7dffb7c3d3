"""The servers, databases, receiver and workers that experiments use: all real, all of this run alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import connection
from redis import Redis

from scripts.benchmark import templates
from scripts.benchmark.errors import NotMeasured
from scripts.benchmark.mailbox import FastReceiver, Mailbox, Request
from tests import servers
from tests.makers import make_webhook
from tests.tables import empty_all_tables
from tests.workers import SHIPPED, Worker, Workers
from webhooks import jobs
from webhooks.models import Webhook

SECRET = "whsec_c2VjcmV0IG9mIHRoZSBiZW5jaG1hcms="  # noqa: S105 # nosec B105 # of its own receivers
SETTINGS = "scripts.benchmark.settings"


@dataclass(frozen=True)
class Size:
    """How much is measured: ``size(full, quick)`` picks."""

    runs: int
    is_quick: bool

    def __call__(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full


class Crew(Workers):
    """Workers of the example project as it is."""

    def environment(self, **webhooks: Any) -> dict[str, str]:
        return super().environment(**webhooks) | {"DJANGO_SETTINGS_MODULE": SETTINGS}


class Lab:
    """What an experiment works with. It begins with ``empty()``."""

    def __init__(self, size: Size, redis_url: str, receiver: FastReceiver, directory: Path) -> None:
        self.size, self.redis_url, self.receiver = size, redis_url, receiver
        self._crew = Crew(directory, redis_url)
        self.sample: list[Request] = []

    def empty(self) -> None:
        """No rows but content types and permissions, and nothing in Redis."""
        empty_all_tables()
        self.forget_redis()

    def forget_redis(self) -> None:
        with Redis.from_url(self.redis_url) as client:
            client.flushdb()

    def mailbox(self, behaviour: str = "ok") -> Mailbox:
        return Mailbox(self.receiver, behaviour)

    def webhook(self, url: str, *models: Any, **fields: Any) -> Webhook:
        """An enabled webhook with a secret, for every change of these models."""
        return make_webhook(*models, url=url, **{"secret": SECRET, **fields})

    def fill(self, webhook: Webhook, count: int) -> int:
        """Commit so many Events that wait for their dispatch, each of an object of its own, and wake a worker.
        Returns the highest id that an Event had before."""
        before = templates.insert_events(count, webhook_ids=[webhook.pk])
        jobs.wake_up()
        return before

    @contextmanager
    def workers(self, worker_class: str = SHIPPED, count: int = 1, **webhooks: Any) -> Iterator[list[Worker]]:
        """Real processes that listen already; keywords are laid over their setting WEBHOOKS."""
        started = [self._crew.start(worker_class, **webhooks) for _ in range(count)]
        try:
            for worker in started:
                worker.wait_until_listening()
            yield started
        except (AssertionError, NotMeasured) as error:
            ends = "\n".join("\n".join(worker.text.splitlines()[-10:]) for worker in started)
            raise NotMeasured(f"{error}\nThe workers' logs end with:\n{ends}") from error
        finally:
            self._crew.stop_all()

    @contextmanager
    def copies(self, *names: str) -> Iterator[None]:
        """More databases like the present one, which nothing may be connected to, for ``on``."""
        present = str(connection.settings_dict["NAME"])
        for name in names:
            self._create(f"{present}_{name}", present)
        try:
            yield
        finally:
            for name in names:
                self._drop(f"{present}_{name}")

    def _create(self, name: str, like: str) -> None:
        connection.close()
        with connection._nodb_cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')

    def _drop(self, name: str) -> None:
        with connection._nodb_cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Work on this copy; workers that are started meanwhile do so too."""
        present = connection.settings_dict["NAME"]
        connection.close()
        connection.settings_dict["NAME"] = f"{present}_{name}"
        try:
            yield
        finally:
            connection.close()
            connection.settings_dict["NAME"] = present


@contextmanager
def open_lab(size: Size) -> Iterator[Lab]:
    """Start everything, and end it afterwards."""
    with servers.valkey() as redis_url, tempfile.TemporaryDirectory(prefix="webhooks-bench-") as directory:
        servers.point_queues_to(redis_url)
        receiver = FastReceiver()
        try:
            # Durable: PostgreSQL as it comes.
            with servers.default_database(servers.POSTGRESQL, durable=True):
                ContentType.objects.clear_cache()
                lab = Lab(size, redis_url, receiver, Path(directory))
                lab.sample = templates.take(lab)
                yield lab
        finally:
            receiver.stop()
