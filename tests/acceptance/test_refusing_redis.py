"""A Redis that answers and refuses writes: to the shipped worker class, it is away."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis, ResponseError
from redis import exceptions as of_redis
from rq import Queue

from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.servers import own_valkey
from tests.support.waiting import until
from tests.support.workers import Workers
from tests.testapp.models import Thing
from webhooks.models import Attempt
from webhooks.workers import redis
from webhooks.workers.worker import WebhookWorker

REFUSING = {
    "a replica": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "out of memory": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "without its replicas": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
}


@pytest.fixture
def valkey(workers: Workers) -> Iterator[Any]:
    """A separate server for this test and its workers."""
    with own_valkey() as (_, url):
        workers.redis_url = url
        yield Redis.from_url(url)
        workers.stop_all()


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("kind", REFUSING)
def test_workers_start_deliver_and_stop_while_redis_refuses(
    workers: Workers, inbox: Inbox, valkey: Any, kind: str
) -> None:
    refuse, allow = REFUSING[kind]
    make_webhook(Thing, url=inbox.url())
    running = workers.start()
    running.wait_until_listening()
    valkey.execute_command(*refuse.split())
    until(lambda: "Redis refuses" in running.text or running.process.poll() is not None, 20, "the first to be refused")
    Thing.objects.create(name="by the one that was running")
    inbox.wait_for(1)
    assert running.stop() == 0, running.text

    started = workers.start()
    until(lambda: "Redis refuses" in started.text or started.process.poll() is not None, 20, "the second to be refused")
    Thing.objects.create(name="by the one that was started")
    inbox.wait_for(2)
    valkey.execute_command(*allow.split())
    started.wait_until_listening()
    assert "Redis answers again" in started.text
    assert started.stop() == 0


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
def test_a_worker_stopped_before_it_reached_redis_records_its_requests(
    workers: Workers, inbox: Inbox, valkey: Any
) -> None:
    make_webhook(Thing, url=inbox.url("slow/2"))
    valkey.execute_command(*REFUSING["a replica"][0].split())
    worker = workers.start()
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    assert worker.stop() == 0
    assert Attempt.objects.get().succeeded


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
def test_another_apps_job_that_runs_meanwhile_is_not_abandoned(valkey: Any) -> None:
    queue = Queue("webhooks", connection=valkey)
    worker = WebhookWorker([queue], connection=valkey, job_monitoring_interval=1)
    job = queue.enqueue("time.sleep", 5)
    found = worker._dequeue(1)
    assert found
    refuse, allow = (command.split() for command in REFUSING["without its replicas"])
    children: list[int] = []

    def refuse_when_it_runs() -> None:
        until(lambda: job.get_status() == "started" and worker.horse_pid, 10, "the job to run")
        children.append(worker.horse_pid)
        valkey.execute_command(*refuse)

    refusing = threading.Thread(target=refuse_when_it_runs)
    refusing.start()
    worker.execute_job(*found)
    refusing.join()
    assert worker._retry_redis_at, "a sign of life was refused"
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)
    valkey.execute_command(*allow)
    second = queue.enqueue("time.sleep", 0)
    worker._redis_answered()
    found = worker._dequeue(1)
    assert found
    worker.execute_job(*found)
    assert second.is_finished, "the next job is not taken for the one before"
    worker.teardown()


@pytest.mark.parametrize(
    ("error", "is_away", "verb"),
    [
        (of_redis.ConnectionError("refused"), True, "does not answer"),
        (of_redis.TimeoutError("Timeout reading from socket"), True, "does not answer"),
        (of_redis.BusyLoadingError("loading the dataset in memory"), True, "does not answer"),
        (of_redis.AuthenticationError("invalid username-password pair"), True, "refuses"),
        (of_redis.ReadOnlyError("You can't write against a read only replica."), True, "refuses"),
        (of_redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True, "refuses"),
        (of_redis.MasterDownError("Link with MASTER is down"), True, "refuses"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), True, "refuses"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), True, "refuses"),
        (ResponseError("Command # 2 (HSET k v) of pipeline caused error: NOREPLICAS Not enough"), True, "refuses"),
        (ResponseError("UNBLOCKED force unblock from blocking operation"), True, "refuses"),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False, "refuses"),
        (ResponseError("unknown command 'MISCONF '"), False, "refuses"),
        (of_redis.DataError("Invalid input of type"), False, "does not answer"),
    ],
)
def test_errors_that_mean_redis_is_unavailable(error: of_redis.RedisError, is_away: bool, verb: str) -> None:
    assert redis.is_unavailable(error) == is_away
    assert redis.describe_outage(error) == f"Redis {verb} ({error})"
