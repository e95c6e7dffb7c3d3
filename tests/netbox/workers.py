"""NetBox's usual worker in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections
from django.test.signals import setting_changed
from redis import Redis

from tests.support.inbox import ROOT
from tests.support.servers import own_valkey
from tests.support.waiting import PATIENCE, until


@contextmanager
def redis_alone() -> Iterator[Redis]:
    """A Redis for this test alone: other workers may listen to that of the session."""
    with own_valkey() as (server, _url):
        with pytest.MonkeyPatch.context() as patched:
            for queue in settings.RQ_QUEUES.values():
                patched.setitem(queue, "PORT", server.port)
            _announce()
            # The worker uses the same database: each process of pytest has its own.
            yield Redis(port=server.port, db=settings.RQ_QUEUES["default"]["DB"])
        _announce()


def _announce() -> None:
    setting_changed.send(sender=None, setting="RQ_QUEUES", value=settings.RQ_QUEUES, enter=True)


@contextmanager
def usual_worker(redis: Redis, log: Path) -> Iterator[None]:
    """A worker as NetBox's documentation starts it, on the database of the tests."""
    environment = {
        **os.environ,
        "NETBOX_CONFIGURATION": "tests.netbox.worker_configuration",
        "NETBOX_DATABASE": connections["default"].settings_dict["NAME"],
        "NETBOX_REDIS_PORT": str(redis.connection_pool.connection_kwargs["port"]),
    }
    command = [sys.executable, "-m", "netbox", "rqworker", "high", "default", "low"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: "istening on" in log.read_text() or process.poll() is not None, 60, "the worker to start")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(20 * PATIENCE)
