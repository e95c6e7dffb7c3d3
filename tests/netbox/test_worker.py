"""NetBox's usual worker, ``manage.py rqworker high default low``, delivers."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test.signals import setting_changed
from redis import Redis

from tests.support.inbox import ROOT, Inbox, ReceiverProcess
from tests.support.netbox import admin, api_client, watch
from tests.support.servers import own_valkey
from tests.support.waiting import PATIENCE, until

SECRET = "s3cret"


@pytest.fixture
def redis(monkeypatch) -> Iterator[Redis]:
    """A Redis for this test alone: other workers may listen to that of the session."""
    with own_valkey() as (server, _url):
        for queue in settings.RQ_QUEUES.values():
            monkeypatch.setitem(queue, "PORT", server.port)
        setting_changed.send(sender=None, setting="RQ_QUEUES", value=settings.RQ_QUEUES, enter=True)
        # The worker uses the same database: each process of pytest has its own.
        yield Redis(port=server.port, db=settings.RQ_QUEUES["default"]["DB"])
        monkeypatch.undo()
        setting_changed.send(sender=None, setting="RQ_QUEUES", value=settings.RQ_QUEUES, enter=True)


@pytest.fixture
def worker(redis, tmp_path, transactional_db) -> Iterator[Path]:
    """A worker as NetBox's documentation starts it, on the database of the tests. Returns its log."""
    log = tmp_path / "worker.log"
    environment = {
        **os.environ,
        "NETBOX_CONFIGURATION": "tests.netbox.worker_configuration",
        "NETBOX_DATABASE": settings.DATABASES["default"]["NAME"],
        "NETBOX_REDIS_PORT": str(redis.connection_pool.connection_kwargs["port"]),
    }
    command = [sys.executable, "-m", "netbox", "rqworker", "high", "default", "low"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(lambda: "istening on" in log.read_text() or process.poll() is not None, 60, "the worker to start")
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        process.terminate()
        process.wait(20 * PATIENCE)


@pytest.fixture(scope="module")
def receiver() -> Iterator[ReceiverProcess]:
    process = ReceiverProcess()
    yield process
    process.stop()


@pytest.fixture
def inbox(receiver) -> Inbox:
    return Inbox(receiver)


def patch_site(api: Any, pk: int, description: str) -> None:
    answer = api.patch(f"/api/dcim/sites/{pk}/", {"description": description}, format="json")
    assert answer.status_code == 200, answer.content


def test_a_change_arrives_once_with_netboxs_signature_also_after_redis_lost_everything(worker, redis, inbox) -> None:
    watch("dcim.site", payload_url=inbox.url(), secret=SECRET, prechange=True)
    api = api_client(admin("robot"))
    answer = api.post("/api/dcim/sites/", {"name": "Ulm", "slug": "ulm"}, format="json")
    [request] = inbox.wait_for(1)
    signature = hmac.new(SECRET.encode(), request.body, hashlib.sha512).hexdigest()
    assert request.headers["x-hook-signature"] == signature
    body = request.json
    assert (body["event"], body["model"], body["username"]) == ("created", "site", "robot")
    assert (body["object_type"], body["request"]["path"]) == ("dcim.site", "/api/dcim/sites/")
    assert body["data"]["device_count"] == 0
    assert body["snapshots"]["postchange"]["owner"] is None

    redis.flushall()
    pk = answer.json()["id"]
    patch_site(api, pk, "after the flush")
    redis.flushall()
    requests = inbox.wait_for(2)
    assert [(one.json["event"], one.json["data"]["description"]) for one in requests] == [
        ("created", ""),
        ("updated", "after the flush"),
    ]
    until(lambda: redis.exists("rq:workers"), 20, "the worker to register again")
    text = worker.read_text()
    assert "Traceback" not in text, text
