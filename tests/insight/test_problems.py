"""Workers notice alarms that begin and end, once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from rq import Queue, Worker

from tests.support.makers import make_site_delivery, make_webhook
from tests.support.sessions import session
from tests.testapp.models import Thing
from webhooks import hooks
from webhooks.delivery.sweep import Sweeper
from webhooks.ground.db import DatabaseNow
from webhooks.hooks import Hooks, NoticedProblem
from webhooks.insight import problems
from webhooks.insight.alarms import Alarm, Level, Problem
from webhooks.models import Delivery, State, Sweep, Webhook
from webhooks.workers.status import CLASS_FIELD

pytestmark = pytest.mark.usefixtures("database")

calls: list[tuple[str, NoticedProblem]] = []


class Recorder(Hooks):
    def problem_began(self, problem: NoticedProblem) -> None:
        calls.append(("began", problem))

    def problem_ended(self, problem: NoticedProblem) -> None:
        calls.append(("ended", problem))


@pytest.fixture(autouse=True)
def live_worker(redis: Any, webhooks_settings: Any) -> Iterator[Any]:
    calls.clear()
    webhooks_settings(HOOKS=[f"{__name__}.Recorder"], REDIS_TIMEOUT=2)
    worker = Worker([Queue("webhooks", connection=redis)], name="w-1", connection=redis)
    worker.register_birth()
    redis.hset(worker.key, CLASS_FIELD, "webhooks.workers.WebhookWorker")
    yield worker
    assert hooks.flush(20)


def look() -> list[tuple[str, str]]:
    """What the next look of a worker announces: began or ended, and the problem."""
    calls.clear()
    Sweep.objects.update(looked_at=None)
    Sweeper().sweep()
    assert hooks.flush(20)
    return [(what, problem.problem) for what, problem in calls]


def test_a_problem_begins_once_and_ends_once() -> None:
    webhook = make_webhook(Thing, name="CMDB")
    assert look() == []
    delivery = make_site_delivery(webhook, State.FAILED)
    assert look() == [("began", "failed_deliveries")]
    [(_, began)] = calls
    assert (began.level, began.webhook_id) == ("warning", webhook.pk)
    assert began.text.startswith("1 delivery of “CMDB” failed")
    assert began.remedy
    assert look() == [], "it goes on"
    Delivery.objects.filter(pk=delivery.pk).delete()
    assert look() == [("ended", "failed_deliveries")]
    assert calls[0][1] == began
    assert look() == []


def test_a_worker_that_starts_and_an_empty_redis_announce_nothing_again(redis: Any, live_worker: Any) -> None:
    make_site_delivery(make_webhook(Thing), State.FAILED)
    assert look() == [("began", "failed_deliveries")]
    redis.flushdb()
    assert look() == [("began", "no_worker")], "each look is by a new sweeper, as of a new worker"
    live_worker.register_birth()
    redis.hset(live_worker.key, CLASS_FIELD, "webhooks.workers.WebhookWorker")
    assert look() == [("ended", "no_worker")]


def test_all_workers_together_look_once_in_a_while() -> None:
    make_site_delivery(make_webhook(Thing), State.FAILED)
    assert look() == [("began", "failed_deliveries")]
    Webhook.objects.all().update(enabled=False)
    calls.clear()
    Sweeper().sweep()
    assert hooks.flush(20)
    assert calls == [], "another worker has just looked"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the next looks find these alarms."""
    return lambda *alarms: monkeypatch.setattr(problems, "find_alarms", lambda *args: list(alarms))


def alarm(
    problem: Problem, webhook: int | None = None, *consequences: Alarm, level: Level = Level.ERROR, **more: Any
) -> Alarm:
    given = {"text": problem} | more
    return Alarm(problem=problem, webhook_id=webhook, consequences=consequences, level=level, **given)


def test_what_follows_from_a_problem_is_silent_until_it_is_all_that_is_left(found: Any) -> None:
    paused = [alarm(Problem.PAUSED, 1), alarm(Problem.PAUSED, 2)]
    found(alarm(Problem.FAULT, None, *paused))
    assert look() == [("began", "fault")]
    found(*paused[:1])
    assert look() == [("began", "paused"), ("ended", "fault")]
    found(alarm(Problem.FAULT, None, *paused))
    assert look() == [("began", "fault")], "the first webhook was announced before"
    found()
    assert sorted(look()) == [("ended", "fault"), ("ended", "paused")], "the other one never was"


@pytest.mark.parametrize("problem", [Problem.PAUSED, Problem.FAILED_DELIVERIES])
def test_a_webhook_that_fails_with_another_kind_of_error_has_the_same_problem(problem: Problem, found: Any) -> None:
    found(alarm(problem, 1, error_kind="http_502"))
    assert look() == [("began", problem)]
    found(alarm(problem, 1, error_kind="connect_timeout", text="now too slow"))
    assert look() == []
    found()
    assert look() == [("ended", problem)]
    assert calls[0][1].text == "now too slow"


def age_absences(seconds: int) -> None:
    """As if the problems that are away had been so for these seconds more."""
    row = Sweep.objects.get(pk=1)
    for one in row.problems.values():
        if one["away_since"]:
            one["away_since"] = (datetime.fromisoformat(one["away_since"]) - timedelta(seconds=seconds)).isoformat()
    row.save(update_fields=["problems"])


def test_a_problem_that_comes_and_goes_is_over_when_it_stays_away(found: Any) -> None:
    announced = []
    for _ in range(6):
        found(alarm(Problem.FAILING, 1))
        announced += look()
        found()
        announced += look()
    assert announced == [("began", "failing"), ("ended", "failing")] * 2 + [("began", "failing")]
    age_absences(problems.QUIET - 60)
    assert look() == [], "it may come again"
    age_absences(120)
    assert look() == [("ended", "failing")]
    assert Sweep.objects.get(pk=1).problems == {}


def test_a_problem_that_comes_again_much_later_ends_at_once_again(found: Any) -> None:
    for _ in range(3):
        found(alarm(Problem.FAILING, 1))
        assert look() == [("began", "failing")]
        found()
        assert look() == [("ended", "failing")]
        age_absences(problems.QUIET + 60)
        assert look() == []


def test_faults_of_the_site_of_two_kinds_are_two_problems(found: Any) -> None:
    found(alarm(Problem.FAULT, error_kind="proxy"))
    look()
    found(alarm(Problem.FAULT, error_kind="resolver"))
    assert look() == [("began", "fault"), ("ended", "fault")]


def test_another_webhook_that_comes_first_of_those_that_fail_alike_is_no_news(found: Any) -> None:
    one, two = alarm(Problem.PAUSED, 1), alarm(Problem.PAUSED, 2)
    found(alarm(Problem.PAUSED, 1, two))
    assert look() == [("began", "paused")]
    found(alarm(Problem.PAUSED, 2, one))
    assert look() == []
    found(two)
    assert look() == [("began", "paused"), ("ended", "paused")]
    assert [problem.webhook_id for _, problem in calls] == [2, 1]


def test_a_problem_says_since_when_it_is_now(found: Any) -> None:
    first, second = (datetime(2026, 11, 24, hour, tzinfo=UTC) for hour in (9, 11))
    found(alarm(Problem.PAUSED, 1, since=first))
    look()
    found(alarm(Problem.PAUSED, 1, since=second), alarm(Problem.REDIS))
    look()
    [(_, began)] = calls
    look()
    found()
    look()
    since = {problem.problem: problem.since for _, problem in calls}
    assert since == {"paused": second.isoformat(), "redis": began.since}, "Redis: since a worker noticed it"


def test_a_look_that_another_worker_has_overtaken_announces_nothing(
    found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*args: Any) -> list[Alarm]:
        Sweep.objects.update(looked_at=DatabaseNow(problems.LOOK_EVERY + 1))
        return [alarm(Problem.REDIS)]

    monkeypatch.setattr(problems, "find_alarms", find)
    assert look() == []
    assert Sweep.objects.get().problems == {}


@pytest.mark.parametrize(("is_ours", "seconds", "looks"), [(True, 30, True), (False, 30, False), (False, 80, True)])
def test_one_worker_looks_until_it_is_gone(is_ours: bool, seconds: int, looks: bool, found: Any) -> None:
    look()
    Sweep.objects.update(looked_at=DatabaseNow(-seconds))
    if is_ours:
        problems._own_look = Sweep.objects.get().looked_at
    calls.clear()
    found(alarm(Problem.REDIS))
    Sweeper().sweep()
    assert hooks.flush(20)
    assert bool(calls) == looks


@pytest.mark.postgresql
def test_a_locked_table_ends_a_look_and_the_next_one_finds_the_problem(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    make_site_delivery(make_webhook(Thing), State.FAILED)
    with session("LOCK TABLE rq_webhooks_undispatched IN ACCESS EXCLUSIVE MODE"), monkeypatch.context() as patched:
        patched.setattr(problems, "STATEMENT_SECONDS", 0.2)
        assert look() == []
    assert "The hook look for problems failed" in app_log.text
    assert look() == [("began", "failed_deliveries")]


def test_a_redis_that_is_busy_for_a_second_is_no_problem(redis: Any) -> None:
    make_webhook(Thing)
    redis.execute_command("CLIENT", "PAUSE", 1000, "ALL")
    assert look() == []


def test_a_worker_looks_although_another_one_sweeps(found: Any) -> None:
    look()
    calls.clear()
    Sweep.objects.update(looked_at=None, swept_at=DatabaseNow())
    found(alarm(Problem.REDIS))
    Sweeper().run_due(idle=0)
    assert hooks.flush(20)
    assert [problem.problem for what, problem in calls if what == "began"] == ["redis"]


class Ordered(Hooks):
    def problems_seen(self, seen: Any) -> None:
        order.append("seen")

    def problem_began(self, problem: NoticedProblem) -> None:
        order.append("began")

    def problem_ended(self, problem: NoticedProblem) -> None:
        order.append("ended")


order: list[str] = []


def test_what_an_email_may_delay_comes_before_it(found: Any, webhooks_settings: Any) -> None:
    order.clear()
    webhooks_settings(HOOKS=[f"{__name__}.Ordered"])
    found(alarm(Problem.REDIS))
    look()
    found()
    look()
    assert order == ["began", "seen", "ended", "seen"]


def test_notes_are_no_problems(found: Any) -> None:
    found(alarm(Problem.PAUSED_BY_USER, 1, level=Level.NOTE))
    assert look() == []


def test_a_look_that_fails_is_logged_and_the_next_one_finds_the_problem(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    make_site_delivery(make_webhook(Thing), State.FAILED)
    with monkeypatch.context() as broken:
        broken.setattr(problems, "read_backend", lambda *args: 1 / 0)
        assert look() == []
    assert "The hook look for problems failed" in app_log.text
    assert look() == [("began", "failed_deliveries")]


def test_without_such_hooks_a_sweep_does_not_look(webhooks_settings: Any) -> None:
    webhooks_settings(HOOKS=[])
    make_site_delivery(make_webhook(Thing), State.FAILED)
    assert look() == []
    assert Sweep.objects.get_or_create(pk=1, defaults={"swept_at": Now()})[0].looked_at is None
