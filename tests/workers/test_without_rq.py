"""Workers that need neither rq nor Redis: ``WAKE_UP``, and ``manage.py webhooks_worker``."""

from __future__ import annotations

import gc
import io
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from django.utils.module_loading import import_string

from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_webhook
from tests.support.waiting import until
from tests.support.workers import Process, Workers
from tests.testapp.models import Thing
from webhooks.ground.errors import Outage
from webhooks.insight.alarms import Problem
from webhooks.insight.status import read_status
from webhooks.models import Delivery, QueuedDelivery, State, Worker
from webhooks.models.permissions import Operator
from webhooks.workers import jobs
from webhooks.workers.database import DatabaseWorker
from webhooks.workers.status import read_backend

Start = Callable[..., tuple[Process, Path]]

NO_REDIS = "redis://127.0.0.1:1/0"
BY_DATABASE: dict[str, Any] = {"WAKE_UP": "database"}


@pytest.fixture
def start(workers: Workers, tmp_path: Path, webhooks_settings: Callable[..., None]) -> Iterator[Start]:
    """Start ``webhooks_worker`` where no Redis answers."""
    webhooks_settings(**BY_DATABASE)
    running = []

    def begin(**changed: Any) -> tuple[Process, Path]:
        log = tmp_path / f"webhooks-worker-{len(running)}.log"
        environment = workers.environment(**BY_DATABASE, **changed) | {"REDIS_URL": NO_REDIS}
        with log.open("wb") as output:
            process = workers.run(["example/manage.py", "webhooks_worker", "--skip-checks"], environment, output)
        running.append(process)
        until(lambda: "Delivering" in log.read_text() or process.poll() is not None, 30, "the worker to start")
        assert process.poll() is None, log.read_text()
        return process, log

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def change(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="router")


def test_a_change_arrives_without_redis(start: Start, inbox: Inbox) -> None:
    start()
    change(inbox)
    until(lambda: len(inbox.received()) == 1, 20, "the delivery")
    until(lambda: Delivery.objects.get().state == State.SUCCEEDED, 20, "the record")


@pytest.mark.postgresql
def test_postgresql_wakes_a_worker_that_would_look_in_an_hour(start: Start, inbox: Inbox) -> None:
    start(IDLE_POLL=3600)
    until(lambda: Worker.objects.reporting().exists(), 20, "the first report")
    make_webhook(Thing, url=inbox.url())
    for number in range(3):
        Thing.objects.create(name=str(number))
        until(lambda count=number + 1: len(inbox.received()) == count, 20, "the delivery")  # type: ignore[misc]


@pytest.mark.postgresql
def test_a_worker_whose_connection_is_cut_listens_again(start: Start, inbox: Inbox) -> None:
    _process, log = start(IDLE_POLL=3600)
    until(lambda: Worker.objects.reporting().exists(), 20, "the first report")
    for number in range(2):
        if number:
            until(terminate_idle, 20, "the worker to listen")
            until(lambda: "trying again" in log.read_text(), 20, "the worker to notice")
        else:
            make_webhook(Thing, url=inbox.url())
        Thing.objects.create(name=str(number))
        until(lambda count=number + 1: len(inbox.received()) == count, 20, "the delivery")  # type: ignore[misc]
    assert "The database cannot be used, trying again" in log.read_text()


def terminate_idle() -> bool:
    """Cut the connection of a worker that does nothing but listen."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "AND state_change < clock_timestamp() - interval '0.5 s'"
        )
        return bool(cursor.fetchall())


@pytest.mark.one_database
def test_an_idle_worker_goes_on_reporting(start: Start) -> None:
    start(IDLE_POLL=3600)
    until(lambda: Worker.objects.reporting().exists(), 20, "the first report")
    first = Worker.objects.reporting().get().lease_until
    until(lambda: Worker.objects.reporting().get().lease_until > first, 30, "the second report")


def test_due_retries_are_sent_without_a_wake_up(start: Start, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    make_delivery(webhook, State.PENDING)
    QueuedDelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    start()
    until(lambda: len(inbox.received()) == 1, 20, "the retry")


def test_a_worker_is_on_the_status_page_until_it_ends(start: Start) -> None:
    assert Problem.NO_WORKER in {alarm.problem for alarm in read_status(Operator("test")).alarms}
    process, log = start()
    until(lambda: Worker.objects.reporting().exists(), 20, "the first report")
    [worker] = read_backend().serving
    assert (worker.pid, worker.is_shipped, worker.is_silent) == (str(process.pid), True, False)
    assert import_string(worker.worker_class) is DatabaseWorker
    problems = {alarm.problem for alarm in read_status(Operator("test")).alarms}
    assert problems.isdisjoint({Problem.NO_WORKER, Problem.REDIS, Problem.STOCK_WORKERS})
    process.send_signal(15)
    assert process.wait(30) == 0, log.read_text()
    assert not Worker.objects.reporting().exists()
    [alarm] = [one for one in read_status(Operator("test")).alarms if one.problem == Problem.NO_WORKER]
    assert alarm.command == "python manage.py webhooks_worker"


def test_a_killed_worker_loses_nothing_and_another_goes_on(start: Start, inbox: Inbox) -> None:
    process, _log = start()
    until(lambda: Worker.objects.reporting().exists(), 20, "the first report")
    process.kill()
    process.wait(10)
    change(inbox)
    start()
    until(lambda: len(inbox.received()) == 1, 20, "the delivery")


def test_sigterm_lets_requests_in_flight_end(start: Start, inbox: Inbox) -> None:
    process, log = start()
    make_webhook(Thing, url=inbox.url("slow/1"))
    Thing.objects.create(name="router")
    inbox.wait_for(1)
    process.send_signal(15)
    assert process.wait(30) == 0, log.read_text()
    assert Delivery.objects.get().state == State.SUCCEEDED


@pytest.mark.one_database
def test_a_second_sigterm_ends_the_worker_at_once(start: Start, inbox: Inbox) -> None:
    make_delivery(make_webhook(Thing, url=inbox.url("hang"), timeout=60), State.PENDING)
    QueuedDelivery.objects.update(due_at=timezone.now() - timedelta(seconds=1))
    process, log = start()
    until(lambda: len(inbox.received()) == 1, 20, "the request")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0, log.read_text()
    assert QueuedDelivery.objects.get().state == State.PENDING


def test_the_command_says_that_it_delivers_whatever_the_host_logs(
    database: str, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(**BY_DATABASE)
    monkeypatch.setattr(DatabaseWorker, "run", lambda worker: None)
    out = io.StringIO()
    call_command("webhooks_worker", stdout=out)
    assert out.getvalue() == "Delivering. Ctrl-C or SIGTERM stops it.\n"


def test_the_command_refuses_to_run_where_rq_wakes_workers(database: str) -> None:
    with pytest.raises(CommandError, match='Set WEBHOOKS\\["WAKE_UP"\\] = "database"'):
        call_command("webhooks_worker")


@pytest.mark.postgresql
def test_a_database_that_refuses_to_notify_fails_no_save(
    database: str, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch, app_log: Any
) -> None:
    webhooks_settings(**BY_DATABASE)
    monkeypatch.setattr(jobs, "CHANNEL", "x" * 64)  # PostgreSQL's names are shorter
    monkeypatch.setattr(jobs, "_notifications", Outage(jobs.logger))
    make_webhook(Thing)
    Thing.objects.create(name="router")
    assert not jobs.wake_up()
    assert "No worker could be notified" in app_log.text


@pytest.mark.postgresql
def test_an_outage_of_notifications_is_a_line_and_its_end_another(
    database: str, monkeypatch: pytest.MonkeyPatch, app_log: Any
) -> None:
    monkeypatch.setattr(jobs, "_notifications", Outage(jobs.logger))
    with monkeypatch.context() as broken:
        broken.setattr(jobs, "CHANNEL", "x" * 64)
        assert not any(jobs.notify() for _ in range(3))
    assert jobs.notify()
    assert jobs.notify()
    [began, ended] = app_log.messages
    assert began.startswith("No worker could be notified: ")
    assert ended == "Workers can be notified again"


def test_an_outage_of_tasks_is_a_line_and_its_end_another(monkeypatch: pytest.MonkeyPatch, app_log: Any) -> None:
    class Task:
        def enqueue(self) -> None:
            raise OSError("refused")

    monkeypatch.setattr(jobs, "_tasks", Outage(jobs.logger))
    monkeypatch.setattr(jobs, "drain_as_task", Task(), raising=False)
    assert not any(jobs.enqueue_task() for _ in range(3))
    monkeypatch.setattr(Task, "enqueue", lambda self: None)
    assert jobs.enqueue_task()
    assert app_log.messages == [
        "No task could be enqueued, so no worker is woken: refused", "Tasks can be enqueued again",
    ]  # fmt: skip


def test_a_worker_that_starts_is_running_when_it_looks_for_problems(
    database: str, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(**BY_DATABASE)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *args: None)
    worker, found = DatabaseWorker(), list[int]()

    def deliver(is_woken: bool) -> bool:
        found.append(len(read_backend().serving))
        worker.stop()
        return False

    monkeypatch.setattr(worker._slices, "deliver", deliver)
    worker.run()
    assert found == [1]


@pytest.mark.skipif(django.VERSION < (6,), reason="Django has no tasks before version 6")
def test_a_task_of_django_delivers(
    database: str, settings: Any, webhooks_settings: Callable[..., None], inbox: Inbox
) -> None:
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"}}
    webhooks_settings(WAKE_UP="tasks")
    change(inbox)
    until(lambda: len(inbox.received()) == 1, 20, "the delivery")
    assert Delivery.objects.get().state == State.SUCCEEDED
    assert read_backend().waker == "tasks"
    assert Problem.NO_WORKER not in {alarm.problem for alarm in read_status(Operator("test")).alarms}


def test_a_task_that_cannot_be_enqueued_fails_no_save(
    database: str,
    settings: Any,
    webhooks_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    app_log: Any,
) -> None:
    settings.TASKS = {"default": {"BACKEND": "no.such.Backend"}}
    webhooks_settings(WAKE_UP="tasks")
    monkeypatch.setattr(jobs, "_tasks", Outage(jobs.logger))
    make_webhook(Thing)
    Thing.objects.create(name="router")
    assert not jobs.wake_up()
    assert "No task could be enqueued" in app_log.text
