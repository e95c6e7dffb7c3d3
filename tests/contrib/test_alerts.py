"""Alerts: e-mails about problems that begin and end, and problems as events of webhooks."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.core.checks import run_checks
from django.core.mail.backends.locmem import EmailBackend

from tests.support.draining import drain
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_site_delivery, make_webhook
from tests.testapp.models import Thing
from webhooks import hooks
from webhooks.contrib.alerts import emails
from webhooks.delivery.sweep import Sweeper
from webhooks.ground import registry
from webhooks.ground.conf import conf
from webhooks.insight import problems
from webhooks.insight.alarms import Alarm, Level, Problem
from webhooks.models import Delivery, State, Sweep, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations.webhooks import pause, resume, set_enabled
from webhooks.testing import deliver
from webhooks.workers import mails

pytestmark = pytest.mark.usefixtures("database", "live_worker")

USER = Operator("tests")

EMAILS, EVENTS = "webhooks.contrib.alerts.emails.Emails", "webhooks.contrib.alerts.events.Events"


@pytest.fixture(autouse=True)
def with_emails(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(HOOKS=[EMAILS], NOTIFY=["ops@example.org"], BASE_URL="https://netbox.example.org")


def look() -> None:
    Sweep.objects.update(looked_at=None)
    Sweeper().sweep()
    assert hooks.flush(20)


def mailed() -> list[Any]:
    """The e-mails that the next look of a worker sends."""
    mail.outbox.clear()
    look()
    return list(mail.outbox)


def ten_minutes_later() -> None:
    row = Sweep.objects.get(pk=1)
    Sweep.objects.update(mailed=row.mailed | {"at": row.mailed["at"] - emails.EVERY})


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the next looks find these alarms."""
    return lambda *alarms: monkeypatch.setattr(problems, "find_alarms", lambda *args: list(alarms))


def alarm(problem: Problem, text: str, **more: Any) -> Alarm:
    return Alarm(problem, text, "Do something.", Level.ERROR, **more)


# E-mails


def test_a_problem_is_mailed_at_once_and_once() -> None:
    webhook = make_webhook(Thing, name="CMDB")
    assert mailed() == []
    make_site_delivery(webhook, State.FAILED)
    [sent] = mailed()
    assert (sent.subject, sent.to) == ("Webhooks: 1 new problem", ["ops@example.org"])
    assert "1 delivery of “CMDB” failed" in sent.body
    assert f"https://netbox.example.org/admin/rq_webhooks/webhook/{webhook.pk}/change/" in sent.body
    assert sent.body.endswith("https://netbox.example.org/admin/webhook-backend-status/")
    assert mailed() == []
    ten_minutes_later()
    assert mailed() == [], "nothing changed"


def test_an_email_has_no_control_characters() -> None:
    make_site_delivery(make_webhook(Thing, name="CMDB\x1b[2J\u202e"), State.FAILED)
    [sent] = mailed()
    assert "1 delivery of “CMDB\\x1b[2J\\u202e” failed" in sent.body


def test_changes_within_ten_minutes_are_one_email(found: Any) -> None:
    one, two, three = (alarm(Problem.PAUSED, f"{pk} is paused.", webhook_id=pk) for pk in (1, 2, 3))
    found(one)
    assert len(mailed()) == 1
    found(one, two)
    assert mailed() == []
    found(two, three)
    assert mailed() == []
    ten_minutes_later()
    [sent] = mailed()
    assert sent.subject == "Webhooks: 2 new problems"
    new, over = sent.body.split("Over:")
    assert "2 is paused." in new
    assert "3 is paused." in new
    assert "1 is paused." in over


def test_an_email_says_that_all_is_over() -> None:
    delivery = make_site_delivery(make_webhook(Thing), State.FAILED)
    assert len(mailed()) == 1
    Delivery.objects.filter(pk=delivery.pk).delete()
    ten_minutes_later()
    [sent] = mailed()
    assert sent.subject == "Webhooks: all problems are over"
    assert "1 delivery of" in sent.body


def test_an_email_says_what_is_over_and_what_is_not(found: Any) -> None:
    one, two = (alarm(Problem.PAUSED, f"{pk} is paused.", webhook_id=pk) for pk in (1, 2))
    found(one, two)
    mailed()
    ten_minutes_later()
    found(two)
    [sent] = mailed()
    assert sent.subject == "Webhooks: 1 problem is over"
    over, rest = sent.body.split("Not over:")
    assert "1 is paused." in over
    assert "2 is paused." in rest


def test_what_comes_and_goes_within_ten_minutes_is_not_mailed(found: Any) -> None:
    lasting, short = alarm(Problem.REDIS, "Redis is away."), alarm(Problem.PAUSED, "It is paused.", webhook_id=1)
    found(lasting)
    mailed()
    found(lasting, short)
    assert mailed() == []
    found(lasting)
    ten_minutes_later()
    assert mailed() == []


def test_a_webhook_that_will_be_disabled_is_mailed_at_half_and_at_four_fifths(
    found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = datetime.now(UTC)
    found(alarm(Problem.PAUSED, "“CMDB” is paused.", webhook_id=1, since=since))

    def failing_for(percent: float) -> list[Any]:
        now = since.timestamp() + conf.disable_after * percent / 100
        monkeypatch.setattr(emails, "database_time", lambda using: now)
        sent = mailed()
        ten_minutes_later()
        return sent

    assert [one.subject for one in failing_for(1)] == ["Webhooks: 1 new problem"]
    assert failing_for(49.9) == []
    [half] = failing_for(50.1)
    assert half.subject == "Webhooks: 1 webhook will be disabled"
    assert "It fails for 50 % of the time after which it is disabled: in 2 d." in half.body
    assert failing_for(79.9) == []
    [late] = failing_for(80.1)
    assert "80 %" in late.body
    assert "in 24 h" in late.body
    assert failing_for(99) == []


def paused(percent: float) -> Alarm:
    """A webhook that has failed for a part of ``DISABLE_AFTER``."""
    since = datetime.now(UTC) - timedelta(seconds=conf.disable_after * percent / 100)
    return alarm(Problem.PAUSED, "“CMDB” is paused.", webhook_id=1, since=since)


def test_the_first_email_says_when_the_webhook_will_be_disabled(found: Any) -> None:
    found(paused(60))
    [sent] = mailed()
    assert sent.subject == "Webhooks: 1 new problem"
    assert "It fails for 50 % of the time after which it is disabled: in 2 d." in sent.body


def test_a_webhook_that_worked_meanwhile_is_not_closer_to_its_end(found: Any) -> None:
    found(paused(60))
    assert len(mailed()) == 1
    ten_minutes_later()
    found(paused(1))
    assert mailed() == []
    found(paused(55))
    assert [one.subject for one in mailed()] == ["Webhooks: 1 webhook will be disabled"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Problem.FAILING, Problem.PAUSED),
        (Problem.PAUSED, Problem.DISABLED),
        (Problem.PAUSED, Problem.PAUSED_BY_USER),
    ],
)
def test_a_problem_that_becomes_another_one_is_not_over(before: Problem, after: Problem, found: Any) -> None:
    other = alarm(before, "“IPAM” has it.", webhook_id=2)
    found(alarm(before, "“CMDB” has it.", webhook_id=1), other)
    mailed()
    ten_minutes_later()
    found(alarm(after, "“CMDB” has another one.", webhook_id=1))
    [sent] = mailed()
    new, over = sent.body.split("Over:")
    assert "“CMDB” has another one." in new
    assert "“CMDB” has it." not in over
    assert "“IPAM” has it." in over


@pytest.mark.postgresql
def test_a_worker_whose_clock_is_behind_keeps_to_the_ten_minutes(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found(alarm(Problem.REDIS, "Redis is away."))
    assert len(mailed()) == 1
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 300)
    found(alarm(Problem.REDIS, "Redis is away."), alarm(Problem.CLOCK, "The clock is wrong."))
    assert mailed() == []


def test_an_email_whose_worker_is_killed_is_sent_by_the_next(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*args: Any) -> None:
        raise Killed

    found(alarm(Problem.REDIS, "Redis is away."))
    mailed()
    [known] = Sweep.objects.get().mailed["problems"].values()
    Sweep.objects.update(mailed={})
    del known["percent"]
    with monkeypatch.context() as broken:
        broken.setattr(emails, "mail_operators", kill)
        with pytest.raises(Killed):
            emails.Emails().problems_seen([hooks.NoticedProblem(**known)])
    assert mailed() == [], "not at once"
    ten_minutes_later()
    assert [one.subject for one in mailed()] == ["Webhooks: 1 new problem"]


def test_a_mail_server_that_hangs_delays_the_next_email_and_no_other_hook(
    found: Any, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    released, ended = threading.Event(), threading.Event()

    def hang(*args: Any) -> int:
        released.wait(60)
        ended.set()
        return 1

    found(alarm(Problem.REDIS, "Redis is away."))
    with monkeypatch.context() as broken:
        broken.setattr(mails, "MAIL_SECONDS", 0.1)
        broken.setattr(EmailBackend, "send_messages", hang)
        assert mailed() == []
        assert f"The hook {EMAILS}.problems_seen failed" in app_log.text
    ten_minutes_later()
    assert [one.subject for one in mailed()] == ["Webhooks: 1 new problem"]
    released.set()
    assert ended.wait(20)
    ten_minutes_later()
    assert mailed() == [], "the second e-mail counts"


@pytest.mark.usefixtures("redis")
def test_emails_without_an_address_are_a_warning(settings: Any, webhooks_settings: Callable[..., None]) -> None:
    def ids() -> set[str]:
        return {one.id or "" for one in run_checks(tags=["webhooks"])}

    settings.ADMINS = []
    assert "webhooks.W017" not in ids()
    webhooks_settings(NOTIFY=[])
    assert "webhooks.W017" in ids()
    settings.ADMINS = [("Ops", "ops@example.org")]
    assert "webhooks.W017" not in ids()
    settings.ADMINS = []
    webhooks_settings(HOOKS=[])
    assert "webhooks.W017" not in ids()


def test_an_email_that_cannot_be_sent_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    make_site_delivery(make_webhook(Thing), State.FAILED)
    with monkeypatch.context() as broken:
        broken.setattr(EmailBackend, "send_messages", lambda *args: 1 / 0)
        assert mailed() == []
    assert f"The hook {EMAILS}.problems_seen failed" in app_log.text
    assert mailed() == [], "not at once: the mail server may be busy"
    ten_minutes_later()
    assert [one.subject for one in mailed()] == ["Webhooks: 1 new problem"]


def test_a_webhook_that_is_disabled_is_mailed_with_the_other_problems(
    inbox: Inbox, webhooks_settings: Callable[..., None]
) -> None:
    make_event(make_webhook(url=inbox.url("status/410"), name="CMDB"))
    drain()
    look()
    [sent] = mail.outbox
    assert sent.subject.startswith("Webhooks: ")
    assert "“CMDB” was disabled automatically" in sent.body
    webhooks_settings(HOOKS=[])
    mail.outbox.clear()
    make_event(make_webhook(url=inbox.url("status/410"), name="IPAM"))
    drain()
    assert hooks.flush(20)
    assert [one.subject for one in mail.outbox] == ["Webhook IPAM was disabled"]


# Events


@pytest.fixture
def with_events(webhooks_settings: Callable[..., None], own_registrations: None) -> None:
    """As the site starts."""
    webhooks_settings(HOOKS=[EVENTS, "no.such.Hooks"])
    hooks.import_listed()
    importlib.reload(importlib.import_module("webhooks.contrib.alerts.events"))
    hooks._loaded.clear()


def chat(inbox: Inbox, *names: str) -> Webhook:
    events = [f"webhooks.{name}" for name in names]
    return make_webhook(on="", url=inbox.url(), name="chat", custom_events=events)


def received(inbox: Inbox) -> list[tuple[str, Any]]:
    """The events in their order. They have no object, so they may arrive in another one."""
    drain()
    sent = sorted((one.json for one in inbox.received()), key=lambda one: one["sequence"])
    return [(one["event"].removeprefix("webhooks."), one["data"]) for one in sent]


@pytest.mark.usefixtures("with_events")
def test_the_events_can_be_chosen_when_the_site_has_started() -> None:
    names = [name for name in registry.custom_events() if name.startswith("webhooks.")]
    assert len(names) == 5
    assert registry.custom_events_problem(names) == ""


@pytest.mark.usefixtures("with_events")
def test_a_webhook_gets_the_beginning_and_the_end_of_a_problem(inbox: Inbox) -> None:
    chat(inbox, "problem_began", "problem_ended")
    cmdb = make_webhook(Thing, name="CMDB")
    delivery = make_site_delivery(cmdb, State.FAILED)
    look()
    Delivery.objects.filter(pk=delivery.pk).delete()
    look()
    [(began, data), (ended, same)] = received(inbox)
    assert (began, ended) == ("problem_began", "problem_ended")
    assert data == same
    assert (data["problem"], data["webhook_id"]) == ("failed_deliveries", cmdb.pk)
    assert data["text"].startswith("1 delivery of “CMDB” failed")


@pytest.mark.usefixtures("with_events")
def test_a_webhook_gets_what_happens_to_others_and_nothing_about_itself(inbox: Inbox) -> None:
    own = chat(inbox, "webhook_paused", "webhook_resumed", "webhook_disabled", "problem_began")
    other = make_webhook(Thing, name="CMDB")
    for webhook in (own, other):
        row = Webhook.objects.filter(pk=webhook.pk)
        pause(row, USER)
        resume(row, USER)
    set_enabled(Webhook.objects.filter(pk=other.pk), USER, False)
    make_site_delivery(own, State.FAILED)
    look()
    assert hooks.flush(20)
    assert [(name, data.get("name")) for name, data in received(inbox)] == [
        ("webhook_paused", "CMDB"), ("webhook_resumed", "CMDB"), ("webhook_disabled", "CMDB"),
    ]  # fmt: skip


@pytest.mark.usefixtures("with_events")
def test_two_webhooks_with_alerts_do_not_send_each_others_failed_attempts(inbox: Inbox, found: Any) -> None:
    chat(inbox, "problem_began", "problem_ended")
    pager = make_webhook(on="", url=inbox.url(), name="pager", custom_events=["webhooks.webhook_paused"])
    cmdb = make_webhook(Thing, name="CMDB")
    for failing in (pager, cmdb):
        found(alarm(Problem.FAILING, f"{failing} fails.", webhook_id=failing.pk))
        look()
    found(alarm(Problem.PAUSED, f"{pager} is paused.", webhook_id=pager.pk))
    look()
    assert [(name, data["text"]) for name, data in received(inbox)] == [
        ("problem_began", "CMDB fails."), ("problem_began", "pager is paused."), ("problem_ended", "CMDB fails."),
    ]  # fmt: skip


def test_the_helper_that_delivers_in_tests_of_hosts_looks_for_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    in_background: list[tuple[str, Any]] = []
    monkeypatch.setattr(hooks, "call_in_background", in_background.extend)
    deliver()
    assert in_background == []
    Sweeper().sweep()
    assert [name for name, _call in in_background] == ["look for problems"]
