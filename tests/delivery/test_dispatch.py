"""From Events to Deliveries, in the order of their lanes."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from tests.support.draining import STATE, states, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.replicated import Replicated
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.delivery import dispatch as dispatching
from webhooks.delivery.dispatch import dispatch, insert_for
from webhooks.ground.db import execute, fetch_all
from webhooks.models import Attempt, Delivery, Event, QueuedDelivery, State, Undispatched, Webhook, lanes
from webhooks.models.ids import delivery_id
from webhooks.models.worker import begin_transaction, in_worker_transaction
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


def dispatch_all() -> int:
    return sum(iter(dispatch, 0))


def test_an_event_becomes_one_delivery_for_each_matching_webhook(webhook: Webhook) -> None:
    other, uninterested = make_webhook(Thing), make_webhook(Thing)
    event = make_event(webhook, other)
    assert dispatch() == 1
    assert set(Delivery.objects.values_list("webhook", "event")) == {(webhook.pk, event.pk), (other.pk, event.pk)}
    assert not uninterested.deliveries.exists()
    assert not Event.objects.undispatched().exists()


def test_nothing_is_dispatched_twice(webhook: Webhook) -> None:
    make_event(webhook)
    assert dispatch() == 1
    assert dispatch() == 0
    assert Delivery.objects.count() == 1


def test_a_dispatch_that_expects_events_needs_no_look(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "_first", None)
    assert dispatch(skips_scan=True) == 0
    make_event(webhook)
    assert dispatch(skips_scan=True) == 1
    assert states() == [State.PENDING]


@pytest.mark.postgresql
def test_drivers_that_send_one_statement_at_a_time_dispatch_the_same(webhook: Webhook) -> None:
    make_event(webhook)
    make_event(webhook)
    connection.ensure_connection()
    connection.connection.prepare_threshold = 0
    try:
        assert dispatch() == 2
    finally:
        connection.connection.prepare_threshold = None
    assert states() == [State.PENDING, State.WAITING]
    assert not Event.objects.undispatched().exists()


def test_a_dispatch_that_a_crash_rolled_back_repeats_with_the_same_ids(webhook: Webhook) -> None:
    make_event(webhook, make_webhook(Thing))
    with transaction.atomic():
        dispatch()
        lost = set(Delivery.objects.values_list("pk", flat=True))
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()
    dispatch()
    assert set(Delivery.objects.values_list("pk", flat=True)) == lost
    assert len(lost) == 2


def test_the_first_of_a_lane_is_pending_and_those_behind_it_wait(webhook: Webhook) -> None:
    for object_id in ("1", "1", "2", "1"):
        make_event(webhook, object_id=object_id)
    dispatch()
    assert states() == [State.PENDING, State.WAITING, State.PENDING, State.WAITING]


def test_lanes_of_different_webhooks_are_apart(webhook: Webhook) -> None:
    other = make_webhook(Thing)
    make_event(webhook)
    make_event(other)
    dispatch()
    assert states() == [State.PENDING, State.PENDING]


def test_objects_of_different_models_with_the_same_key_have_different_lanes(webhook: Webhook) -> None:
    make_event(webhook)
    make_event(webhook, object_type="testapp.label")
    dispatch()
    assert states() == [State.PENDING, State.PENDING]


@pytest.mark.parametrize("head", [State.PENDING, State.SENDING])
def test_an_event_waits_behind_a_head_that_is_there(webhook: Webhook, head: State) -> None:
    make_delivery(webhook, head)
    make_event(webhook)
    dispatch()
    assert states() == [head, State.WAITING]


@pytest.mark.parametrize("ended", [State.SUCCEEDED, State.FAILED, State.DISCARDED])
def test_an_event_does_not_wait_behind_one_that_has_ended(webhook: Webhook, ended: State) -> None:
    make_delivery(webhook, ended)
    make_event(webhook)
    dispatch()
    assert states() == [ended, State.PENDING]


def test_an_event_does_not_wait_behind_one_that_left_its_lane(webhook: Webhook) -> None:
    make_delivery(webhook, State.PENDING, in_lane=False)
    make_event(webhook)
    dispatch()
    assert states() == [State.PENDING, State.PENDING]


@pytest.mark.parametrize(
    ("last", "is_retried", "is_late"),
    [(State.DISCARDED, False, False), (State.SUCCEEDED, True, False), (State.SUCCEEDED, False, True)],
)
def test_an_event_waits_for_its_head_where_the_last_delivery_of_the_lane_has_ended(
    webhook: Webhook, last: State, is_retried: bool, is_late: bool
) -> None:
    head, *others = (make_event(webhook, dispatched=True) for _ in range(3))
    new, ended = others if is_late else reversed(others)
    make_delivery(webhook, event=head, overtaken=is_retried)
    make_delivery(webhook, last, event=ended)
    Undispatched.objects.create(event=new)
    assert dispatch() == 1
    assert sorted(states()) == sorted([State.PENDING, last, State.WAITING])


def test_unordered_deliveries_have_no_lane(database: str) -> None:
    unordered = make_webhook(Thing, ordered=False)
    for _ in range(3):
        make_event(unordered)
    dispatch()
    assert states() == [State.PENDING] * 3


def test_an_event_whose_payload_failed_is_never_dispatched(webhook: Webhook) -> None:
    make_event(webhook, error="Traceback…", data="")
    make_event(webhook)
    assert dispatch_all() == 2
    assert Delivery.objects.get().event.error == ""


def test_events_that_were_deleted_by_sql_keep_no_other_from_being_dispatched(
    webhook: Webhook, webhooks_settings: Any
) -> None:
    webhooks_settings(BATCH=2)
    for number in range(3):
        make_event(webhook, object_id=str(number))
    execute("default", "DELETE FROM rq_webhooks_event")
    make_event(webhook, object_id="3")
    for _ in range(2):
        dispatch()
    assert states() == [State.PENDING]
    assert not Undispatched.objects.exists()


def test_a_webhook_that_is_gone_gets_nothing(webhook: Webhook) -> None:
    gone = make_webhook(Thing)
    make_event(webhook, gone)
    make_event(gone)
    gone.delete()
    assert dispatch_all() == 2
    assert [delivery.webhook for delivery in Delivery.objects.all()] == [webhook]
    assert not Event.objects.undispatched().exists()


def test_a_webhook_that_was_disabled_later_keeps_its_deliveries(webhook: Webhook) -> None:
    make_event(webhook)
    Webhook.objects.update(enabled=False)
    dispatch()
    assert states() == [State.PENDING]


def test_many_events_are_dispatched_in_batches_and_in_order(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(BATCH=7)
    ids = [make_event(webhook, object_id=str(number % 5)).pk for number in range(50)]
    assert dispatch() == 7
    assert sorted(Delivery.objects.values_list("event_id", flat=True)) == ids[:7]
    assert dispatch_all() == 43
    assert Delivery.objects.in_states(State.PENDING).count() == 5


@pytest.mark.postgresql
def test_a_later_event_waits_for_an_earlier_one_that_another_worker_is_dispatching(webhook: Webhook) -> None:
    first, second = (make_event(webhook, object_id="1") for _ in range(2))
    for _ in range(7):
        make_event(webhook, object_id="dispatched", dispatched=True)  # neighbours share a lock
    other = make_event(webhook, object_id="2")
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            begin_transaction("default")  # another plan might lock all before it takes the first
            assert len(fetch_all("default", *Undispatched.objects.lock_sql(first.pk, 1))) == 1
            held.set()
            assert go_on.wait(60)

    worker = Beside(hold)
    assert held.wait(60)
    assert dispatch() == 1
    assert Delivery.objects.get().event == other
    go_on.set()
    worker.join()
    assert dispatch_all() == 2
    assert list(Delivery.objects.filter(event__object_id="1").order_by("event_id").values_list("event_id", STATE)) == [
        (first.pk, State.PENDING),
        (second.pk, State.WAITING),
    ]


@pytest.mark.parametrize("objects", [1, 10])
def test_several_workers_at_once_dispatch_each_event_once(
    webhook: Webhook, webhooks_settings: Any, objects: int
) -> None:
    webhooks_settings(BATCH=10)
    for number in range(200):
        make_event(webhook, object_id=str(number % objects))

    def work() -> None:
        while Event.objects.undispatched().exists():
            dispatch()

    for worker in [Beside(work) for _ in range(4)]:
        worker.join(60)
    assert Delivery.objects.values("event", "webhook").distinct().count() == Delivery.objects.count() == 200
    assert Delivery.objects.in_states(State.PENDING).count() == objects
    first = dict(Delivery.objects.order_by("lane", "-event_id").values_list("lane", "event_id"))
    assert set(Delivery.objects.in_states(State.PENDING).values_list("event_id", flat=True)) == set(first.values())


def test_an_event_that_names_a_webhook_twice_becomes_one_delivery(webhook: Webhook) -> None:
    make_event(webhook, webhook)
    assert dispatch_all() == 1
    assert states() == [State.PENDING]


def test_a_delivery_that_exists_already_is_not_created_again(webhook: Webhook) -> None:
    event, other = make_event(webhook), make_event(webhook, object_id="2")
    pk = delivery_id(event.timestamp, event.pk, webhook.pk)
    make_delivery(webhook, State.SUCCEEDED, event=event, id=pk)
    assert dispatch() == 2
    assert states() == [State.SUCCEEDED, State.PENDING]
    assert Delivery.objects.in_states(State.PENDING).get().event == other


@pytest.mark.postgresql
def test_an_event_that_another_session_takes_meanwhile_gets_no_delivery(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(*given: Any) -> Any:
        Beside(Undispatched.objects.all().delete).join()
        return try_look_ahead(*given)

    make_event(webhook)
    try_look_ahead = lanes.try_look_ahead
    monkeypatch.setattr(lanes, "try_look_ahead", take)
    assert dispatch() == 0
    assert states() == []


def test_a_dispatch_that_fails_does_not_stop_recording_and_maintenance(
    webhook: Webhook, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OperationalError("only this")

    Webhook.objects.update(payload_url=inbox.url())
    make_delivery(webhook)
    make_delivery(webhook, State.SENDING, object_id="2", lease_until=timezone.now() - timedelta(seconds=9))
    make_event(webhook, object_id="3")
    monkeypatch.setattr(Delivery.objects, "insert", fail)
    work = DeliveryRunner("test")

    def have_ended() -> bool:
        with pytest.raises(OperationalError):
            work.run(1)
        return states() == [State.SUCCEEDED] * 2

    until(have_ended, 20, "both to be sent")
    work.close(grace=1)


# The deliveries of earlier events


def backfill(webhook: Webhook, *events: Event) -> int:
    """Create the deliveries of events that a run has chosen some moments ago. Returns how many are new."""
    return in_worker_transaction("default", lambda: insert_for(webhook, events))


def test_a_backfill_that_meets_another_leaves_no_lane_without_a_head(webhook: Webhook) -> None:
    first, second = (make_event(webhook, dispatched=True) for _ in range(2))
    assert backfill(webhook, first) == 1
    QueuedDelivery.objects.all().delete()
    Delivery.objects.update(outcome=State.SUCCEEDED, noted_end=timezone.now())
    assert backfill(webhook, first, second) == 1
    assert states() == [State.SUCCEEDED, State.PENDING]


def test_a_backfill_leaves_an_event_to_the_dispatch_that_comes(webhook: Webhook) -> None:
    first, _ = make_event(webhook), make_event(webhook)
    assert backfill(webhook, first) == 0
    assert dispatch_all() == 2
    assert states() == [State.PENDING, State.WAITING]


def test_a_backfill_takes_an_undispatched_event_that_its_webhook_did_not_match(webhook: Webhook) -> None:
    assert backfill(webhook, make_event(make_webhook(Thing))) == 1


def test_workers_read_where_they_write(settings: Any, inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    settings.DATABASE_ROUTERS = [Replicated()]
    work_for(60)
    assert (Delivery.objects.get().state, Attempt.objects.count()) == (State.SUCCEEDED, 1)


def test_related_rows_are_read_where_they_were_written(settings: Any) -> None:
    delivery = make_delivery(make_webhook(Thing))
    Attempt.objects.create(delivery=delivery, number=1, started_at=timezone.now(), duration_ms=1, succeeded=True)
    settings.DATABASE_ROUTERS = [Replicated()]
    attempt = Attempt.objects.get()
    assert (attempt.delivery, attempt.delivery.event, attempt.delivery.webhook) == (
        delivery,
        delivery.event,
        delivery.webhook,
    )
    delivery.refresh_from_db()
