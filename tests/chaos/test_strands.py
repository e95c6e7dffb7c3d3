"""No delivery is left waiting in a lane without a head."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from tests.chaos import ledger, storm
from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.support.draining import states
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.delivery.dispatch import dispatch
from webhooks.models import Delivery, Event, QueuedDelivery, State, Sweep, lanes
from webhooks.models.lanes import Place
from webhooks.models.queue import HEAD_STATES, Transition

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]


def test_heavy_dispatch_during_records_strands_nothing(
    crew: Crew, writers: Callable[[Plan], Writer], labels: list[int], inbox: Inbox, figures: Figures
) -> None:
    make_webhook(Label, url=inbox.url())
    Sweep.objects.create(pk=1, swept_at=timezone.now())
    few = labels[:2]
    for _ in range(3):
        crew.hire(SWEEP_INTERVAL=10_000, BATCH=5)
    crowd = [writers(Plan(f"w{n}", 60, few, most=2, pause=0.005)) for n in range(3)]

    def is_over() -> bool:
        under_way = QueuedDelivery.objects.filter(state__in=HEAD_STATES).exists()
        return all(writer.is_done() for writer in crowd) and not Event.objects.undispatched().exists() and not under_way

    until(is_over, 60, storm.report)
    stranded = headless_lanes()
    account = ledger.settle(inbox.received())
    figures(f"{account}; in 2 lanes by 3 workers without a sweep, {stranded} stranded")
    assert stranded == 0
    account.check()
    assert not account.repeated


def headless_lanes() -> int:
    """How many lanes have waiting deliveries but no head."""
    in_lanes = QueuedDelivery.objects.filter(in_lane=True).values_list("webhook", "lane")
    return len(set(in_lanes.filter(state=State.WAITING)) - set(in_lanes.filter(state__in=HEAD_STATES)))


def succeed(delivery: Delivery) -> None:
    """Record a success, and promote the next one of the lane."""
    assert delivery.lane is not None
    lanes.lock("default", [delivery.lane])
    claim = QueuedDelivery.objects.get(pk=delivery.pk).claim
    assert claim
    assert Delivery.objects.move_on([Transition(delivery.pk, State.SUCCEEDED)], [claim])
    lanes.promote("default", [Place(delivery.webhook_id, delivery.lane, delivery.event_id)], uuid.uuid4())


def in_transaction(work: Callable[[], Any], go_on: threading.Event) -> Beside:
    """Do this in a transaction that stays open until ``go_on``."""
    is_done = threading.Event()

    def run() -> None:
        with transaction.atomic():
            work()
            is_done.set()
            assert go_on.wait(60)

    running = Beside(run)
    assert is_done.wait(60)
    return running


def test_a_dispatch_leaves_an_event_whose_lane_is_being_recorded(database: str) -> None:
    webhook, go_on = make_webhook(Label), threading.Event()
    first, _ = make_delivery(webhook, State.SENDING), make_delivery(webhook, State.WAITING)
    make_event(webhook)
    recording = in_transaction(lambda: succeed(first), go_on)
    assert dispatch() == 0
    go_on.set()
    recording.join()
    assert dispatch() == 1
    assert states() == [State.SUCCEEDED, State.SENDING, State.WAITING]


def test_a_record_waits_for_a_dispatch_into_its_lane_and_promotes_what_it_added(database: str) -> None:
    webhook, go_on = make_webhook(Label), threading.Event()
    first = make_delivery(webhook, State.SENDING)
    make_event(webhook)
    dispatching = in_transaction(dispatch, go_on)
    recording = Beside(transaction.atomic(lambda: succeed(first)))
    recording.wait_until_blocked_or_done()
    go_on.set()
    dispatching.join()
    recording.join()
    assert states() == [State.SUCCEEDED, State.SENDING]


def test_a_retry_waits_for_a_record_of_its_lane(database: str) -> None:
    webhook, go_on = make_webhook(Label), threading.Event()
    failed, first, _ = (make_delivery(webhook, state) for state in (State.FAILED, State.SENDING, State.WAITING))
    recording = in_transaction(lambda: succeed(first), go_on)
    retrying = Beside(lambda: Delivery.objects.filter(pk=failed.pk).retry("alice"))
    retrying.wait_until_blocked_or_done()
    go_on.set()
    recording.join()
    assert retrying.join() == 1
    assert states() == [State.WAITING, State.SUCCEEDED, State.SENDING]
