"""Workers that are stopped for longer than their lease, and workers that are only slow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos import claims
from tests.chaos.crew import Crew
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.waiting import until
from tests.testapp.models import Label
from webhooks.models import Attempt, Delivery, State

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]


def succeeded() -> int:
    return Delivery.objects.in_states(State.SUCCEEDED).count()


def rows() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in (Delivery, Attempt)]


def test_a_worker_that_wakes_up_after_its_lease_overwrites_nothing_and_sends_nothing_stale(
    crew: Crew, inbox: Inbox, figures: Figures
) -> None:
    webhook = make_webhook(Label, url=inbox.url("slow/5"), timeout=60)
    for number in range(8):
        make_event(webhook, object_type="testapp.label", object_id=str(number))
    stalled = crew.hire(LEASE=2, SWEEP_INTERVAL=0.5)
    inbox.wait_for(2)
    crew.by_name[stalled].freeze()
    try:
        held = len(claims.held(stalled))
        done = succeeded()
        webhook.payload_url = inbox.url("ok")
        webhook.save()
        other = crew.hire(SWEEP_INTERVAL=0.5)
        until(lambda: succeeded() == 8, 30, "the other worker to deliver all of it")
        crew.by_name[other].stop()
        before, sent = rows(), len(inbox.received())
    finally:
        crew.by_name[stalled].thaw()
    # Once it delivers something new, it is awake and has finished its old claims.
    event = make_event(webhook, object_type="testapp.label", object_id="new")
    until(lambda: succeeded() == 9, 30, "the one that was stopped to go on")
    crew.by_name[stalled].stop()
    new = [one for one in inbox.received()[sent:] if one.json["sequence"] != event.pk]
    figures(f"stopped with {held} claims, {done} recorded; sent {len(new)} stale ones after it woke up")
    assert held > 2, "it held more than it had sent"
    Delivery.objects.filter(event=event).delete()
    assert rows() == before, "it overwrote something"
    assert not new, "what others have delivered meanwhile is not sent again"


def test_a_slow_but_living_worker_keeps_its_claims(crew: Crew, inbox: Inbox, figures: Figures) -> None:
    webhook = make_webhook(Label, url=inbox.url("slow/8"), timeout=60)
    for number in range(2):
        make_event(webhook, object_type="testapp.label", object_id=str(number))
    for _ in range(2):
        crew.hire(LEASE=5, SWEEP_INTERVAL=0.5)
    until(lambda: succeeded() == 2, 40, "all to be delivered")
    figures(f"{len(inbox.received())} requests of 8 s each for 2 deliveries, lease 5 s, 2 workers")
    assert len(inbox.received()) == 2
    assert [delivery.attempt_count for delivery in Delivery.objects.select_related("queued")] == [1] * 2
