"""A worker that is alive, and a database that is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from rq import Queue, Worker

from tests.support.redis_outages import refused
from tests.support.servers import point_queues_to
from webhooks.workers.status import CLASS_FIELD


@pytest.fixture
def live_worker(redis: Any) -> Worker:
    """A worker of the shipped class, as Redis knows it."""
    worker = Worker([Queue("webhooks", connection=redis)], name="w-1", connection=redis)
    worker.register_birth()
    redis.hset(worker.key, CLASS_FIELD, "webhooks.workers.WebhookWorker")
    return worker


@pytest.fixture
def redis_away(redis_url: str) -> Iterator[None]:
    with refused() as url:
        point_queues_to(url)
        yield
    point_queues_to(redis_url)


@pytest.fixture
def database_away(database: str) -> Iterator[None]:
    """Nothing answers where the settings say that the database is."""
    known = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict |= {"NAME": "/nowhere/at/all", "HOST": "/nowhere"}
    yield
    connection.close()
    connection.settings_dict |= known
