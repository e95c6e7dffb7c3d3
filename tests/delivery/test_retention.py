"""Old rows are deleted after their retention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models import ProtectedError
from django.utils import timezone

from tests.support.draining import states
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.plans import executed_plans
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import retention, sweep
from webhooks.delivery.dispatch import dispatch, insert_for
from webhooks.ground.db import execute
from webhooks.models import Attempt, Delivery, Event, QueuedDelivery, State, Sweep, Webhook
from webhooks.models.webhook_states import WebhookQuerySet
from webhooks.operations.webhooks import delete_webhooks
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

AGO = timezone.now() - timedelta(days=365)


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


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
    assert sweep.sweep() == 3
    assert set(Delivery.objects.all()) == set(kept)
    assert set(Event.objects.all()) == {delivery.event for delivery in kept}
    assert Attempt.objects.count() == 3


@pytest.mark.postgresql
def test_a_delivery_that_is_being_retried_is_kept(webhook: Webhook) -> None:
    old = make_delivery(webhook, State.FAILED, finished_at=AGO)
    with transaction.atomic():
        assert Delivery.objects.filter(pk=old.pk).retry("a test") == 1
        pruning = Beside(sweep.sweep)
        pruning.wait_until_blocked_or_done()
    assert pruning.join() == 0
    assert states() == [State.PENDING]


@pytest.mark.postgresql
@pytest.mark.parametrize("locked", [Delivery, QueuedDelivery])
def test_a_delivery_that_another_session_holds_is_kept(webhook: Webhook, locked: Any) -> None:
    make_delivery(webhook, State.FAILED, finished_at=AGO)
    with transaction.atomic():
        assert len(locked.objects.select_for_update()) == 1
        Beside(sweep.sweep).join()
    assert states() == [State.FAILED]
    sweep.sweep()
    assert states() == []


def test_an_event_that_is_not_dispatched_outlives_the_delivery_of_a_backfill(webhook: Webhook) -> None:
    event, new = make_event(webhook), make_webhook(Thing)
    with transaction.atomic():
        assert insert_for(new, [event]) == 1
    delete_webhooks(Webhook.objects.filter(pk=new.pk))
    dispatch()
    assert Delivery.objects.get().webhook == webhook


def test_an_event_of_a_clock_that_is_ahead_holds_up_no_others(webhook: Webhook) -> None:
    old = [make_event(webhook, timestamp=AGO, dispatched=True)]
    ahead = make_event(webhook, timestamp=timezone.now() + timedelta(days=365), dispatched=True)
    old += [make_event(webhook, timestamp=AGO, dispatched=True) for _ in range(2)]
    soon = make_event(webhook, timestamp=timezone.now() + timedelta(minutes=1), dispatched=True)
    last = make_event(webhook, timestamp=AGO, dispatched=True)
    assert sweep.sweep() == len(old)
    assert set(Event.objects.all()) == {ahead, soon, last}


def test_unfinished_deliveries_are_kept_at_any_age(webhook: Webhook) -> None:
    for state in (State.WAITING, State.PENDING, State.SENDING):
        make_delivery(webhook, state, object_id=state, created=AGO)
    Event.objects.update(timestamp=AGO)
    sweep.sweep()
    assert Delivery.objects.count() == 3


def test_the_last_state_that_a_webhook_got_stays_while_an_earlier_one_is_failed(webhook: Webhook) -> None:
    """Retention is shorter for what succeeded. Without it, a retry of all would send the old state."""
    ended = timezone.now() - timedelta(days=40)

    def deliver(state: State, object_id: str = "1", **event: Any) -> Delivery:
        made = make_event(webhook, object_id=object_id, dispatched=True, **event)
        return make_delivery(webhook, state, event=made, finished_at=ended)

    deliver(State.SUCCEEDED)
    failed = deliver(State.FAILED)
    deliver(State.SUCCEEDED)
    last = deliver(State.SUCCEEDED)
    deliver(State.SUCCEEDED, action="dcim.rack_audited")
    deliver(State.SUCCEEDED, "2")
    assert sweep.sweep() == 4
    assert set(Delivery.objects.all()) == {failed, last}
    assert Delivery.objects.superseded().get() == failed
    assert Sweep.objects.get().backlog == 0
    Delivery.objects.filter(pk=failed.pk).discard()
    assert sweep.sweep() == 1
    assert Delivery.objects.get() == failed


@pytest.mark.cost
@pytest.mark.postgresql
def test_however_many_succeeded_deliveries_stay_a_step_looks_at_few(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "DELIVERIES_AT_ONCE", 10)
    ended = timezone.now() - timedelta(days=40)
    for number in range(100):
        for state in (State.FAILED, State.SUCCEEDED):
            made = make_event(webhook, object_id=str(number), dispatched=True)
            make_delivery(webhook, state, event=made, finished_at=ended)
    for number in range(5):
        make_delivery(webhook, State.SUCCEEDED, object_id=f"alone {number}", finished_at=ended)
    sweeper = sweep.Sweeper()
    execute("default", "ANALYZE")
    with executed_plans() as executed:
        assert sweeper.sweep() + sum(sweeper.go_on() for _ in range(30)) == 5
    assert [str(one) for one in executed if one.rows > 500] == []
    assert Delivery.objects.in_states(State.SUCCEEDED).count() == 100
    failed = Delivery.objects.in_states(State.FAILED).earliest("pk")
    Delivery.objects.filter(pk=failed.pk).discard()
    assert sweeper.sweep() == 0, "what stays is not looked at again for a while"
    Sweep.objects.update(succeeded_began=0)  # long ago
    other = sweep.Sweeper()
    assert other.sweep() + sum(other.go_on() for _ in range(30)) == 1


def test_an_event_is_kept_until_its_last_delivery_goes(webhook: Webhook) -> None:
    old = make_delivery(webhook, State.SUCCEEDED, finished_at=AGO)
    make_delivery(make_webhook(Thing), State.FAILED, event=old.event)
    sweep.sweep()
    assert [delivery.state for delivery in Delivery.objects.all()] == [State.FAILED]
    assert Event.objects.get() == old.event


def test_a_failed_event_is_deleted_in_time_replayed_or_not(webhook: Webhook) -> None:
    make_event(webhook, error="Traceback", timestamp=AGO)
    make_event(webhook, error="Traceback", timestamp=AGO, replayed_at=AGO, dispatched=True)
    fresh = make_event(webhook, error="Traceback")
    sweep.sweep()
    assert list(Event.objects.all()) == [fresh]


def test_an_event_without_deliveries_is_deleted_in_time(webhook: Webhook) -> None:
    gone = make_webhook(Thing)
    make_delivery(gone, State.SUCCEEDED, finished_at=AGO)
    make_event(gone, timestamp=AGO)
    gone.delete()
    dispatch()
    Event.objects.update(timestamp=AGO)
    sweep.sweep()
    assert not Event.objects.exists()


def test_an_old_event_that_was_not_dispatched_yet_is_kept(webhook: Webhook) -> None:
    make_event(webhook, timestamp=AGO)
    sweep.sweep()
    assert Event.objects.count() == 1


def test_a_sweep_deletes_in_pieces(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PIECE", 3)
    for number in range(5):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number), finished_at=AGO)
    sweeper = sweep.Sweeper()
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
    monkeypatch.setattr(retention, "PIECE", 3)
    monkeypatch.setattr(sweep, "PURGE_SHARE", 1)
    monkeypatch.setattr(sweep, "QUIET_SHARE", 1)
    monkeypatch.setattr(sweep, "QUIET_AFTER", quiet_after)
    for number in range(10):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number), finished_at=AGO)
    worker = DeliveryRunner("test")
    for count in left:
        worker.run(5, wait=False)
        assert Delivery.objects.count() == count
    worker.close(grace=0)


def test_a_webhook_that_a_row_of_the_project_protects_keeps_no_other_from_being_deleted(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    protected = webhook
    make_webhook(Thing, name="other")

    def delete_rows(rows: WebhookQuerySet) -> int:
        if rows.filter(pk=protected.pk).exists():
            raise ProtectedError("Ticket.webhook refers to it", set())
        return real(rows)

    real = WebhookQuerySet.delete_rows
    monkeypatch.setattr(WebhookQuerySet, "delete_rows", delete_rows)
    Webhook.objects.all().delete()
    sweep.sweep()
    assert list(Webhook.with_deleted.values_list("pk", flat=True)) == [protected.pk]
    [record] = app_log.records
    assert record.getMessage().endswith("stays hidden and is not deleted: Ticket.webhook refers to it")
