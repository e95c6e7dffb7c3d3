"""Pausing, probing, resuming and disabling a webhook that keeps failing."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.utils import timezone

from tests.support.draining import drain, states, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook, stored
from tests.support.sessions import session
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.testapp.models import Thing
from users.models import User
from webhooks.delivery import policy
from webhooks.delivery.policy import Health, after_failures, is_healthy, next_wait
from webhooks.ground.db import atomically, execute
from webhooks.ground.outcome import Outcome
from webhooks.models import Delivery, QueuedDelivery, State, Webhook
from webhooks.models.webhook_states import DisabledReason, WebhookQuerySet
from webhooks.operations import webhooks as webhook_operations
from webhooks.workers.runner import DeliveryRunner

NOW = timezone.now()
FINE = Health(0, None, None, 0)


def failed(status: int = 500) -> Outcome:
    return Outcome(NOW, 1, reason=f"HTTP {status}", status=status)


FAILED, OK = failed(), Outcome(NOW, 1, status=200)


@pytest.mark.parametrize(
    ("before", "outcomes", "failures"),
    [
        (0, [FAILED], 1),
        (4, [FAILED] * 3, 7),
        (4, [FAILED, OK, FAILED], 1),
        (9, [OK, FAILED, FAILED], 2),
    ],
)
def test_failures_are_counted_from_the_last_success(before: int, outcomes: list[Outcome], failures: int) -> None:
    assert after_failures(Health(before, NOW, None, 0), outcomes, NOW).failures_in_a_row == failures


def test_enough_failures_pause_a_webhook_until_its_first_probe(webhooks_settings: Any) -> None:
    webhooks_settings(PAUSE_AFTER=3, PROBE_SCHEDULE=[60, 120])
    assert after_failures(FINE, [FAILED] * 2, NOW).probe_at is None
    assert after_failures(FINE, [FAILED] * 3, NOW).probe_at == NOW + timedelta(seconds=60)


@pytest.mark.parametrize(("probes", "wait"), [(0, 60), (1, 120), (2, 120), (50, 120)])
def test_probes_come_at_growing_intervals(webhooks_settings: Any, probes: int, wait: int) -> None:
    webhooks_settings(PAUSE_AFTER=3, PROBE_SCHEDULE=[60, 120])
    health = after_failures(Health(5, NOW, NOW, probes), [FAILED], NOW)
    assert health.probe_at == NOW + timedelta(seconds=wait)


def test_nothing_but_failures_for_too_long_disables(webhooks_settings: Any) -> None:
    webhooks_settings(DISABLE_AFTER=3600)
    since = NOW - timedelta(seconds=3500)
    assert not after_failures(Health(50, since, NOW, 3), [FAILED], NOW).disabled_reason
    late = after_failures(Health(50, since, NOW, 3), [FAILED], NOW + timedelta(seconds=200))
    assert late.disabled_reason == DisabledReason.FAILING


@pytest.mark.parametrize(("failures", "disabled_reason"), [(0, ""), (1, ""), (2, DisabledReason.FAILING)])
def test_a_few_failures_in_a_long_time_do_not_disable(
    webhooks_settings: Any, failures: int, disabled_reason: str
) -> None:
    webhooks_settings(DISABLE_AFTER=3600, PAUSE_AFTER=3)
    before = Health(failures, NOW - timedelta(days=1), None, 0)
    assert after_failures(before, [FAILED], NOW).disabled_reason == disabled_reason


def test_requests_that_were_refused_together_count_as_one_failure(webhooks_settings: Any) -> None:
    webhooks_settings(PAUSE_AFTER=4)
    others = [replace(failed(429), repeats_refusal=True)] * 50
    health = after_failures(FINE, [OK, failed(429), *others], NOW)
    for later in (others, [failed(500), failed(429)]):  # they are recorded at different times
        health = after_failures(health, later, NOW)
    assert (health.failures_in_a_row, health.probe_at) == (3, None)
    assert after_failures(health, [failed(429)], NOW).probe_at is not None


@pytest.mark.parametrize(
    ("status", "healthy", "disabled", "wait"),
    [(200, True, False, None), (410, False, True, 5), (429, False, False, 60), (500, False, False, 5)],
)
def test_an_outcome_decides_about_the_delivery_and_its_webhook(
    status: int, healthy: bool, disabled: bool, wait: float | None
) -> None:
    one = OK if status == 200 else failed(status)
    assert is_healthy([one]) == healthy
    if not healthy:
        assert (after_failures(FINE, [one], NOW).disabled_reason == DisabledReason.GONE) == disabled
        assert next_wait([5], 1, overloaded=one.overloaded) == wait


def test_a_success_after_410_does_not_keep_a_webhook_enabled() -> None:
    assert not is_healthy([failed(410), OK])


# The row of a webhook


@pytest.mark.postgresql
def test_health_is_judged_by_the_clock_of_the_database(
    database: str, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(PAUSE_AFTER=2, PROBE_SCHEDULE=[60])
    webhook = make_webhook(Thing)
    now = timezone.now
    for worker in (timedelta(days=30), timedelta(days=-30)):
        monkeypatch.setattr(timezone, "now", lambda worker=worker: now() + worker)
        with transaction.atomic():
            policy.update_all({webhook: [FAILED]})
    webhook.refresh_from_db()
    assert webhook.enabled
    for moment, wait in ((webhook.failing_since, 0), (webhook.last_failure_at, 0), (webhook.probe_at, 60)):
        assert abs((moment - now()).total_seconds() - wait) < 30
    with transaction.atomic():
        policy.update_all({webhook: [OK]})
    webhook.refresh_from_db()
    assert abs((webhook.last_success_at - now()).total_seconds()) < 30


# With a receiver


@pytest.fixture
def paused(database: str, inbox: Inbox, webhooks_settings: Any) -> Webhook:
    """A webhook that failed three times and has two deliveries without an attempt."""
    webhooks_settings(PAUSE_AFTER=3, RETRY_SCHEDULE=[3600], PROBE_SCHEDULE=[3600])
    webhook = make_webhook(Thing, url=inbox.url("fail-first/3"))
    for number in range(3):
        make_event(webhook, object_id=str(number))
    drain()
    assert len(inbox.received()) == 3
    for number in range(3, 5):
        make_event(webhook, object_id=str(number))
    drain()
    webhook.refresh_from_db()
    return webhook


def test_a_paused_webhook_is_not_sent_to_and_its_deliveries_queue(paused: Webhook, inbox: Inbox) -> None:
    assert paused.is_paused
    assert paused.enabled
    assert paused.last_failure == "HTTP 503 Service Unavailable"
    assert len(inbox.received()) == 3
    assert states() == [State.PENDING] * 5


def test_a_probe_that_succeeds_resumes(paused: Webhook, inbox: Inbox) -> None:
    Webhook.objects.update(probe_at=timezone.now())
    drain()
    paused.refresh_from_db()
    assert not paused.is_paused
    assert (paused.failures_in_a_row, paused.failing_since, paused.probes) == (0, None, 0)
    assert len(inbox.received()) == 8
    assert states() == [State.SUCCEEDED] * 5


@pytest.fixture
def between_attempts(database: str, inbox: Inbox, webhooks_settings: Any) -> Delivery:
    """The only delivery of a paused webhook that can be sent, next attempted in an hour. A later change of its object
    waits behind it."""
    webhooks_settings(RETRY_SCHEDULE=[3600], RETRY_JITTER=0, PAUSE_AFTER=1, PROBE_SCHEDULE=[60, 1800])
    webhook = make_webhook(Thing, url=inbox.url("fail-first/2"))
    for _ in range(2):
        make_event(webhook)
    drain()
    assert states() == [State.PENDING, State.WAITING]
    return Delivery.objects.order_by("event_id")[0]


def test_a_probe_takes_the_first_delivery_before_it_is_due(between_attempts: Delivery, inbox: Inbox) -> None:
    for _ in range(2):
        Webhook.objects.update(probe_at=timezone.now())
        drain()
    assert len(inbox.received()) == 4, "the second probe has ended the pause"
    assert states() == [State.SUCCEEDED] * 2
    assert not Webhook.objects.get().is_paused


@pytest.mark.parametrize("is_by_user", [False, True])
def test_the_end_of_a_pause_sends_all_lanes_at_once(
    database: str, inbox: Inbox, webhooks_settings: Any, is_by_user: bool
) -> None:
    """Also those whose first delivery would be attempted in an hour."""
    webhooks_settings(RETRY_SCHEDULE=[3600], RETRY_JITTER=0, PAUSE_AFTER=3, PROBE_SCHEDULE=[1800])
    webhook = make_webhook(Thing, url=inbox.url("fail-first/3"))
    for number in range(6):
        make_event(webhook, object_id=str(number % 3))
    drain()
    assert sorted(states()) == [State.PENDING] * 3 + [State.WAITING] * 3
    if is_by_user:
        root = User.objects.create_superuser("root", password="p")
        assert webhook_operations.resume(Webhook.objects.all(), root) == [webhook]
    else:
        Webhook.objects.update(probe_at=timezone.now())
    drain()
    assert states() == [State.SUCCEEDED] * 6


def test_a_failed_probe_before_its_time_uses_up_no_schedule(between_attempts: Delivery, inbox: Inbox) -> None:
    due_at, failures = between_attempts.next_attempt_at, between_attempts.queued.failures
    Webhook.objects.update(probe_at=timezone.now())
    drain()
    after = Delivery.objects.get(pk=between_attempts.pk)
    assert (after.state, after.next_attempt_at, after.queued.failures) == (State.PENDING, due_at, failures)
    assert (after.attempt_count, after.attempts.count()) == (2, 2)
    webhook = Webhook.objects.get()
    assert (webhook.failures_in_a_row, webhook.probes) == (2, 1)


def test_a_failed_probe_at_its_time_is_an_attempt_by_the_schedule(between_attempts: Delivery) -> None:
    QueuedDelivery.objects.filter(pk=between_attempts.pk).update(due_at=timezone.now())
    Webhook.objects.update(probe_at=timezone.now())
    drain()
    assert states() == [State.FAILED, State.PENDING]


def test_a_probe_prefers_what_is_due(between_attempts: Delivery, inbox: Inbox) -> None:
    make_event(between_attempts.webhook, object_id="2")
    drain()
    Webhook.objects.update(probe_at=timezone.now())
    drain()
    assert states() == [State.PENDING, State.WAITING, State.PENDING]
    counts = Delivery.objects.order_by("event_id").values_list("noted_attempts", flat=True)
    assert list(counts) == [1, 0, 1]


def test_only_a_probe_takes_what_is_not_due(between_attempts: Delivery, inbox: Inbox) -> None:
    Webhook.objects.all().resume()
    make_delivery(between_attempts.webhook, object_id="2")
    drain()
    counts = Delivery.objects.order_by("event_id").values_list("noted_attempts", flat=True)
    assert list(counts) == [1, 0, 1]


@pytest.mark.postgresql
def test_a_probe_before_its_time_hides_nothing_that_comes_later(
    between_attempts: Delivery, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.delivery.scan_floors.LAG", 0)
    monkeypatch.setattr("webhooks.delivery.scan_floors.COST_FACTOR", 10**9)
    runner = DeliveryRunner("test")
    runner._claims._due()
    Webhook.objects.update(probe_at=timezone.now())
    for _ in range(3):
        assert runner._claims._due()
    Webhook.objects.all().resume()
    make_delivery(between_attempts.webhook, object_id="2")
    assert runner._claims._due()
    runner.close(grace=5)


def test_a_probe_is_a_single_delivery(paused: Webhook, inbox: Inbox) -> None:
    Webhook.objects.update(probe_at=timezone.now(), payload_url=inbox.url("status/500"))
    drain()
    paused.refresh_from_db()
    assert len(inbox.received()) == 4
    assert paused.probe_at > timezone.now() + timedelta(seconds=3000)
    assert paused.probes == 1


def test_a_probe_that_waits_for_its_worker_is_due_again_if_the_worker_hands_it_back(
    database: str, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(SENDERS=1)
    make_delivery(make_webhook(Thing, url=inbox.url("held")))
    runner = DeliveryRunner("test")
    runner.run(0.2, wait=False)
    inbox.wait_for(1)
    webhook = make_paused_with_probe_due(inbox.url())
    runner.run(0.2, wait=False)
    assert probe_of(webhook) == (3, "later")
    runner.pause(0)
    assert probe_of(webhook) == (2, "due")
    runner.close(grace=0)
    assert len(inbox.received()) == 1


def test_a_probe_that_its_worker_does_not_finish_is_due_again(database: str, inbox: Inbox) -> None:
    webhook = make_paused_with_probe_due(inbox.url("hang"))
    runner = DeliveryRunner("test")
    runner.run(1, wait=False)
    inbox.wait_for(1)
    assert probe_of(webhook) == (3, "later")
    runner.close(grace=0)
    assert probe_of(webhook) == (2, "due")


def test_two_workers_that_find_a_probe_due_send_one(database: str) -> None:
    webhook = make_webhook(Thing, probe_at=timezone.now(), failures_in_a_row=9)
    assert [policy.begin_probe(webhook.pk) for _ in range(2)] == [True, False]


def make_paused_with_probe_due(url: str) -> Webhook:
    webhook = make_webhook(Thing, url=url, timeout=30, probe_at=timezone.now(), failures_in_a_row=9, probes=2)
    make_delivery(webhook)
    return webhook


def probe_of(webhook: Webhook) -> tuple[int, str]:
    """The number of probes, and whether the next one is due."""
    webhook.refresh_from_db()
    return webhook.probes, "due" if webhook.probe_at <= timezone.now() else "later"


@pytest.mark.postgresql
def test_a_probe_whose_only_delivery_is_locked_is_not_used_up(database: str, inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), probe_at=timezone.now(), failures_in_a_row=9, probes=2)
    make_delivery(webhook)
    with transaction.atomic():
        list(QueuedDelivery.objects.select_for_update())
        Beside(lambda: work_for(1)).join()
    webhook.refresh_from_db()
    assert webhook.probes == 2
    assert inbox.received() == []
    drain()
    assert states() == [State.SUCCEEDED]


@pytest.mark.postgresql
def test_a_paused_webhook_that_another_session_has_locked_delays_no_other(database: str, inbox: Inbox) -> None:
    webhook = make_paused_with_probe_due(inbox.url())
    make_event(make_webhook(Thing, url=inbox.url()), object_id="2")
    with session(f"UPDATE rq_webhooks_webhook SET name = 'edited' WHERE id = {webhook.pk}", "READ COMMITTED"):
        beside = Beside(lambda: work_for(1))
        inbox.wait_for(1)
        beside.join()
    assert states() == [State.PENDING, State.SUCCEEDED]
    assert probe_of(webhook) == (2, "due")
    drain()
    assert states() == [State.SUCCEEDED] * 2


def test_an_admin_may_resume_at_once(paused: Webhook, inbox: Inbox) -> None:
    assert Webhook.objects.resume() == 1
    drain()
    assert len(inbox.received()) == 5


def test_a_receiver_that_is_gone_disables_its_webhook_and_says_why(
    database: str, inbox: Inbox, mailoutbox: list[Any]
) -> None:
    User.objects.create_superuser("root")
    webhook = make_webhook(Thing, url=inbox.url("status/410"), name="the CMDB")
    for _ in range(2):
        make_event(webhook)
    drain()
    webhook.refresh_from_db()
    assert not webhook.enabled
    assert webhook.disabled_reason == DisabledReason.GONE
    assert len(inbox.received()) == 1
    assert not LogEntry.objects.exists(), "no user did that"
    until(lambda: mailoutbox, 5, "the e-mail")
    assert "the CMDB" in mailoutbox[0].subject
    assert mailoutbox[0].to == ["admin@example.org"]
    host = inbox.url().rpartition("/")[0].rpartition("/")[0]
    assert f"{host} wants no more deliveries, so the webhook was disabled.\nDelete the webhook" in mailoutbox[0].body


@pytest.mark.parametrize("behaviour", ["status/410", "status/500"], ids=["disabled", "paused"])
def test_a_failure_that_stops_a_webhook_stops_the_deliveries_behind_it(
    database: str, inbox: Inbox, webhooks_settings: Any, behaviour: str
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[], PAUSE_AFTER=1)
    webhook = make_webhook(Thing, url=inbox.url(behaviour))
    for _ in range(2):
        make_event(webhook)
    drain()
    assert states() == [State.FAILED, State.PENDING]
    assert len(inbox.received()) == 1


@pytest.mark.usefixtures("database")
def test_the_first_success_after_a_resume_is_noted_soon_after_the_last_one() -> None:
    webhook = make_webhook(Thing)
    now = timezone.now()
    Webhook.objects.update(
        last_success_at=now - timedelta(seconds=2), last_failure_at=now - timedelta(seconds=1), failures_in_a_row=0
    )
    webhook.refresh_from_db()
    atomically(lambda: policy.update_all({webhook: [OK]}), "default")
    webhook.refresh_from_db()
    assert webhook.last_success_at > webhook.last_failure_at


@pytest.mark.cost
def test_the_successes_of_many_webhooks_are_noted_in_one_statement(
    database: str, django_assert_max_num_queries: Any
) -> None:
    webhooks = [make_webhook(Thing) for _ in range(20)]
    with transaction.atomic(), django_assert_max_num_queries(2):
        policy.update_all({webhook: [OK] for webhook in webhooks})
    assert not Webhook.objects.filter(last_success_at=None).exists()


@pytest.mark.parametrize("stopped", [{"paused_at": NOW}, {"enabled": False}], ids=["paused", "disabled"])
def test_after_a_failure_a_webhook_that_a_user_has_stopped_gets_nothing(database: str, stopped: dict[str, Any]) -> None:
    webhook, other = make_webhook(Thing), make_webhook(Thing)
    Webhook.objects.filter(pk=webhook.pk).update(**stored(stopped))
    with transaction.atomic():
        assert policy.update_all({webhook: [FAILED], other: [FAILED]}) == {webhook.pk}


def test_a_name_with_a_line_break_does_not_stop_the_mail(database: str, mailoutbox: list[Any]) -> None:
    webhook = make_webhook(Thing)
    Webhook.objects.update(name="CMDB\nBcc: ann@example.org")  # a form refuses it
    with transaction.atomic():
        policy.update_all({webhook: [failed(410)]})
    until(lambda: mailoutbox, 5, "the e-mail")
    assert "\n" not in mailoutbox[0].subject


def test_a_late_failure_of_a_disabled_webhook_changes_nothing(database: str, mailoutbox: list[Any]) -> None:
    webhook = make_webhook(Thing)
    Webhook.objects.update(enabled=False, disabled_by="root")
    with transaction.atomic():
        policy.update_all({webhook: [failed(410)]})
    webhook.refresh_from_db()
    assert (webhook.failures_in_a_row, webhook.disabled_reason, webhook.last_failure) == (0, "", "")
    assert not mailoutbox


@pytest.mark.postgresql
def test_workers_that_update_the_same_webhooks_do_not_deadlock(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = make_webhook(Thing), make_webhook(Thing)
    tries, has_one, may_go_on = [], threading.Event(), threading.Event()
    write = policy._write

    def write_and_stay(*args: Any) -> None:
        write(*args)
        if not has_one.is_set():
            has_one.set()
            assert may_go_on.wait(60)

    def note(*webhooks: Webhook) -> None:
        tries.append(webhooks)
        policy.update_all({webhook: [FAILED] for webhook in webhooks})

    monkeypatch.setattr(policy, "_write", write_and_stay)
    first = Beside(lambda: atomically(lambda: note(one, other), "default"))
    assert has_one.wait(60)
    second = Beside(lambda: atomically(lambda: note(other, one), "default"))
    second.wait_until_blocked_or_done()
    may_go_on.set()
    first.join()
    second.join()
    assert len(tries) == 2


def update_once_somebody_waits(webhook: Webhook) -> str:
    """A statement for PostgreSQL. It looks for a deadlock once, a second after somebody began to wait: a thread of this
    process might come too late."""
    return f"""
        DO $$ BEGIN
            FOR look IN 1..6000 LOOP
                EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted);
                PERFORM pg_sleep(0.01);
            END LOOP;
            UPDATE rq_webhooks_webhook SET failures_in_a_row = 2 WHERE id = {webhook.pk};
        END $$
    """


@pytest.mark.postgresql
@pytest.mark.parametrize("change", [WebhookQuerySet.resume, WebhookQuerySet.probe])
def test_an_admin_who_meets_a_worker_in_a_deadlock_tries_again(database: str, change: Any) -> None:
    first, second = (make_webhook(Thing, probe_at=timezone.now()) for _ in range(2))
    locked = threading.Event()

    def work() -> None:
        with transaction.atomic():
            execute("default", "SET LOCAL deadlock_timeout = '30s'")  # so PostgreSQL ends the other transaction
            Webhook.objects.filter(pk=second.pk).update(failures_in_a_row=2)
            locked.set()
            execute("default", update_once_somebody_waits(first))

    worker = Beside(work)
    assert locked.wait(60)
    assert change(Webhook.objects.all()) == 2
    worker.join()


def test_a_webhook_that_is_enabled_again_starts_afresh(database: str, inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])  # the first delivery waits
    webhook = make_webhook(Thing, url=inbox.url("status/410"))
    make_event(webhook)
    drain()
    webhook.refresh_from_db()
    webhook.payload_url, webhook.enabled = inbox.url("ok"), True
    webhook.save()
    make_event(webhook, object_id="2")
    drain()
    webhook.refresh_from_db()
    assert (webhook.disabled_reason, webhook.failures_in_a_row) == ("", 0)
    assert len(inbox.received("ok")) == 1


def test_the_last_failure_of_a_webhook_contains_no_data_of_objects(
    database: str, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    hidden = {"data": json.dumps({"name": "xyzzy"})}
    make_event(make_webhook(Thing, url="http://{{ data.name }}.invalid/"), **hidden)
    make_event(make_webhook(Thing, url=inbox.url(), body_template="{{ data.name.upper().nothing.more }}"), **hidden)
    make_event(make_webhook(Thing, url=inbox.url(), additional_headers="X {{ data.name }}: 1"), **hidden)
    make_event(make_webhook(Thing, url=inbox.url("status/418")), **hidden)
    drain()
    remembered = set(Webhook.objects.values_list("last_failure", flat=True))
    assert remembered == {"the name does not resolve", "a template failed", "HTTP 418 I'm a Teapot"}
    assert "xyzzy" not in str(remembered)
    assert "xyzzy" in str(list(Delivery.objects.values_list("reason", flat=True)))
