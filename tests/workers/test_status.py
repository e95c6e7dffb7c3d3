"""The state of Redis and its workers for the status page."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq import Queue, Worker
from rq.suspension import suspend
from rq.utils import now
from rq.worker import WorkerStatus

from tests.support.redis_outages import note_dials
from tests.support.servers import free_port
from tests.support.waiting import until
from tests.support.workers import SHIPPED, STOCK, Workers
from webhooks.ground.db import to_utc
from webhooks.ground.error_kinds import ErrorKind
from webhooks.workers import WebhookWorker
from webhooks.workers.breaker import Fault
from webhooks.workers.redis import complete_queue_settings
from webhooks.workers.status import CLOCK_FIELD, FAULTS_FIELD, RATE_FIELD, SETTINGS_KEY, faults_as_json, read_backend


def register(redis: Any, name: str, *queues: str) -> Worker:
    """Register a worker as rq does when one starts."""
    worker = Worker([Queue(queue, connection=redis) for queue in queues], name=name, connection=redis)
    worker.register_birth()
    return worker


def test_a_worker_has_its_queues_and_its_last_heartbeat(redis: Any) -> None:
    register(redis, "w-1", "webhooks", "default")
    [worker] = read_backend().workers
    assert (worker.name, worker.queues, worker.is_shipped) == ("w-1", ("webhooks", "default"), False)
    assert worker.silence < 5
    assert not worker.is_silent


def test_a_worker_that_has_ended_is_left_out(redis: Any) -> None:
    register(redis, "w-1", "webhooks").register_death()
    assert read_backend().workers == ()


def test_a_worker_of_another_queue_does_not_serve(redis: Any) -> None:
    register(redis, "w-1", "default")
    seen = read_backend()
    assert len(seen.workers) == 1
    assert seen.serving == []


def test_a_worker_has_its_job_without_arguments(redis: Any) -> None:
    worker = register(redis, "w-1", "webhooks")
    job = Queue("webhooks", connection=redis).enqueue("time.sleep", 1)
    redis.hset(worker.key, "current_job", job.id)
    seen = read_backend()
    assert seen.workers[0].job == "time.sleep", "its arguments may be secret"
    assert seen.wake_ups == 1


def test_faults_of_several_workers_are_reported_once_since_the_first(redis: Any) -> None:
    for name, minute in (("w-1", 5), ("w-2", 4)):
        fault = Fault(
            ErrorKind.PROXY, "The proxy p:1 refuses connections", datetime(2026, 11, 24, 12, minute, tzinfo=UTC)
        )
        redis.hset(register(redis, name, "webhooks").key, FAULTS_FIELD, faults_as_json([fault]))
    [found] = read_backend().faults
    assert (found.kind, found.text) == (ErrorKind.PROXY, "The proxy p:1 refuses connections")
    assert to_utc(found.since).minute == 4


@pytest.mark.parametrize(
    "text", ["", "{", "1", '["x"]', '[["new kind", "x", 1]]', '[["proxy", "x", 1e99]]', "[" * 9999]
)
def test_faults_that_cannot_be_read_are_left_out(redis: Any, text: str) -> None:
    redis.hset(register(redis, "w-1", "webhooks").key, FAULTS_FIELD, text)
    seen = read_backend()
    assert (seen.error, seen.faults, len(seen.workers)) == ("", [], 1)


def test_a_worker_without_heartbeats_is_silent(redis: Any) -> None:
    worker = register(redis, "w-1", "webhooks")
    redis.hset(worker.key, "last_heartbeat", now().replace(year=2020).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    assert read_backend().workers[0].is_silent


@pytest.mark.parametrize("offset", [3600, -3600])
def test_a_heartbeat_is_corrected_by_the_offset_of_its_clock(redis: Any, offset: int) -> None:
    worker = register(redis, "w-1", "webhooks")
    beat = now() + timedelta(seconds=offset)
    sent = {"last_heartbeat": beat.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), CLOCK_FIELD: f"{offset:.1f}"}
    redis.hset(worker.key, mapping=sent)
    [seen] = read_backend().workers
    assert seen.clock_offset == offset
    assert -5 < seen.silence < 5


@pytest.mark.parametrize("offset", ["x", "inf"])
def test_an_offset_that_cannot_be_read_is_reported(redis: Any, offset: str) -> None:
    redis.hset(register(redis, "w-1", "webhooks").key, CLOCK_FIELD, offset)
    assert offset in read_backend().error


@pytest.mark.parametrize(("reported", "expected"), [({RATE_FIELD: "41.3"}, 41.3), ({}, None)])
def test_a_worker_reports_its_attempts_a_minute(redis: Any, reported: dict[str, str], expected: float | None) -> None:
    redis.hset(register(redis, "w-1", "webhooks").key, mapping={CLOCK_FIELD: "0.0", **reported})
    assert read_backend().workers[0].per_minute == expected


def test_a_worker_names_the_settings_that_the_one_before_did_not_have(redis: Any, settings: Any) -> None:
    def start(name: str) -> tuple[str, ...]:
        WebhookWorker([Queue("webhooks", connection=redis)], name=name, connection=redis).register_birth()
        return next(one.changed_settings for one in read_backend().workers if one.name == name)

    assert start("w-1") == (), "there was none before"
    settings.WEBHOOKS = {**settings.WEBHOOKS, "SENDERS": 7, "TIMEOUT": 9}
    assert start("w-2") == ("SENDERS", "TIMEOUT")
    assert start("w-3") == ()
    settings.WEBHOOKS = {**settings.WEBHOOKS, "PROXY": "http://me:hush@proxy:3128"}
    assert start("w-4") == ("PROXY",)
    settings.SECRET_KEY = "another"
    assert start("w-5") == ("SECRET_KEY",)
    assert b"hush" not in redis.get(SETTINGS_KEY % "webhooks")
    redis.set(SETTINGS_KEY % "webhooks", "[1]")
    assert start("w-6") == ()


def test_a_suspended_worker_does_not_serve(redis: Any) -> None:
    worker = register(redis, "w-1", "webhooks")
    assert (read_backend().is_suspended, len(read_backend().serving)) == (False, 1)
    suspend(redis)
    worker.set_state(WorkerStatus.SUSPENDED)
    assert (read_backend().is_suspended, read_backend().serving) == (True, [])


def test_times_are_naive_where_the_project_uses_no_time_zones(redis: Any, settings: Any) -> None:
    settings.USE_TZ = False
    register(redis, "w-1", "webhooks")
    [worker] = read_backend().workers
    assert worker.last_heartbeat is not None
    assert worker.last_heartbeat.tzinfo is None
    assert 0 <= worker.silence < 5


def test_the_error_says_that_redis_refuses_and_hides_the_password(settings: Any) -> None:
    port = free_port()
    settings.RQ_QUEUES = {"webhooks": {"URL": f"redis://me:secret@127.0.0.1:{port}/2"}}
    seen = read_backend()
    assert "refused" in seen.error
    assert seen.address == f"127.0.0.1:{port}, database 2"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ({"UNIX_SOCKET_PATH": "/no/such.sock"}, "/no/such.sock, database 0"),
        ({"SENTINELS": [("127.0.0.1", 1)], "MASTER_NAME": "primary"}, "primary (Sentinel), database 0"),
    ],
)
def test_a_socket_and_sentinels_are_places_of_redis(settings: Any, location: dict[str, Any], shown: str) -> None:
    settings.RQ_QUEUES = {"webhooks": location}
    complete_queue_settings("webhooks")
    assert read_backend().address == shown


@pytest.mark.parametrize("place", ["redis://127.0.0.1:1", "unix:///no/such.sock"])
def test_a_url_that_names_no_database_means_the_first(settings: Any, place: str) -> None:
    settings.RQ_QUEUES = {"webhooks": {"URL": place}}
    assert read_backend().address == f"{place.partition('://')[2]}, database 0"


def test_a_redis_that_does_not_answer_delays_the_page_by_a_second(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials = note_dials(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.RQ_QUEUES = {"webhooks": {"HOST": "127.0.0.1", "PORT": silent.getsockname()[1], "DB": 0}}
        assert read_backend().error
    assert dials == [(0.5, 0.5)]


@pytest.mark.parametrize("queues", [{}, {"webhooks": {"HOST": "localhost"}}, None, ["webhooks"], {"webhooks": None}])
def test_an_unusable_setting_is_the_error(settings: Any, queues: Any) -> None:
    settings.RQ_QUEUES = queues
    assert "RQ_QUEUES" in read_backend().error


@pytest.mark.one_database
@pytest.mark.parametrize(("worker_class", "name"), [(SHIPPED, "WebhookWorker"), (STOCK, "")])
def test_a_real_worker_has_its_class(workers: Workers, worker_class: str, name: str) -> None:
    workers.start(worker_class).wait_until_listening()
    [worker] = until(lambda: read_backend().workers, 10, "the worker to be known")
    assert (worker.class_name, worker.is_shipped) == (name, worker_class == SHIPPED)
    assert worker.queues == ("webhooks",)
