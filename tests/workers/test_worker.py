"""The shipped worker class, in processes of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import django_rq
import pytest
from django.db import OperationalError, connection
from redis import Redis
from rq import Queue

from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.servers import free_port, own_valkey
from tests.support.waiting import PATIENCE, until
from tests.support.workers import SHIPPED, STOCK, Workers
from tests.testapp.models import Thing
from webhooks.delivery import maintenance
from webhooks.delivery import worker as delivery_worker
from webhooks.models import Attempt, Delivery, State, Sweep
from webhooks.workers.worker import WARM_SECONDS, WebhookWorker

pytestmark = pytest.mark.usefixtures("database")


def count(state: State) -> int:
    return Delivery.objects.filter(state=state).count()


def test_due_retries_go_out_by_themselves(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url("fail-first/2"))
    workers.start(SHIPPED, RETRY_SCHEDULE=[0.5, 0.5], RETRY_JITTER=0).wait_until_listening()
    Thing.objects.create(name="a")
    until(lambda: count(State.SUCCEEDED) == 1, 15, "the delivery to succeed")
    assert Attempt.objects.count() == 3


def test_what_a_dead_worker_had_claimed_is_sent_again_by_another(workers: Workers, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("hang"), timeout=300)
    first = workers.start(SHIPPED, LEASE=2)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    first.kill()
    assert count(State.SENDING) == 1
    webhook.payload_url = inbox.url()
    webhook.save()
    workers.start(SHIPPED, LEASE=2)
    until(lambda: count(State.SUCCEEDED) == 1, 20, "the delivery to succeed")
    received = inbox.received()
    assert len(received) == 2
    assert len({(one.headers["webhook-id"], one.body) for one in received}) == 1


def test_a_worker_that_was_stopped_for_longer_than_its_lease_overwrites_nothing(workers: Workers, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("slow/3"), timeout=60)
    stalled = workers.start(SHIPPED, LEASE=1)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    stalled.freeze()
    webhook.payload_url = inbox.url()
    webhook.save()
    try:
        workers.start(SHIPPED, LEASE=1).wait_until_listening()
        until(lambda: count(State.SUCCEEDED) == 1, 20, "the other worker to deliver")
    finally:
        stalled.thaw()
    Thing.objects.create(name="b")
    until(lambda: count(State.SUCCEEDED) == 2, 20, "both workers to go on")
    assert stalled.stop() == 0
    assert Attempt.objects.count() == 2


def test_a_warm_stop_finishes_what_is_under_way(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url("slow/2"))
    worker = workers.start()
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    assert worker.stop() == 0
    assert count(State.SUCCEEDED) == 1


def test_a_warm_stop_of_an_idle_worker_is_quick(workers: Workers) -> None:
    worker = workers.start()
    worker.wait_until_listening()
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < WARM_SECONDS


@pytest.mark.one_database
def test_a_second_signal_exits_at_once_and_loses_nothing(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url("hang"), timeout=300)
    worker = workers.start(SHIPPED, LEASE=2)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    worker.process.terminate()
    until(lambda: "warm shut down" in worker.text, 5, "the warm shut down")
    time.sleep(1.1)  # rq takes two signals within a second for one
    worker.process.terminate()
    worker.process.wait(WARM_SECONDS - 2)  # what is under way is not waited for any longer
    assert count(State.SENDING) + count(State.PENDING) == 1


def test_burst_mode_delivers_and_ends(workers: Workers, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(50):
        make_event(webhook, object_id=str(number))
    worker = workers.start(SHIPPED, "--burst")
    assert worker.process.wait(30 * PATIENCE) == 0
    assert count(State.SUCCEEDED) == 50


def test_jobs_of_others_run_beside_the_deliveries(workers: Workers, inbox: Inbox, tmp_path: Path) -> None:
    workers.start().wait_until_listening()
    made = tmp_path / "made by a job"
    django_rq.get_queue("webhooks").enqueue("pathlib.Path.touch", made)
    until(made.exists, 15, "the job of somebody else")
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    inbox.wait_for(1)


def test_a_job_of_somebody_else_that_fails_is_no_harm(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    workers.start().wait_until_listening()
    django_rq.get_queue("webhooks").enqueue("operator.truediv", 1, 0)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    until(lambda: count(State.SUCCEEDED) == 1, 10, "the delivery to be recorded")


def test_the_worker_sweeps(workers: Workers, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    make_delivery(webhook, State.WAITING)
    workers.start()
    until(lambda: count(State.SUCCEEDED) == 1, 20, "the stranded delivery to go out")
    assert Sweep.objects.exists()


def test_connections_are_kept_from_one_wake_up_to_the_next(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    workers.start().wait_until_listening()
    for number in range(5):
        Thing.objects.create(name=str(number))
        inbox.wait_for(number + 1)
    assert len({one.connection for one in inbox.received()}) == 1


@pytest.mark.one_database
def test_events_go_out_while_redis_is_away_and_when_it_is_back(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    port = free_port()
    with own_valkey(port) as (server, url):
        workers.redis_url = url
        worker = workers.start()
        worker.wait_until_listening()
        server.terminate()
        Thing.objects.create(name="while it is away")
        inbox.wait_for(1, seconds=10)
    with own_valkey(port) as (server, url):
        until(lambda: Redis.from_url(url).keys("rq:worker*"), 30, "the worker to be known to the new Redis")
        Thing.objects.create(name="when it is back")
        inbox.wait_for(2, seconds=10)
        assert worker.process.poll() is None
        worker.stop()


@pytest.mark.one_database
def test_a_worker_that_starts_while_redis_is_away_delivers_and_registers_when_it_is_there(
    workers: Workers, inbox: Inbox
) -> None:
    make_webhook(Thing, url=inbox.url())
    port = free_port()
    workers.redis_url = f"redis://127.0.0.1:{port}/0"
    worker = workers.start()
    Thing.objects.create(name="before there is a Redis")
    inbox.wait_for(1)
    with own_valkey(port) as (_, url):
        until(lambda: Redis.from_url(url).keys("rq:worker*"), 30, "the worker to be known to Redis")
        worker.wait_until_listening()
        Thing.objects.create(name="when it is there")
        inbox.wait_for(2, seconds=10)
        assert worker.stop() == 0


@pytest.mark.one_database
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_waits_for_redis_finishes_its_requests_before_it_stops(
    workers: Workers, inbox: Inbox, number: signal.Signals
) -> None:
    make_webhook(Thing, url=inbox.url("slow/1"))
    workers.redis_url = f"redis://127.0.0.1:{free_port()}/0"
    worker = workers.start()
    Thing.objects.create(name="under way")
    until(lambda: Delivery.objects.filter(state=State.SENDING).exists(), 30, "the request to be under way")
    worker.process.send_signal(number)
    assert worker.process.wait(20) == 0
    assert Delivery.objects.get().state == State.SUCCEEDED
    assert "Redis does not answer (Error 111 connecting to 127.0.0.1" in worker.text
    assert "Traceback" not in worker.text


def test_a_worker_that_starts_while_the_database_is_away_waits_for_it(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    monkeypatch.setattr("tests.support.workers.database_url", lambda: nobody)
    worker = workers.start()
    until(lambda: "The database cannot be used" in worker.text or worker.process.poll() is not None, 30, "its word")
    worker.wait_until_listening()
    assert worker.stop() == 0


def test_a_database_that_leaves_while_a_request_is_under_way_does_not_end_the_worker(
    inbox: Inbox, redis: Any, app_log: pytest.LogCaptureFixture, webhooks_settings: Any
) -> None:
    def fail(*statement: Any) -> None:
        raise OperationalError("the database is away")

    webhooks_settings(LEASE=1)
    make_event(make_webhook(Thing, url=inbox.url("slow/1")))
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)
    worker._deliver()
    inbox.wait_for(1)
    with connection.execute_wrapper(fail):
        worker.teardown()
    assert "will be sent again: the database is away" in app_log.text
    until(lambda: maintenance.expire_leases() == 1, 10, "its lease to end")


def test_an_error_that_nobody_foresaw_does_not_end_the_worker_and_loses_no_outcome(
    inbox: Inbox, redis: Any, app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("nobody knows")

    make_event(make_webhook(Thing, url=inbox.url()))
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)
    with monkeypatch.context() as patch:
        patch.setattr(delivery_worker, "record", fail)
        started = time.monotonic()
        until(lambda: worker._deliver() or "nobody knows" in app_log.text, 10, "the error")
    assert time.monotonic() - started > 0.9, "it must not spin"
    until(lambda: worker._deliver() or count(State.SUCCEEDED), 10, "the outcome")
    assert len(inbox.received()) == Attempt.objects.count() == 1
    worker.teardown()


@pytest.mark.one_database
@pytest.mark.parametrize("step", ["run_maintenance_tasks", "heartbeat"])
def test_a_redis_that_leaves_in_the_middle_of_a_step_of_rq_does_not_end_the_worker(step: str) -> None:
    with own_valkey(free_port()) as (server, url):
        connection = Redis.from_url(url)
        worker = WebhookWorker([Queue("webhooks", connection=connection)], connection=connection)
        server.terminate()
        getattr(worker, step)()


@pytest.mark.one_database
def test_a_redis_that_was_emptied_is_no_loss(workers: Workers, inbox: Inbox, redis: Any) -> None:
    make_webhook(Thing, url=inbox.url())
    workers.start().wait_until_listening()
    for number in range(20):
        Thing.objects.create(name=str(number))
        redis.flushdb()
    inbox.wait_for(20)
    until(lambda: count(State.SUCCEEDED) == 20, 10, "all to be recorded")
    assert len(inbox.received()) == 20


@pytest.mark.parametrize("worker_class", [SHIPPED, STOCK], ids=["shipped", "stock"])
def test_several_workers_share_and_send_each_once(workers: Workers, inbox: Inbox, worker_class: str) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(300):
        make_event(webhook, object_id=str(number % 50))
    started = [workers.start(worker_class, SLICE=0.3) for _ in range(2)]
    for worker in started:
        worker.wait_until_listening()
    Thing.objects.create(name="the one that wakes them")
    until(lambda: count(State.SUCCEEDED) == 301, 30, lambda: f"all to succeed; {count(State.SUCCEEDED)} did")
    assert len(inbox.received()) == 301
    assert Attempt.objects.count() == 301
