"""Wake-ups, with a real Redis, and without one."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import django_rq
import pytest
from django.conf import settings
from django.core.signals import setting_changed
from django.db import transaction
from redis import Redis
from rq import SimpleWorker
from rq.job import Job

from tests.support.draining import states
from tests.support.inbox import Inbox
from tests.support.makers import actions, make_event, make_webhook
from tests.support.redis_outages import OUTAGES
from tests.support.servers import own_valkey, point_queues_to
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.models import State
from webhooks.workers import jobs
from webhooks.workers.redis import connection_error

QUEUE = "rq:queue:webhooks"
FLAG = "webhooks:wake-up:webhooks"


@pytest.fixture(autouse=True)
def no_outage_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "backoff", jobs.RedisBackoff())


@pytest.fixture
def away(redis_url: str) -> Iterator[Any]:
    """Call it with the URL of a Redis that is away; afterwards the session's own is back."""
    yield point_queues_to
    point_queues_to(redis_url)


def queued(redis: Any) -> list[Job]:
    return django_rq.get_queue("webhooks").get_jobs()


def test_a_wake_up_is_one_job_that_carries_no_data(redis: Any) -> None:
    jobs.wake_up()
    [job] = queued(redis)
    assert job.func_name == "webhooks.workers.jobs.drain", "this path is stored in Redis: it must never change"
    assert (job.args, job.kwargs) == ((), {})
    assert job.result_ttl == 0
    assert 0 < job.failure_ttl <= 86400


def test_while_a_wake_up_waits_no_other_is_pushed(redis: Any) -> None:
    for _ in range(100):
        jobs.wake_up()
    assert redis.llen(QUEUE) == 1


def test_wake_ups_at_the_same_moment_are_one(redis: Any) -> None:
    for thread in [Beside(lambda: [jobs.wake_up() for _ in range(20)]) for _ in range(8)]:
        thread.join()
    assert redis.llen(QUEUE) == 1


def test_after_the_flag_is_cleared_the_next_change_pushes_again(redis: Any) -> None:
    jobs.wake_up()
    jobs.clear_flag()
    jobs.wake_up()
    assert redis.llen(QUEUE) == 2


def test_a_wake_up_that_is_lost_keeps_others_away_for_five_seconds_at_most(redis: Any) -> None:
    jobs.wake_up()
    assert 0 < redis.pttl(FLAG) <= 5000
    redis.delete(QUEUE)
    redis.pexpire(FLAG, 1)
    time.sleep(0.01)
    jobs.wake_up()
    assert redis.llen(QUEUE) == 1


def test_the_flag_and_the_job_are_there_together_or_not_at_all(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.wake_up()
    assert redis.exists(FLAG)
    assert redis.llen(QUEUE) == 1
    redis.flushdb()
    jobs.wake_up()
    assert redis.llen(QUEUE) == 1, "after a flush the next change wakes a worker again"


def test_a_wake_up_takes_one_round_trip_where_one_waits_and_two_where_none_does(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.wake_up()  # Redis knows the script from now on
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


def test_a_redis_that_was_restarted_and_knows_no_script_is_told_it_again(redis: Any) -> None:
    jobs.wake_up()
    redis.flushdb()
    redis.script_flush()
    jobs.wake_up()
    assert len(queued(redis)) == 1


@pytest.mark.usefixtures("database")
def test_a_wake_up_is_pushed_only_for_what_is_due(redis: Any) -> None:
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

    # rq takes these over for good, and would turn a Ctrl-C into the failure of a later test.
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


def test_the_job_clears_the_flag_before_it_looks(
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


def test_a_slice_that_ends_with_work_left_wakes_the_next(
    burst: Any, redis: Any, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(SLICE=0.05)
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(300):
        make_event(webhook, object_id=str(number))
    jobs.wake_up()
    burst()
    assert states() == [State.SUCCEEDED] * 300
    assert redis.llen(QUEUE) == 0


@pytest.mark.alone
def test_a_hung_receiver_does_not_keep_a_job_beyond_its_timeout(
    burst: Any, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[], SLICE=0.2)
    hung, fine = make_webhook(Thing, url=inbox.url("hang"), timeout=2), make_webhook(Thing, url=inbox.url())
    for number in range(20):
        make_event(hung, fine, object_id=str(number)) if number < 2 else make_event(fine, object_id=str(number))
    started = time.time()
    jobs.wake_up()
    burst()
    assert time.time() - started < 6
    assert set(states()) == {State.SUCCEEDED, State.FAILED}
    assert max(one.at for one in inbox.received("ok")) - started < 1.5


def test_off_means_that_what_is_on_file_waits(burst: Any, inbox: Inbox, webhooks_settings: Any) -> None:
    make_webhook(Thing, url=inbox.url())
    Thing.objects.create(name="a")
    webhooks_settings(ENABLED=False)
    burst()
    assert states() == []
    assert inbox.received() == []


# Redis is away


def timed(work: Any) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@pytest.mark.timing
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("mode", ["autocommit", "atomic"])
def test_a_save_succeeds_promptly_and_its_event_stands_when_redis_is_away(
    away: Any, outage: str, mode: str, app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(Thing)

    def save() -> None:
        if mode == "atomic":
            with transaction.atomic():
                Thing.objects.create(name="a")
        else:
            Thing.objects.create(name="a")

    usual = min(timed(save) for _ in range(5))
    with OUTAGES[outage]() as url:
        away(url)
        first = timed(save)
        rest = [timed(save) for _ in range(10)]
        assert app_log.text.count("Redis does not answer") == 1
        for _ in range(2):  # the best of three: the machine may have made one wait
            monkeypatch.setattr(jobs, "backoff", jobs.RedisBackoff())
            first = min(first, timed(save))
    assert first < usual + 0.1 + 0.1, f"{first:.3f} s, usually {usual:.3f} s"
    assert sorted(rest)[5] < usual + 0.02, rest
    assert actions() == ["created"] * 18
    assert Thing.objects.count() == 18


@pytest.mark.timing
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_costs_one_timeout_and_one_warning_at_a_time(
    away: Any, outage: str, webhooks_settings: Any, app_log: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(REDIS_PAUSE=0.3)
    with OUTAGES[outage]() as url:
        away(url)
        assert timed(jobs.wake_up) < 0.25
        assert timed(lambda: [jobs.wake_up() for _ in range(1000)]) < 0.1
        time.sleep(0.35)
        assert timed(jobs.wake_up) < 0.25
        assert timed(lambda: [jobs.wake_up() for _ in range(1000)]) < 0.1
    assert app_log.text.count("Redis does not answer") == 1


@pytest.mark.timing
def test_a_name_that_takes_long_to_resolve_is_an_outage_too(away: Any) -> None:
    away("redis://no-such-host.invalid:6379/0")
    jobs.wake_up()
    assert timed(lambda: [jobs.wake_up() for _ in range(100)]) < 0.1


def test_wake_ups_go_on_when_redis_is_back(
    away: Any, redis: Any, redis_url: str, webhooks_settings: Any, app_log: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(REDIS_PAUSE=0.1)
    with OUTAGES["refused"]() as url:
        away(url)
        jobs.wake_up()
    away(redis_url)
    time.sleep(0.15)
    jobs.wake_up()
    assert redis.llen(QUEUE) == 1
    assert app_log.text.count("Redis answers again") == 1


def test_a_redis_that_answers_and_refuses_is_told_as_such(away: Any, redis: Any, app_log: Any) -> None:
    with own_valkey() as (_, url):
        Redis.from_url(url).execute_command("REPLICAOF 127.0.0.1 1")
        away(url)
        jobs.wake_up()
    assert "Redis refuses (" in app_log.text
    assert "does not answer" not in app_log.text


def test_whether_redis_can_be_reached_is_told_with_the_reason(away: Any, redis: Any) -> None:
    assert connection_error() == ""
    with OUTAGES["refused"]() as url:
        away(url)
        assert "refused" in connection_error()


@pytest.mark.usefixtures("database")
def test_whatever_a_wake_up_meets_the_commit_and_what_hangs_on_it_go_on(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    def no_thread(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    make_webhook(Thing)
    monkeypatch.setattr(jobs, "_run_with_timeout", no_thread)
    later: list[str] = []
    with transaction.atomic():
        Thing.objects.create(name="a")
        transaction.on_commit(lambda: later.append("called"))
    assert (actions(), later) == (["created"], ["called"])
    assert "No worker could be woken" in app_log.text


def test_sentinels_that_do_not_answer_keep_no_save_waiting(away: Any) -> None:
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
