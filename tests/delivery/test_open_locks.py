"""A transaction of the host that stays open, with a lock of one webhook or of one object, delays no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from tests.support.draining import drain, finished, states, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.sessions import session
from tests.support.threads import Beside
from tests.support.waiting import PATIENCE, until
from tests.testapp.models import Thing
from webhooks.delivery.dispatch import PASSED_EVERY
from webhooks.delivery.sweep import Sweeper
from webhooks.ground.db import elapsed
from webhooks.models import Attempt, QueuedDelivery, State, StatisticDelta, StatisticTotal, Undispatched, Webhook
from webhooks.models.lanes import lane_of
from webhooks.operations import runs
from webhooks.operations.webhooks import delete_webhooks
from webhooks.workers.runner import DeliveryRunner

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.postgresql]

MANY = 260  # more than a batch


@contextmanager
def renamed(webhook: Webhook) -> Iterator[None]:
    """An edit of a webhook that is not committed."""
    rename = f"UPDATE rq_webhooks_webhook SET name = 'renamed' WHERE id = {webhook.pk}"
    with session(rename, isolation="READ COMMITTED"):
        yield


@contextmanager
def deleted(webhook: Webhook) -> Iterator[None]:
    """A deletion of a webhook, with its row, that is not committed, and is rolled back."""
    open_now, end = threading.Event(), threading.Event()

    def delete() -> None:
        with transaction.atomic():
            delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
            assert not Webhook.with_deleted.filter(pk=webhook.pk).exists()
            open_now.set()
            end.wait()
            transaction.set_rollback(True)

    deletion = Beside(delete)
    assert open_now.wait(10 * PATIENCE)
    try:
        yield
    finally:
        end.set()
        deletion.join()


@contextmanager
def object_locked(object_id: str) -> Iterator[None]:
    """A delivery of this object was sent again, and that is not committed."""
    lane = lane_of("testapp.thing", object_id)
    with session(f"SELECT pg_advisory_xact_lock({lane})", isolation="READ COMMITTED"):
        yield


@pytest.fixture
def runner() -> Iterator[DeliveryRunner]:
    runner = DeliveryRunner("test")
    yield runner
    runner.close(grace=0)


def work_until(runner: DeliveryRunner, inbox: Inbox, count: int, seconds: float = 3) -> None:
    """Work until so many requests have come. A wait for a lock would take at least five seconds."""
    end = time.monotonic() + seconds * PATIENCE
    while len(inbox.received()) < count and time.monotonic() < end:
        runner.run(0.1)
    assert len(inbox.received()) >= count


def test_an_open_edit_of_a_webhook_delays_no_event(inbox: Inbox, runner: DeliveryRunner) -> None:
    webhook, other = (make_webhook(Thing, url=inbox.url()) for _ in range(2))
    ids = [make_event(webhook, other, object_id=str(number % 9)).pk for number in range(MANY)]
    with renamed(webhook):
        work_until(runner, inbox, 2 * MANY, 10)
        assert webhook.deliveries.count() == MANY
    sequences = [one.json["sequence"] for one in inbox.received()]
    by_object = [[pk for pk in sequences if (pk - ids[0]) % 9 == number] for number in range(9)]
    assert all([*dict.fromkeys(one)] == sorted({*one}) for one in by_object)  # each first comes in order


def test_events_of_a_webhook_whose_deletion_is_open_wait_and_delay_no_other(
    inbox: Inbox, runner: DeliveryRunner
) -> None:
    webhook, other = (make_webhook(Thing, url=inbox.url()) for _ in range(2))
    for number in range(MANY):
        make_event(webhook, object_id=str(number % 9))
    make_event(webhook, other, object_id="both")
    make_event(other, object_id="both")
    make_event(other, object_id="other")
    with deleted(webhook):
        work_until(runner, inbox, 1)
        runner.run(0.3)
        assert len(inbox.received()) == 1
        assert Undispatched.objects.count() == MANY + 2
    work_until(runner, inbox, MANY + 4, 10)


def test_outcomes_of_a_locked_webhook_are_recorded_later_and_the_others_now(
    inbox: Inbox, runner: DeliveryRunner
) -> None:
    failing, other = make_webhook(Thing, url=inbox.url("status/500")), make_webhook(Thing, url=inbox.url())
    for number in range(MANY):
        make_delivery(failing, object_id=str(number))
        make_delivery(other, object_id=str(number))
    with renamed(failing):
        end = time.monotonic() + 5 * PATIENCE
        while other.deliveries.in_states(State.SUCCEEDED).count() < MANY and time.monotonic() < end:
            runner.run(0.1)
        assert other.deliveries.in_states(State.SUCCEEDED).count() == MANY
        assert not Attempt.objects.filter(delivery__webhook=failing).exists()
        held = QueuedDelivery.objects.filter(webhook=failing, state=State.SENDING).count()
        assert 0 < held < 20, "no more are sent while their outcomes cannot be recorded"
    runner.run(2)
    assert Attempt.objects.filter(delivery__webhook=failing).count() == len(inbox.received("status/500"))
    failing.refresh_from_db()
    assert failing.failures_in_a_row >= held


def test_the_success_of_a_healthy_webhook_is_recorded_while_it_is_locked(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    make_delivery(webhook)
    with renamed(webhook):
        drain()
        assert states() == [State.SUCCEEDED]


def test_a_process_that_ends_hands_back_what_it_cannot_record(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("status/500"))
    delivery = make_delivery(webhook)
    with renamed(webhook):
        work_for(0.5)
    queued = QueuedDelivery.objects.get(pk=delivery.pk)
    assert (queued.state, queued.lost_leases, queued.attempts) == (State.PENDING, 0, 0)
    assert len(inbox.received()) == 1


def test_an_open_retry_of_an_object_with_many_changes_delays_no_other(inbox: Inbox, runner: DeliveryRunner) -> None:
    webhook, other = (make_webhook(Thing, url=inbox.url()) for _ in range(2))
    ids = [make_event(webhook, object_id="1").pk for _ in range(MANY)]
    make_event(other, object_id="2")
    with object_locked("1"):
        work_until(runner, inbox, 1)
        assert Undispatched.objects.count() == MANY
    work_until(runner, inbox, 1 + MANY, 20)
    sequences = [one.json["sequence"] for one in inbox.received()]
    assert [pk for pk in sequences if pk in ids] == ids


def test_a_worker_does_not_rest_before_it_has_dispatched_all_that_was_locked(
    runner: DeliveryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make_webhook(Thing, enabled=False)  # nothing is sent meanwhile
    for _ in range(5 * MANY):
        make_event(webhook, object_id="1")
    with object_locked("1"):
        runner.run(1)
        assert Undispatched.objects.count() == 5 * MANY
    monkeypatch.setattr("webhooks.delivery.dispatch.elapsed", lambda: elapsed() + PASSED_EVERY)
    runner.run(60)
    assert not Undispatched.objects.exists()


def test_an_outcome_of_a_locked_object_is_recorded_later_and_the_others_now(
    inbox: Inbox, runner: DeliveryRunner
) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in (1, 2):
        make_delivery(webhook, object_id=str(number))
    with object_locked("1"):
        work_until(runner, inbox, 2)
        runner.run(0.2)
        assert states() == [State.SENDING, State.SUCCEEDED]
    runner.run(2)
    assert states() == [State.SUCCEEDED] * 2
    assert len(inbox.received()) == 2


def test_a_sweep_waits_for_no_lock_of_a_webhook_or_an_object(
    inbox: Inbox, webhooks_settings: Any, runner: DeliveryRunner
) -> None:
    webhooks_settings(LANE_WAIT=1)
    webhook, other = (make_webhook(Thing, url=inbox.url()) for _ in range(2))
    Webhook.objects.update(previous_secret="old", previous_secret_until="2020-01-01T00:00Z")
    long_ago = "2020-01-01T00:00Z"
    for one in (webhook, other):
        make_delivery(one, object_id="1", failing_since=long_ago, due_at="2090-01-01T00:00Z")
        make_delivery(one, State.WAITING, object_id="3")
    counts = [{"webhook_id": one.pk, "error_kind": "", "attempted": 1} for one in (webhook, other)]
    StatisticDelta.objects.insert(counts)
    with renamed(webhook), object_locked("1"), object_locked("3"), waits_for_no_lock():
        Sweeper().sweep()
        assert StatisticTotal.objects.filter(attempted=1).count() == 2
    Sweeper().sweep()
    assert QueuedDelivery.objects.filter(in_lane=False).count() == 2
    assert not Webhook.objects.exclude(previous_secret="").exists()


@contextmanager
def waits_for_no_lock() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 1")
        try:
            yield
        finally:
            cursor.execute("RESET lock_timeout")


def test_a_retry_of_many_waits_for_a_locked_object_and_delays_no_delivery(inbox: Inbox, runner: DeliveryRunner) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(3):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run = runs.start("retry", {}, takes_all=True)
    with object_locked("1"):
        runner.run(0.5)
        make_event(webhook, object_id="new")
        work_until(runner, inbox, 1)
        run.refresh_from_db()
        assert (run.state, run.done) == ("running", 0)
    assert finished(run).done == 3


def test_a_backfill_waits_for_its_locked_webhook_and_delays_no_delivery(inbox: Inbox, runner: DeliveryRunner) -> None:
    new, other = (make_webhook(Thing, url=inbox.url()) for _ in range(2))
    for number in range(3):
        make_event(other, object_id=str(number), dispatched=True)
    run = runs.start("backfill", runs.since_filters(new, timezone.now() - timedelta(hours=1)))
    with renamed(new):
        runner.run(0.5)
        make_event(other, object_id="new")
        work_until(runner, inbox, 1)
        run.refresh_from_db()
        assert (run.state, run.done) == ("running", 0)
    until(lambda: finished(run).state == "done", 30, "the end of a run that waited for the open transaction")
    assert run.done == 4  # the new event, too: the run begins after that transaction
