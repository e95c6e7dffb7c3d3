"""Deliveries that kill their workers, and workers that are killed by an operator."""

from __future__ import annotations

import json
import time

import pytest

from tests.chaos.crew import Crew
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models import Attempt, Delivery, QueuedDelivery, State

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

COUNT = 240

POISONED = "tests.support.pills.PoisonedWorker"


def succeeded() -> int:
    return Delivery.objects.in_states(State.SUCCEEDED).count()


def test_a_delivery_that_kills_workers_fails_after_three_and_keeps_no_other_from_its_receiver(
    crew: Crew, inbox: Inbox, figures: Figures
) -> None:
    webhook, poisoned = (make_webhook(Label, url=inbox.url("slow/0.02")) for _ in range(2))
    for number in range(40):
        make_event(webhook, poisoned, object_type="testapp.label", object_id=str(number))
    pill = make_event(poisoned, object_type="testapp.label", object_id="pill", data=json.dumps({"name": "pill"}))
    for number in range(40, 60):
        make_event(webhook, poisoned, object_type="testapp.label", object_id=str(number))
    aboard: list[int] = []

    def is_over() -> bool:
        if crew.by_name[name].process.poll() is not None:
            return True
        return Attempt.objects.filter(delivery__event=pill).exists() and succeeded() == 120

    while not Attempt.objects.filter(delivery__event=pill).exists():
        assert len(aboard) < 4, aboard
        name = crew.hire(POISONED, LEASE=3, SWEEP_INTERVAL=0.3, RETRY_SCHEDULE=[3600])
        until(is_over, 60, "the worker to end, or to be done")
        if crew.by_name[name].process.poll() is not None:
            aboard.append(Delivery.objects.in_states(State.SENDING).count())
            crew.by_name[name].end_lease()
    figures(f"held when a worker died of a delivery: {aboard}; {len(inbox.received())} requests for 120 others")
    assert len(aboard) == 3
    assert aboard[0] > 10
    [attempt] = Attempt.objects.filter(succeeded=False)
    assert (attempt.delivery.event_id, attempt.reason) == (pill.pk, ErrorKind.WORKER_ENDED.label)
    delivery = attempt.delivery
    assert (delivery.state, delivery.attempt_count, delivery.queued.failures) == (State.PENDING, 1, 0)
    assert succeeded() == 120
    assert len({one.headers["webhook-id"] for one in inbox.received()}) == 120
    assert not QueuedDelivery.objects.filter(lost_leases__gt=0).exists()


def test_workers_that_are_killed_cost_no_attempt_and_little_time(crew: Crew, inbox: Inbox, figures: Figures) -> None:
    webhook = make_webhook(Label, url=inbox.url("slow/0.02"))
    for number in range(COUNT):
        make_event(webhook, object_type="testapp.label", object_id=str(number))
    held = []
    for kill in range(3):
        name = crew.hire(LEASE=1.5, SWEEP_INTERVAL=0.3)
        inbox.wait_for(50 * (kill + 1))
        if kill < 2:
            crew.by_name[name].kill()
            held.append(Delivery.objects.in_states(State.SENDING).count())
    begun, left = time.monotonic(), COUNT - succeeded()
    until(lambda: succeeded() == COUNT, 60, "the last worker to deliver the rest")
    figures(f"killed with {held} held; then {left} delivered in {time.monotonic() - begun:.1f} s")
    assert not Attempt.objects.filter(succeeded=False).exists()
    assert {delivery.attempt_count for delivery in Delivery.objects.select_related("queued")} == {1}
    assert not QueuedDelivery.objects.exists()
