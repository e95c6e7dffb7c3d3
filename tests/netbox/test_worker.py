"""NetBox's usual worker, ``manage.py rqworker high default low``, delivers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.netbox.workers import redis_alone, usual_worker
from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.netbox import admin, api_client, watch
from tests.support.waiting import until

SECRET = "s3cret"


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_alone() as redis:
        yield redis


@pytest.fixture
def worker(redis, tmp_path, transactional_db) -> Iterator[Path]:
    """Its log."""
    log = tmp_path / "worker.log"
    with usual_worker(redis, log):
        yield log


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
