"""The shipped worker class, as real processes and step by step in this one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import django_rq
import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse_lazy
from django.utils import timezone
from redis import Redis
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.job import JobStatus

from tests.support.draining import drain, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.proxy import Proxy
from tests.support.servers import free_port, own_valkey
from tests.support.threads import Beside
from tests.support.waiting import PATIENCE, until
from tests.support.workers import SHIPPED, STOCK, Workers
from tests.testapp.models import Thing
from users.models import User
from webhooks import models
from webhooks.delivery import sweep
from webhooks.models import Attempt, Delivery, State, Sweep, Webhook
from webhooks.workers import jobs, slices
from webhooks.workers import runner as delivery_runner
from webhooks.workers.network.transport import Transport
from webhooks.workers.slices import WARM_SECONDS, ErrorLog
from webhooks.workers.status import read_backend
from webhooks.workers.worker import WebhookWorker

pytestmark = pytest.mark.usefixtures("database")


STATUS = reverse_lazy("webhooks_backend_status")


def count(state: State) -> int:
    return Delivery.objects.in_states(state).count()


# Deliveries


@pytest.mark.parametrize("worker_class", [SHIPPED, STOCK], ids=["shipped", "stock"])
def test_two_workers_share_the_deliveries_and_send_each_once(workers: Workers, inbox: Inbox, worker_class: str) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(150):
        make_event(webhook, object_id=str(number % 50))
    # A lease that an overloaded machine can renew.
    started = [workers.start(worker_class, SLICE=0.1, LEASE=60) for _ in range(2)]
    for worker in started:
        worker.wait_until_listening()
    Thing.objects.create(name="wakes the stock workers")
    until(lambda: count(State.SUCCEEDED) == 151, 30, lambda: f"all to succeed; {count(State.SUCCEEDED)} did")
    assert len(inbox.received()) == 151
    assert Attempt.objects.count() == 151


@pytest.mark.one_database
def test_a_worker_that_spawns_its_jobs_delivers(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    worker = workers.start("rq.worker.SpawnWorker")
    worker.wait_until_listening()
    Thing.objects.create(name="router")
    until(lambda: count(State.SUCCEEDED) == 1, 20, lambda: worker.text)


@pytest.mark.one_database
def test_rq_lists_the_worker_and_leaves_the_connection_as_it_is(workers: Workers, redis_url: str) -> None:
    workers.start().wait_until_listening()
    with closing(Redis.from_url(redis_url, socket_timeout=30)) as redis:
        options = dict(redis.connection_pool.connection_kwargs)
        [listed] = WebhookWorker.all(connection=redis)
        assert redis.connection_pool.connection_kwargs == options
        [usual] = Worker.all(connection=redis)
        assert (type(listed), listed.name, listed.pid) == (WebhookWorker, usual.name, usual.pid)


@pytest.mark.one_database
def test_a_worker_retries_sweeps_and_keeps_its_connections(workers: Workers, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("fail-first/2"))
    ended = timezone.now() - timedelta(seconds=1)
    make_delivery(webhook, State.SENDING, lease_until=ended)  # its worker has ended, so only a sweep finds it
    workers.start(SHIPPED, RETRY_SCHEDULE=[0.5, 0.5], RETRY_JITTER=0).wait_until_listening()
    Thing.objects.create(name="a")
    until(lambda: count(State.SUCCEEDED) == 2, 20, "both deliveries to succeed")
    assert Attempt.objects.count() == 4
    assert Sweep.objects.exists()
    # Two deliveries may be under way at once, each with a connection. No attempt opens another.
    assert len({one.connection for one in inbox.received()}) <= 2


@pytest.mark.one_database
def test_a_dead_proxy_is_shown_by_the_status_page_and_charges_no_attempt(
    workers: Workers, inbox: Inbox, redis: Any
) -> None:
    port = free_port()
    for number in range(3):
        make_event(make_webhook(Thing, url=inbox.url(f"ok?{number}")))
    worker = workers.start(SHIPPED, PROXY=f"http://127.0.0.1:{port}", PAUSE_AFTER=1)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    until(lambda: read_backend().faults, 30, "the worker to report the proxy")
    [alarm] = [alarm for alarm in client.get(STATUS).context["shown"].status.alarms if "proxy" in alarm.text]
    assert alarm.text == f"The proxy 127.0.0.1:{port} refuses connections."
    assert (alarm.since is not None, alarm.waiting) == (True, 3)
    with closing(Proxy(port=port)):
        until(lambda: count(State.SUCCEEDED) == 3, 20, "all deliveries to succeed")
        until(lambda: not read_backend().faults, 20, "the worker to report that it is over")
    assert Attempt.objects.count() == 3
    assert worker.text.count("refuses connections") == 2, "one line at the beginning, and one at the end"


@pytest.mark.one_database
@pytest.mark.parametrize("slice_", [3, 0.001], ids=["one slice", "many slices"])
def test_burst_mode_delivers_what_is_due_and_ends(workers: Workers, inbox: Inbox, slice_: float) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(50):
        make_event(webhook, object_id=str(number))
    worker = workers.start(SHIPPED, "--burst", SLICE=slice_, BATCH=5)
    assert worker.process.wait(30 * PATIENCE) == 0
    assert count(State.SUCCEEDED) == 50


@pytest.mark.postgresql
def test_burst_mode_ends_while_an_open_transaction_keeps_an_outcome_from_being_recorded(
    redis: Any, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.workers.worker.BURST_PATIENCE", 0.5)
    make_event(make_webhook(Thing, url=inbox.url("held/500")))
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)

    def work() -> Any:
        job = worker.dequeue_job_and_maintain_ttl(None)
        worker.teardown()
        return job

    burst = Beside(work)
    inbox.wait_for(1)
    with transaction.atomic():
        Webhook.objects.select_for_update().get()
        inbox.release()
        assert burst.join() is None
    assert count(State.PENDING) == 1, "it is handed back"


def test_a_worker_whose_job_class_runs_no_wake_up_delivers(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    worker = workers.start(SHIPPED, "--job-class", "tests.support.job_classes.OnlyTasks")
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    assert "SuspiciousOperation" not in worker.text


def test_the_deliveries_of_a_killed_worker_are_sent_by_another(workers: Workers, inbox: Inbox) -> None:
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


# The end of a worker


@pytest.mark.one_database
def test_an_idle_worker_stops_at_once(workers: Workers) -> None:
    worker = workers.start(IDLE_POLL=60)
    worker.wait_until_listening()
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < WARM_SECONDS
    assert "Redis" not in worker.text.partition("warm shut down")[0]


# Other jobs


class OfNewerCode:
    """An argument that a newer version of the site puts into a job."""


@pytest.mark.one_database
def test_jobs_run_fail_or_cannot_be_read_while_the_worker_delivers(
    workers: Workers, inbox: Inbox, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = workers.start()
    worker.wait_until_listening()
    module = ModuleType("newer_code")
    module.OfNewerCode = OfNewerCode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "newer_code", module)
    monkeypatch.setattr(OfNewerCode, "__module__", "newer_code")
    queue, touched = django_rq.get_queue("webhooks"), tmp_path / "made by a job"
    queue.enqueue("pathlib.Path.touch", touched)
    failing = [queue.enqueue("operator.truediv", 1, 0), queue.enqueue("time.sleep", OfNewerCode())]
    until(touched.exists, 15, "the job")
    until(lambda: all(job.get_status() == JobStatus.FAILED for job in failing), 20, "two jobs to fail")
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    until(lambda: count(State.SUCCEEDED) == 1, 10, "the delivery to be recorded")
    assert worker.stop() == 0


@pytest.mark.one_database
def test_a_slow_request_ends_while_jobs_come_often(workers: Workers, inbox: Inbox) -> None:
    worker = workers.start(LEASE=2)
    worker.wait_until_listening()
    make_webhook(Thing, url=inbox.url("hang"), timeout=300)
    make_webhook(Thing, url=inbox.url("slow/6"), timeout=60)
    Thing.objects.create(name="a")
    inbox.wait_for(2)
    queue = django_rq.get_queue("webhooks")
    job = queue.enqueue("time.sleep", 0.1)
    until(lambda: job.is_finished, 20, "a job that does not wait for the receiver")
    assert count(State.SENDING)

    def has_succeeded() -> bool:
        nonlocal job
        job = queue.enqueue("time.sleep", 0.1) if job.is_finished else job
        return count(State.SUCCEEDED) == 1

    until(has_succeeded, 30, "the delivery to succeed")
    assert Attempt.objects.count() == 1
    assert len(inbox.received()) == 2, "nothing is cut off and sent again"
    until(lambda: job.is_finished, 10, "the last job")


@pytest.fixture
def signals() -> Iterator[None]:
    """Restores the handlers of SIGTERM and SIGINT."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.one_database
@pytest.mark.usefixtures("signals")
def test_a_worker_that_is_stopped_before_a_job_starts_requeues_it_at_the_front(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue("webhooks", connection=redis)
    worker = WebhookWorker([queue], connection=redis)
    taken, later = queue.enqueue("time.sleep", 1), queue.enqueue("time.sleep", 1)
    found = worker._dequeue(1)
    assert found
    assert found[0] == taken
    assert queue.job_ids == [later.id]
    worker._install_signal_handlers()
    monkeypatch.setattr(
        delivery_runner.DeliveryRunner, "pause", lambda runner, grace: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(StopRequested):
        worker.execute_job(*found)
    worker.teardown()
    assert queue.job_ids == [taken.id, later.id]
    assert not queue.intermediate_queue.get_job_ids()
    assert taken.get_status() == JobStatus.QUEUED


def test_a_job_gets_no_connection_from_a_pool_of_its_worker(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    queue = Queue("webhooks", connection=redis)
    worker = WebhookWorker([queue], connection=redis)
    monkeypatch.setattr(
        type(connections["default"]), "close_pool", lambda self: steps.append("pool closed"), raising=False
    )
    monkeypatch.setattr(worker, "fork_work_horse", lambda *args: steps.append("forked"))
    monkeypatch.setattr(worker, "monitor_work_horse", lambda *args: None)
    worker.execute_job(queue.enqueue("time.sleep", 0), queue)
    assert steps == ["pool closed", "forked"]
    worker.teardown()


@pytest.mark.one_database
def test_wake_ups_are_dropped_without_reading_them(redis: Any) -> None:
    queue = Queue("webhooks", connection=redis)
    worker = WebhookWorker([queue], connection=redis)
    jobs.wake_up()
    [wake_up] = queue.get_jobs()
    redis.delete(wake_up.key)
    other = queue.enqueue("time.sleep", 1)
    found = [worker._dequeue(1) for _ in range(2)]
    assert [one[0].id for one in found if one] == [wake_up.id, other.id]
    assert queue.intermediate_queue.get_job_ids() == [other.id]
    assert not redis.exists("webhooks:wake-up:webhooks")
    worker.teardown()


class Clock:
    """Stands in for the module ``time`` of the worker."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_an_outage_of_hours_leaves_few_lines_and_one_that_says_it_is_over(
    app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(slices, "time", clock)
    errors = ErrorLog()
    errors.succeeded()
    for _ in range(4 * 3600):  # the worker tries every second
        errors.failed(OperationalError("connection refused"))
        errors.succeeded()  # what needs no database may work meanwhile
        clock.now += 1
    lines = [record.getMessage() for record in app_log.records]
    assert lines[:3] == [
        "The database cannot be used, trying again: connection refused",
        "The database cannot be used since 10 s, trying again: connection refused",
        "The database cannot be used since 30 s, trying again: connection refused",
    ]
    assert 20 < len(lines) < 40
    clock.now += 10
    errors.succeeded()
    errors.succeeded()
    assert [record.getMessage() for record in app_log.records][len(lines) :] == [
        "The database can be used again, after errors for 14399 s"
    ]


def test_another_kind_of_error_is_logged_at_once(
    app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(slices, "time", clock)
    errors = ErrorLog()
    errors.failed(OperationalError("connection refused"))
    clock.now += 1
    errors.failed(RuntimeError("a mistake"))
    clock.now += 60
    errors.succeeded()
    assert [record.levelname for record in app_log.records] == ["WARNING", "ERROR", "WARNING"]
    assert "since 1 s" in app_log.text
    assert "RuntimeError: a mistake" in app_log.text
    assert "Delivering works again, after errors for 1 s" in app_log.text


@pytest.mark.one_database
def test_if_the_thread_that_sends_has_ended_the_worker_ends_and_holds_nothing(
    redis: Any, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    make_event(make_webhook(Thing, url=inbox.url()))
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)
    with monkeypatch.context() as without_memory:
        without_memory.setattr(Transport, "start", None)
        with pytest.raises(SystemExit):
            for _ in range(5):
                worker._deliver()
    worker.teardown()
    models.Worker.objects.update(lease_until=Now())  # it is not renewed any more
    sweep_step(sweep.expire_leases)
    drain()
    assert count(State.SUCCEEDED) == 1


# Outages of Redis


@pytest.mark.one_database
@pytest.mark.parametrize(("is_away", "has_worked", "seconds"), [(True, True, 0.1), (True, False, 1), (False, True, 1)])
def test_a_worker_looks_again_soon_if_no_wake_up_can_come_and_it_just_had_something_to_do(
    redis: Any, monkeypatch: pytest.MonkeyPatch, is_away: bool, has_worked: bool, seconds: float
) -> None:
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)
    if is_away:
        worker._backoff.failed(ConnectionError("refused"), 60)
    clock = iter([0.0, 5.0, 5.0] if has_worked else [0.0, 5.0])
    waits: list[float] = []

    def deliver(is_woken: bool) -> bool:
        worker._runner.attempted += has_worked
        return False  # all that it found has ended

    def wait(seconds: float) -> None:
        waits.append(seconds)
        worker._stop_requested = True

    monkeypatch.setattr(worker, "_deliver", deliver)
    monkeypatch.setattr(worker, "_wait_for_job", wait)
    monkeypatch.setattr("webhooks.workers.worker.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(60)
    assert waits == [seconds]


@pytest.mark.one_database
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_without_redis_finishes_its_requests_before_it_stops(
    workers: Workers, inbox: Inbox, number: signal.Signals
) -> None:
    make_webhook(Thing, url=inbox.url("slow/1"))
    workers.redis_url = f"redis://127.0.0.1:{free_port()}/0"
    worker = workers.start()
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    worker.process.send_signal(number)
    assert worker.process.wait(20 * PATIENCE) == 0
    assert Delivery.objects.get().state == State.SUCCEEDED
    assert "Redis does not answer (Error 111 connecting to 127.0.0.1" in worker.text
    assert "Traceback" not in worker.text


@pytest.mark.one_database
def test_a_worker_starts_delivers_and_registers_although_redis_refuses_at_first(workers: Workers, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    with own_valkey() as (_, url):
        workers.redis_url, valkey = url, Redis.from_url(url)
        valkey.execute_command("REPLICAOF", "127.0.0.1", "1")
        worker = workers.start()
        until(lambda: "Redis refuses" in worker.text or worker.process.poll() is not None, 20, "Redis to refuse")
        Thing.objects.create(name="a")
        inbox.wait_for(1)
        valkey.execute_command("REPLICAOF", "NO", "ONE")
        worker.wait_until_listening()
        until(lambda: "Redis answers again" in worker.text, 20, "the log to say so")  # rq logs its line first
        valkey.execute_command("CONFIG", "SET", "min-replicas-to-write", "1")
        until(lambda: worker.text.count("Redis refuses") == 2, 20, "Redis to refuse again")
        Thing.objects.create(name="b")
        inbox.wait_for(2)
        assert worker.stop() == 0, worker.text


@pytest.mark.one_database
def test_a_job_that_runs_when_redis_starts_to_refuse_is_waited_for(database: str, tmp_path: Path) -> None:
    may_end = tmp_path / "the job may end"
    with own_valkey() as (_, url):
        valkey = Redis.from_url(url)
        queue = Queue("webhooks", connection=valkey)
        worker = WebhookWorker([queue], connection=valkey, job_monitoring_interval=1)
        job = queue.enqueue("tests.support.waiting.until_there", may_end)
        found = worker._dequeue(1)
        assert found
        children: list[int] = []

        def refuse_once_it_runs() -> None:
            until(lambda: job.get_status() == "started" and worker.horse_pid, 10, "the job to run")
            children.append(worker.horse_pid)
            valkey.execute_command("CONFIG", "SET", "min-replicas-to-write", "1")
            until(lambda: worker._backoff.has_failed, 20, "a heartbeat to be refused")
            may_end.touch()

        refusing = threading.Thread(target=refuse_once_it_runs)
        refusing.start()
        worker.execute_job(*found)
        refusing.join()
        assert may_end.exists(), "a heartbeat was refused"
        with pytest.raises(ChildProcessError):
            os.waitpid(children[0], os.WNOHANG)
        valkey.execute_command("CONFIG", "SET", "min-replicas-to-write", "0")
        second = queue.enqueue("time.sleep", 0)
        worker._backoff.succeeded()
        found = worker._dequeue(1)
        assert found
        worker.execute_job(*found)
        assert second.is_finished, "rq did not take the second job for the first"
        worker.teardown()


@pytest.mark.one_database
@pytest.mark.parametrize("step", ["run_maintenance_tasks", "heartbeat"])
def test_a_redis_that_stops_during_a_step_of_rq_does_not_end_the_worker(step: str) -> None:
    with own_valkey(free_port()) as (server, url):
        client = Redis.from_url(url)
        worker = WebhookWorker([Queue("webhooks", connection=client)], connection=client)
        server.terminate()
        getattr(worker, step)()


@pytest.mark.one_database
def test_a_redis_that_loses_its_data_at_any_moment_loses_no_event(workers: Workers, inbox: Inbox, redis: Any) -> None:
    make_webhook(Thing, url=inbox.url())
    workers.start().wait_until_listening()
    for number in range(20):
        Thing.objects.create(name=str(number))
        redis.flushdb()
    inbox.wait_for(20)
    until(lambda: count(State.SUCCEEDED) == 20, 10, "all to be recorded")
    assert len(inbox.received()) == 20


# Errors


@pytest.mark.one_database
def test_a_worker_waits_for_a_database_that_is_down(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    monkeypatch.setattr("tests.support.workers.database_url", lambda: unused)
    worker = workers.start()
    until(lambda: "The database cannot be used" in worker.text or worker.process.poll() is not None, 30, "the log line")
    worker.wait_until_listening()
    assert worker.stop() == 0


@pytest.mark.one_database
def test_a_database_error_at_the_end_of_a_worker_leaves_the_request_to_the_next(
    inbox: Inbox, redis: Any, app_log: pytest.LogCaptureFixture, webhooks_settings: Any
) -> None:
    def fail(*statement: Any) -> None:
        raise OperationalError("the database is down")

    webhooks_settings(LEASE=1)
    make_event(make_webhook(Thing, url=inbox.url("slow/1")))
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)
    worker._deliver()
    inbox.wait_for(1)
    with connection.execute_wrapper(fail):
        worker.teardown()
    assert "will be sent again: the database is down" in app_log.text
    until(lambda: sweep_step(sweep.expire_leases) == 1, 10, "its lease to expire")


@pytest.mark.one_database
def test_an_unexpected_error_does_not_end_the_worker_and_loses_no_outcome(
    inbox: Inbox, redis: Any, app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a mistake")

    make_event(make_webhook(Thing, url=inbox.url()))
    worker = WebhookWorker([Queue("webhooks", connection=redis)], connection=redis)
    with monkeypatch.context() as patch:
        patch.setattr(delivery_runner, "record", fail)
        started = time.monotonic()
        until(lambda: worker._deliver() or "a mistake" in app_log.text, 10, "the error")
    assert time.monotonic() - started > 0.9, "it must not spin"
    until(lambda: worker._deliver() or count(State.SUCCEEDED), 10, "the outcome")
    assert len(inbox.received()) == Attempt.objects.count() == 1
    worker.teardown()
