"""Connections to Redis, and which errors mean an outage."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from redis import Redis, exceptions

from tests.support.servers import own_valkey
from webhooks.workers import jobs
from webhooks.workers import redis as redis_module
from webhooks.workers.redis import connection_error
from webhooks.workers.status import read_backend


def test_no_part_of_a_password_is_shown_if_its_url_is_invalid(settings: Any, app_log: Any) -> None:
    settings.WEBHOOKS = {**settings.WEBHOOKS, "QUEUE": "hooks"}
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "hooks": {"URL": "redis://:planted/with-a-slash@127.0.0.1:6379/0"}}
    texts = [read_backend().error, connection_error()]
    jobs.wake_up()
    texts.append(app_log.text)
    for text in texts:
        assert "planted" not in text
        assert "its URL cannot be read: it is redis://…" in text


def test_a_name_server_that_does_not_answer_holds_the_status_page_for_a_second(
    settings: Any, names: dict[str, Any]
) -> None:
    released = threading.Event()

    def look_up() -> list[str]:
        released.wait(60)
        return ["127.0.0.1"]

    names["redis.example.org"] = look_up
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "webhooks": {"URL": "redis://redis.example.org:6379/0"}}
    before = time.monotonic()
    assert read_backend().error == "the name of its host takes too long to resolve"
    assert time.monotonic() - before < 20
    released.set()


def test_a_redis_with_a_name_is_read_as_one_with_an_address(
    settings: Any, redis_url: str, names: dict[str, Any]
) -> None:
    names["redis.example.org"] = ["127.0.0.1"]
    url = redis_url.replace("127.0.0.1", "redis.example.org").replace("localhost", "redis.example.org")
    settings.RQ_QUEUES = {**settings.RQ_QUEUES, "webhooks": {"URL": url}}
    found = read_backend()
    assert (found.error, found.address.partition(":")[0]) == ("", "redis.example.org")


@pytest.mark.parametrize(
    ("error", "is_unavailable", "verb"),
    [
        (exceptions.ConnectionError("refused"), True, "does not answer"),
        (exceptions.TimeoutError("Timeout reading from socket"), True, "does not answer"),
        (exceptions.BusyLoadingError("loading the dataset in memory"), True, "does not answer"),
        (exceptions.AuthenticationError("invalid username-password pair"), True, "refuses"),
        (exceptions.MasterDownError("Link with MASTER is down"), True, "refuses"),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), True, "refuses"),
        (exceptions.ResponseError("Command # 2 (HSET k v) of pipeline caused error: NOREPLICAS Not"), True, "refuses"),
        (exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), True, "refuses"),
        (exceptions.NoPermissionError("User default has no permissions to run the 'lmove' command"), True, "refuses"),
        (exceptions.InvalidResponse("Protocol Error: b'HTTP/1.1 503'"), True, "does not answer"),
        (exceptions.DataError("Invalid input of type"), False, "does not answer"),
    ],
)
def test_which_errors_mean_that_redis_is_unavailable(
    error: exceptions.RedisError, is_unavailable: bool, verb: str, app_log: pytest.LogCaptureFixture
) -> None:
    assert redis_module.is_unavailable(error) == is_unavailable
    redis_module.Backoff(jobs.logger, "Events wait").failed(error, 1)
    assert app_log.messages == [f"Redis {verb} ({error}). Events wait."]


@pytest.mark.parametrize(
    "command",
    [
        "REPLICAOF 127.0.0.1 1",
        "CONFIG SET maxmemory 1",
        "CONFIG SET min-replicas-to-write 1",
        "ACL SETUSER default -set",
    ],
)
def test_a_server_that_refuses_writes_is_unavailable(command: str) -> None:
    with own_valkey() as (_, url):
        client = Redis.from_url(url)
        client.execute_command(*command.split())
        with pytest.raises(exceptions.ResponseError) as raised:
            client.set("key", "value")
    assert redis_module.is_unavailable(raised.value)
