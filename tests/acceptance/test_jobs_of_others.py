"""Jobs of other apps on a shipped worker that has requests under way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import django_rq
import pytest
from rq import Queue
from rq.exceptions import StopRequested
from rq.job import Job, JobStatus

from tests.support.inbox import Inbox
from tests.support.makers import make_webhook
from tests.support.waiting import until
from tests.support.workers import Workers
from tests.testapp.models import Thing
from webhooks.delivery.worker import DeliveryRunner
from webhooks.models import Attempt, Delivery, State
from webhooks.workers.worker import WARM_SECONDS, WebhookWorker

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.one_database]


def sleep(seconds: float) -> Job:
    job: Job = django_rq.get_queue("webhooks").enqueue("time.sleep", seconds)
    return job


def test_a_long_request_ends_while_other_jobs_run(workers: Workers, inbox: Inbox) -> None:
    worker = workers.start()
    worker.wait_until_listening()
    make_webhook(Thing, url=inbox.url(f"slow/{WARM_SECONDS + 2}"), timeout=60)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    job = sleep(0.1)
    until(lambda: job.is_finished, 3, "a job that does not wait for the receiver")
    waited = time.time() - inbox.received()[0].at

    def has_succeeded() -> bool:
        nonlocal job
        job = sleep(0.1) if job.is_finished else job
        return Delivery.objects.filter(state=State.SUCCEEDED).exists()

    until(has_succeeded, 30, "the delivery to succeed")
    assert len(inbox.received()) == Attempt.objects.count() == 1, "nothing is cut off and sent again"
    assert waited < WARM_SECONDS
    until(lambda: job.is_finished, 10, "the last job")
    assert worker.stop() == 0


def test_a_job_that_ends_first_leaves_requests_under_way_to_the_worker(workers: Workers, inbox: Inbox) -> None:
    workers.start(LEASE=2).wait_until_listening()
    make_webhook(Thing, url=inbox.url("slow/6"), timeout=60)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    job = django_rq.get_queue("webhooks").enqueue("operator.truediv", 1, 0)
    until(lambda: job.get_status() == JobStatus.FAILED, 10, "the job to fail")
    until(lambda: Delivery.objects.filter(state=State.SUCCEEDED).exists(), 20, "the delivery to succeed")
    assert len(inbox.received()) == Attempt.objects.count() == 1


def test_a_worker_stopped_just_after_taking_a_job_loses_nothing(workers: Workers, inbox: Inbox) -> None:
    worker = workers.start()
    worker.wait_until_listening()
    make_webhook(Thing, url=inbox.url("hang"), timeout=120)
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    job = sleep(1)
    until(lambda: job.id in worker.text, 10, "the worker to take the job")
    assert worker.stop() == 0
    assert [*Delivery.objects.values_list("state", "attempt_count")] == [(State.PENDING, 0)]
    # On a machine that stalls, the signal comes when the job runs already: then it runs to its end.
    assert job.is_finished or django_rq.get_queue("webhooks").job_ids[0] == job.id


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT afterwards."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("signals")
def test_a_job_taken_but_not_started_returns_to_the_head_of_its_queue(
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
    monkeypatch.setattr(DeliveryRunner, "pause", lambda drain, grace: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StopRequested):
        worker.execute_job(*found)
    worker.teardown()
    assert queue.job_ids == [taken.id, later.id]
    assert not queue.intermediate_queue.get_job_ids()
    assert taken.get_status() == JobStatus.QUEUED


class OfNewerCode:
    """An argument of a job from a site that is a version ahead of its workers."""


def test_a_job_that_cannot_be_unpickled_fails_and_does_no_harm(
    workers: Workers, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = workers.start()
    worker.wait_until_listening()
    module = ModuleType("newer_code")
    module.OfNewerCode = OfNewerCode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "newer_code", module)
    monkeypatch.setattr(OfNewerCode, "__module__", "newer_code")
    job = django_rq.get_queue("webhooks").enqueue("time.sleep", OfNewerCode())
    until(lambda: job.get_status() == JobStatus.FAILED or worker.process.poll() is not None, 20, "the job to fail")
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    inbox.wait_for(1)
    assert worker.stop() == 0


def test_a_worker_that_polls_once_a_minute_still_stops_at_once(workers: Workers) -> None:
    worker = workers.start(IDLE_POLL=60)
    worker.wait_until_listening()
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < WARM_SECONDS
    assert "Redis" not in worker.text.partition("warm shut down")[0]
