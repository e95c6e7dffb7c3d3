"""Expired leases, blocked lanes, retention, and which worker sweeps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from tests.support.draining import states
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.servers import SQLITE
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import health, maintenance, runner
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.runner import DeliveryRunner
from webhooks.models import Attempt, Delivery, Event, State, Sweep, Webhook
from webhooks.network.outcome import Outcome

pytestmark = pytest.mark.usefixtures("database")

AGO = timezone.now() - timedelta(days=365)


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


def test_an_expired_claim_is_returned_and_no_attempt_is_counted(webhook: Webhook) -> None:
    make_delivery(webhook, State.SENDING, object_id="dead", lease_until=timezone.now() - timedelta(seconds=1))
    make_delivery(webhook, State.SENDING, object_id="alive")
    assert maintenance.expire_leases() == 1
    assert states() == [State.PENDING, State.SENDING]
    taken = Delivery.objects.get(state=State.PENDING)
    assert (taken.attempt_count, taken.queued.claim) == (0, None)


def test_a_head_that_fails_for_too_long_leaves_its_lane(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(LANE_WAIT=100)
    later = timezone.now() + timedelta(hours=1)
    for object_id, age in (("old", 101), ("young", 90)):
        since = timezone.now() - timedelta(seconds=age)
        make_delivery(webhook, object_id=object_id, failures=3, failing_since=since, due_at=later)
        make_delivery(webhook, State.WAITING, object_id=object_id)
    assert maintenance.unblock_lanes() == 1
    assert states() == [State.PENDING, State.PENDING, State.PENDING, State.WAITING]
    head = Delivery.objects.order_by("event_id")[0]
    assert (head.in_lane, head.queued.failures) == (False, 3)
    assert maintenance.unblock_lanes() == 0


def enable(webhook: Webhook) -> None:
    Webhook.objects.update(enabled=False)
    webhook.save()


def resume(webhook: Webhook) -> None:
    Webhook.objects.update(probe_at=timezone.now())
    Webhook.objects.resume()


def probe(webhook: Webhook, *answers: Outcome) -> None:
    Webhook.objects.update(probe_at=timezone.now(), failures_in_a_row=9)
    webhook.refresh_from_db()
    with transaction.atomic():
        health.update_all({webhook: answers})


OK, NOT_OK = Outcome(AGO, 1, status=200), Outcome(AGO, 1, reason="HTTP 500", status=500)


@pytest.mark.parametrize(
    "end_of_stop",
    [enable, resume, lambda webhook: probe(webhook, OK), lambda webhook: probe(webhook, OK, NOT_OK)],
    ids=["enabled", "resumed", "probed", "probed-and-failed"],
)
def test_the_time_of_a_pause_does_not_count_for_its_lanes(
    webhook: Webhook, webhooks_settings: Any, end_of_stop: Callable[[Webhook], None]
) -> None:
    webhooks_settings(LANE_WAIT=100)
    make_delivery(webhook, failures=3, failing_since=AGO)
    make_delivery(webhook, State.WAITING)
    end_of_stop(webhook)
    assert maintenance.unblock_lanes() == 0
    Webhook.objects.update(resumed_at=timezone.now() - timedelta(seconds=101))
    assert maintenance.unblock_lanes() == 1


def test_a_success_of_a_running_webhook_makes_no_lane_wait_longer(webhook: Webhook) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO)
    Webhook.objects.update(failures_in_a_row=2)
    webhook.refresh_from_db()
    with transaction.atomic():
        health.update_all({webhook: [OK]})
    webhook.refresh_from_db()
    webhook.save()
    assert (webhook.failures_in_a_row, webhook.resumed_at) == (0, None)
    assert maintenance.unblock_lanes() == 1


@pytest.mark.postgresql
def test_a_lane_is_unblocked_while_its_webhook_is_locked(webhook: Webhook) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO)
    with transaction.atomic():
        Webhook.objects.select_for_update(no_key=True).get()
        assert Beside(maintenance.unblock_lanes).join(5) == 1


@pytest.mark.parametrize("stopped", [{"enabled": False}, {"probe_at": AGO}])
def test_a_lane_of_a_stopped_webhook_is_not_unblocked(webhook: Webhook, stopped: dict[str, Any]) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO)
    Webhook.objects.update(**stopped)
    assert maintenance.unblock_lanes() == 0


def test_a_head_that_has_not_failed_keeps_its_lane(webhook: Webhook) -> None:
    make_delivery(webhook, failures=0)
    assert maintenance.unblock_lanes() == 0


def test_ended_deliveries_are_kept_for_as_long_as_their_state_says(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(RETENTION_DAYS={"succeeded": 10, "failed": 20, "discarded": 5})
    kept = []
    for state, days in ((State.SUCCEEDED, 10), (State.FAILED, 20), (State.DISCARDED, 5)):
        for age in (days - 1, days + 1):
            ended = timezone.now() - timedelta(days=age)
            delivery = make_delivery(webhook, state, object_id=f"{state} {age}", finished_at=ended)
            Attempt.objects.create(delivery=delivery, number=1, started_at=ended, duration_ms=1, url="", succeeded=True)
            if age < days:
                kept.append(delivery)
    assert maintenance.sweep() == 3
    assert set(Delivery.objects.all()) == set(kept)
    assert set(Event.objects.all()) == {delivery.event for delivery in kept}
    assert Attempt.objects.count() == 3


@pytest.mark.postgresql
def test_a_delivery_that_is_being_retried_is_kept(webhook: Webhook) -> None:
    old = make_delivery(webhook, State.FAILED, finished_at=AGO)
    with transaction.atomic():
        assert Delivery.objects.filter(pk=old.pk).retry("a test") == 1
        pruning = Beside(maintenance.sweep)
        pruning.wait_until_blocked_or_done()
    assert pruning.join() == 0
    assert states() == [State.PENDING]


def test_unfinished_deliveries_are_kept_at_any_age(webhook: Webhook) -> None:
    for state in (State.WAITING, State.PENDING, State.SENDING):
        make_delivery(webhook, state, object_id=state, created=AGO)
    Event.objects.update(timestamp=AGO)
    maintenance.sweep()
    assert Delivery.objects.count() == 3


def test_an_event_is_kept_until_its_last_delivery_goes(webhook: Webhook) -> None:
    old = make_delivery(webhook, State.SUCCEEDED, finished_at=AGO)
    make_delivery(make_webhook(Thing), State.FAILED, event=old.event)
    maintenance.sweep()
    assert [delivery.state for delivery in Delivery.objects.all()] == [State.FAILED]
    assert Event.objects.get() == old.event


def test_a_failed_event_is_deleted_in_time_replayed_or_not(webhook: Webhook) -> None:
    make_event(webhook, error="Traceback", timestamp=AGO)
    make_event(webhook, error="Traceback", timestamp=AGO, replayed_at=AGO, dispatched=True)
    fresh = make_event(webhook, error="Traceback")
    maintenance.sweep()
    assert list(Event.objects.all()) == [fresh]


def test_an_event_without_deliveries_is_deleted_in_time(webhook: Webhook) -> None:
    gone = make_webhook(Thing)
    make_delivery(gone, State.SUCCEEDED, finished_at=AGO)
    make_event(gone, timestamp=AGO)
    gone.delete()
    dispatch()
    Event.objects.update(timestamp=AGO)
    maintenance.sweep()
    assert not Event.objects.exists()


def test_an_old_event_that_was_not_dispatched_yet_is_kept(webhook: Webhook) -> None:
    make_event(webhook, timestamp=AGO)
    maintenance.sweep()
    assert Event.objects.count() == 1


def test_a_sweep_deletes_in_pieces(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "PIECE", 3)
    for number in range(5):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number), finished_at=AGO)
    sweeper = maintenance.Sweeper()
    assert sweeper.sweep() == 3
    assert Delivery.objects.count() == 2
    assert sweeper.go_on() == 2
    assert Delivery.objects.count() == 0
    assert sweeper.go_on() == 0


@pytest.mark.parametrize(("quiet_after", "left"), [(60, [7, 4, 1, 0]), (-1, [7, 0])])
def test_a_worker_deletes_more_at_once_while_nothing_is_sent(
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
    webhooks_settings: Callable[..., None],
    quiet_after: int,
    left: list[int],
) -> None:
    webhooks_settings(SWEEP_INTERVAL=3600)
    monkeypatch.setattr(maintenance, "PIECE", 3)
    monkeypatch.setattr(runner, "PURGE_EVERY", 0)
    monkeypatch.setattr(runner, "QUIET_AFTER", quiet_after)
    for number in range(10):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number), finished_at=AGO)
    worker = DeliveryRunner("test")
    for count in left:
        worker.run(5, wait=False)
        assert Delivery.objects.count() == count
    worker.close(grace=0)


def test_a_sweep_of_nothing_changes_nothing() -> None:
    assert maintenance.sweep() == 0


# Who sweeps


def test_workers_take_turns_at_sweeping() -> None:
    assert Sweep.begin(interval=100)
    assert not Sweep.begin(interval=100)
    Sweep.objects.update(swept_at=timezone.now() - timedelta(seconds=101))
    assert Sweep.begin(interval=100)
    assert Sweep.objects.exists()


@pytest.mark.parametrize("wrong", [timedelta(days=-400), timedelta(days=400)], ids=["behind", "ahead"])
def test_a_worker_whose_clock_is_wrong_ends_no_sweeping_and_deletes_nothing(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, django_db_setup: str, wrong: timedelta
) -> None:
    if django_db_setup == SQLITE:  # lives in the process of the worker, and so does its clock
        assert Sweep.begin(interval=100)
        Sweep.objects.update(swept_at=timezone.now() + wrong)
    else:
        make_delivery(webhook, State.SUCCEEDED)
        Webhook.objects.update(previous_secret="x", previous_secret_until=timezone.now() + timedelta(days=1))
        now = timezone.now
        with monkeypatch.context() as patch:
            patch.setattr(timezone, "now", lambda: now() + wrong)
            assert Sweep.begin(interval=100)
            assert maintenance.sweep() == 0
            assert not Sweep.begin(interval=100)
        assert not Sweep.begin(interval=100)
        Sweep.objects.update(swept_at=now() + timedelta(days=400))
    assert Sweep.begin(interval=100)
    assert not Sweep.begin(interval=100)


def test_only_one_of_several_workers_sweeps() -> None:
    Sweep.begin(interval=0)
    Sweep.objects.update(swept_at=AGO)
    turns = [worker.join() for worker in [Beside(lambda: Sweep.begin(interval=100)) for _ in range(4)]]
    assert sorted(turns) == [False, False, False, True]


def test_the_command_sweeps_and_wakes_a_worker_for_what_is_due(webhook: Webhook, redis: Any, capsys: Any) -> None:
    call_command("webhooks_sweep")
    assert redis.llen("rq:queue:webhooks") == 0
    make_delivery(webhook, State.SENDING, lease_until=AGO)
    call_command("webhooks_sweep")
    assert states() == [State.PENDING]
    assert redis.llen("rq:queue:webhooks") == 1
    assert "1 row changed" in capsys.readouterr().out
    assert Sweep.objects.exists()
