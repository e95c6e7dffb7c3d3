"""Wake-ups, with a real Redis and during its outages."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import django_rq
import pytest
from django.conf import settings
from django.core.signals import setting_changed
from django.db import transaction
from redis import Redis
from rq import SimpleWorker
from rq.job import Job
from rq.timeouts import JobTimeoutException

from tests.support.draining import states
from tests.support.inbox import Inbox
from tests.support.makers import actions, make_event, make_webhook
from tests.support.redis_outages import OUTAGES, note_dials
from tests.support.servers import free_port, own_valkey, point_queues_to
from tests.support.sessions import session
from tests.support.threads import Beside
from tests.support.waiting import PATIENCE
from tests.testapp.models import Thing
from webhooks.models import State, Webhook
from webhooks.models.lanes import lane_of
from webhooks.workers import jobs
from webhooks.workers import redis as workers_redis
from webhooks.workers.redis import Backoff, connection_error

QUEUE = "rq:queue:webhooks"
FLAG = "webhooks:wake-up:webhooks"


@pytest.fixture(autouse=True)
def new_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "backoff", Backoff(jobs.logger, "The events wait"))


@pytest.fixture
def unavailable(redis_url: str) -> Iterator[Any]:
    """Call it with the URL of an unavailable Redis. The session's own comes back afterwards."""
    yield point_queues_to
    point_queues_to(redis_url)


def queued(redis: Any) -> list[Job]:
    return django_rq.get_queue("webhooks").get_jobs()


def test_a_wake_up_is_one_job_that_carries_no_data(redis: Any) -> None:
    jobs.wake_up()
    [job] = queued(redis)
    assert job.func_name == "webhooks.workers.jobs.drain", "Redis stores this path: it must never change"
    assert (job.args, job.kwargs) == ((), {})
    assert job.result_ttl == 0
    assert 0 < job.failure_ttl <= 86400


def test_only_one_of_many_changes_makes_a_job(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> int:
        return int(redis.info("commandstats").get("cmdstat_exists", {"calls": 0})["calls"])

    monkeypatch.setattr(jobs, "_changed", {})
    monkeypatch.setattr(jobs, "BURST_SECONDS", 600)  # the machine may stall between the two changes
    before = asked()
    jobs.wake_up()
    assert asked() == before, "the first change pushes at once"
    jobs.wake_up()
    assert asked() == before + 1, "the next one asks first"
    assert len(queued(redis)) == 1


def test_wake_ups_at_the_same_moment_are_one(redis: Any) -> None:
    for thread in [Beside(lambda: [jobs.wake_up() for _ in range(20)]) for _ in range(8)]:
        thread.join()
    assert redis.llen(QUEUE) == 1


def test_the_next_change_after_the_flag_is_cleared_pushes_another(redis: Any) -> None:
    jobs.wake_up()
    jobs.clear_flag()
    jobs.wake_up()
    assert redis.llen(QUEUE) == 2


def test_a_lost_wake_up_prevents_others_for_at_most_five_seconds(redis: Any) -> None:
    jobs.wake_up()
    assert 0 < redis.pttl(FLAG) <= 5000
    redis.delete(QUEUE)
    redis.pexpire(FLAG, 1)
    time.sleep(0.01)
    jobs.wake_up()
    assert redis.llen(QUEUE) == 1


@pytest.mark.cost
def test_a_wake_up_takes_two_round_trips_and_one_if_another_is_queued(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BURST_SECONDS", 600)  # the machine may stall between two changes
    jobs.wake_up()  # loads the script into Redis
    redis.flushdb()
    client = jobs._queue("webhooks").connection
    sent: list[str] = []
    execute = client.execute_command
    monkeypatch.setattr(
        client, "execute_command", lambda *words, **how: sent.append(words[0]) or execute(*words, **how)
    )
    jobs.wake_up()
    assert sent == ["EXISTS", "EVALSHA"]
    jobs.wake_up()
    assert sent == ["EXISTS", "EVALSHA", "EXISTS"]
    assert redis.llen(QUEUE) == 1


def test_the_script_is_loaded_again_after_a_restart_of_redis(redis: Any) -> None:
    jobs.wake_up()
    redis.flushdb()
    redis.script_flush()
    jobs.wake_up()
    assert redis.exists(FLAG)
    assert len(queued(redis)) == 1


@pytest.mark.usefixtures("database")
def test_a_wake_up_is_pushed_only_if_there_is_work(redis: Any) -> None:
    jobs.wake_up_if_due()
    assert redis.llen(QUEUE) == 0
    make_event(make_webhook(Thing))
    jobs.wake_up_if_due()
    assert redis.llen(QUEUE) == 1


# The job itself


@pytest.fixture
def burst(database: str, redis: Any) -> Iterator[Any]:
    def work() -> None:
        worker = SimpleWorker([django_rq.get_queue("webhooks")], connection=django_rq.get_connection("webhooks"))
        worker.work(burst=True, logging_level="WARNING")

    # rq replaces these handlers; a later Ctrl-C would fail a test.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield work
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_job_delivers_on_rqs_own_worker(burst: Any, inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    burst()
    assert states() == [State.SUCCEEDED]
    assert inbox.received()[0].json["data"]["name"] == "a"


def test_the_job_clears_the_flag_before_it_looks_for_work(
    burst: Any, redis: Any, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    run = jobs.DeliveryRunner.run

    def spy(self: Any, seconds: float) -> None:
        seen.append(redis.exists(FLAG))
        run(self, seconds)

    monkeypatch.setattr(jobs.DeliveryRunner, "run", spy)
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    burst()
    assert seen
    assert not any(seen)


@pytest.fixture
def backlog(database: str, inbox: Inbox, webhooks_settings: Any) -> None:
    """More events than a slice sends."""
    webhooks_settings(SLICE=0.01)
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(100):
        make_event(webhook, object_id=str(number))


@pytest.mark.usefixtures("backlog")
def test_a_slice_that_ends_with_work_left_wakes_the_next(burst: Any, redis: Any) -> None:
    jobs.wake_up()
    burst()
    assert states() == [State.SUCCEEDED] * 100
    assert redis.llen(QUEUE) == 0


@pytest.mark.usefixtures("backlog")
def test_a_job_that_cannot_wake_the_next_sends_what_is_left_itself(redis: Any) -> None:
    jobs.backoff.failed(TimeoutError("too slow"), 60)
    jobs.drain()
    assert states() == [State.SUCCEEDED] * 100
    assert redis.llen(QUEUE) == 0


@pytest.mark.postgresql
@pytest.mark.usefixtures("database")
def test_a_job_rests_before_it_wakes_the_next_if_all_that_is_due_is_locked(redis: Any) -> None:
    make_event(make_webhook(Thing), object_id="1")
    began = time.monotonic()
    with session(f"SELECT pg_advisory_xact_lock({lane_of('testapp.thing', '1')})"):
        jobs.drain()
    assert time.monotonic() - began >= jobs.SECONDS_BETWEEN_LOOKS
    assert redis.llen(QUEUE) == 1


@pytest.mark.timing
@pytest.mark.one_database
def test_a_hung_receiver_does_not_keep_a_job_beyond_its_timeout(
    burst: Any, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[], SLICE=0.2)
    hung, fine = make_webhook(Thing, url=inbox.url("hang"), timeout=2), make_webhook(Thing, url=inbox.url())
    make_events_of_two(hung, fine)
    started = time.time()
    jobs.wake_up()
    burst()
    assert time.time() - started < 6 * PATIENCE
    assert set(states()) == {State.SUCCEEDED, State.FAILED}


def make_events_of_two(slow: Webhook, fine: Webhook) -> None:
    for number in range(20):
        make_event(slow, fine, object_id=str(number)) if number < 2 else make_event(fine, object_id=str(number))


@pytest.mark.one_database
def test_a_job_that_waits_for_a_slow_receiver_serves_the_others(
    burst: Any, inbox: Inbox, webhooks_settings: Any
) -> None:
    """In the time after its slice, too."""
    webhooks_settings(SLICE=0.01)
    make_events_of_two(make_webhook(Thing, url=inbox.url("held"), timeout=3600), make_webhook(Thing, url=inbox.url()))

    def release_once_all_have_come() -> None:
        try:
            inbox.wait_for(20, behaviour="ok")
        finally:
            inbox.release()

    releasing = Beside(release_once_all_have_come)
    jobs.wake_up()
    burst()
    releasing.join()
    assert set(states()) == {State.SUCCEEDED}


def test_stored_events_wait_while_webhooks_are_off(burst: Any, inbox: Inbox, webhooks_settings: Any) -> None:
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    webhooks_settings(ENABLED=False)
    burst()
    assert states() == []
    assert inbox.received() == []


# Redis is unavailable


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("mode", ["autocommit", "atomic"])
def test_a_save_during_an_outage_is_prompt_and_records_its_event(
    unavailable: Any, outage: str, mode: str, app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAUSE", 600)
    make_webhook(Thing)
    dials = note_dials(monkeypatch)
    with OUTAGES[outage]() as url:
        unavailable(url)
        for _ in range(11):
            with transaction.atomic() if mode == "atomic" else nullcontext():
                Thing.objects.create(name="a")
    assert dials == [(0.1, 0.1)], "the first one waits, and not for long"
    assert app_log.text.count("Redis does not answer") == 1
    assert actions() == ["created"] * 11
    assert Thing.objects.count() == 11


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_costs_one_timeout_per_pause_and_one_warning(
    unavailable: Any, outage: str, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    clock, dials = SimpleNamespace(now=0.0), note_dials(monkeypatch)
    monkeypatch.setattr(workers_redis, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with OUTAGES[outage]() as url:
        unavailable(url)
        for pause in range(1, 4):
            for _ in range(1000):
                jobs.wake_up()
            assert dials == [(0.1, 0.1)] * pause
            clock.now += jobs.PAUSE
    assert app_log.text.count("Redis does not answer") == 1


def test_a_host_name_that_takes_long_to_resolve_is_an_outage_too(
    unavailable: Any, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "PAUSE", 600)
    released = threading.Event()
    names["redis.example"] = look_up = Mock(side_effect=lambda: released.wait(60) and ["127.0.0.1"])
    unavailable(f"redis://redis.example:{free_port()}/0")
    for _ in range(100):
        jobs.wake_up()
    assert not released.is_set()
    assert look_up.call_count == 1
    assert "the name of its host takes too long to resolve" in app_log.text
    released.set()


def test_wake_ups_continue_after_an_outage(
    unavailable: Any, redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(workers_redis, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with OUTAGES["refused"]() as url:
        unavailable(url)
        jobs.wake_up()
    unavailable(redis_url)
    jobs.wake_up()
    assert redis.llen(QUEUE) == 0
    clock.now += jobs.PAUSE
    jobs.wake_up()
    assert redis.llen(QUEUE) == 1
    assert app_log.text.count("Redis answers again") == 1


def test_the_log_says_that_redis_refuses(unavailable: Any, redis: Any, app_log: Any) -> None:
    with own_valkey() as (_, url):
        Redis.from_url(url).execute_command("REPLICAOF 127.0.0.1 1")
        unavailable(url)
        jobs.wake_up()
    assert "Redis refuses (" in app_log.text
    assert "does not answer" not in app_log.text


def test_the_connection_error_says_why_redis_is_unavailable(unavailable: Any, redis: Any) -> None:
    assert connection_error() == ""
    with OUTAGES["refused"]() as url:
        unavailable(url)
        assert "refused" in connection_error()


@pytest.mark.usefixtures("database")
def test_an_unexpected_error_of_a_wake_up_stops_no_commit_and_no_later_callback(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    def no_thread(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    make_webhook(Thing)
    monkeypatch.setattr(jobs, "_push", no_thread)
    later: list[str] = []
    with transaction.atomic():
        Thing.objects.create(name="a")
        transaction.on_commit(lambda: later.append("called"))
    assert (actions(), later) == (["created"], ["called"])
    assert "No worker could be woken" in app_log.text


@pytest.mark.usefixtures("database")
def test_a_job_that_runs_out_of_time_in_a_wake_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*args: Any) -> None:
        raise JobTimeoutException

    make_webhook(Thing)
    monkeypatch.setattr(jobs, "_push", run_out)
    with pytest.raises(JobTimeoutException):
        Thing.objects.create(name="a")
    assert actions() == ["created"]


def test_silent_sentinels_delay_a_save_by_one_timeout(unavailable: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sentinel = silent.getsockname()
        entry = settings.RQ_QUEUES["webhooks"]
        entry.clear()
        entry.update(SENTINELS=[sentinel, sentinel], MASTER_NAME="main", DB=0)
        setting_changed.send(sender=None, setting="RQ_QUEUES", value=settings.RQ_QUEUES, enter=True)
        began = time.monotonic()
        jobs.wake_up()
        assert time.monotonic() - began < 2
    assert jobs.backoff.is_active
