"""Deliveries are retried, resent and discarded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.support.draining import STATE, drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.models import Delivery, State, Webhook
from webhooks.operations import retries

pytestmark = pytest.mark.usefixtures("database")


def test_a_retry_sends_a_pending_delivery_now_and_keeps_its_schedule(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600, 7200], RETRY_JITTER=0)
    make_event(make_webhook(Thing, url=inbox.url("fail-first/1")))
    drain()
    assert (Delivery.objects.get().state, len(inbox.received())) == (State.PENDING, 1)
    drain()
    assert len(inbox.received()) == 1, "it waits for an hour"
    assert retries.retry(Delivery.objects.all()) == 1
    drain()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempt_count) == (State.SUCCEEDED, 2)


def test_a_resend_sends_a_succeeded_delivery_again_under_its_id_and_names_who_asked(inbox: Inbox) -> None:
    webhook, user = make_webhook(Thing, url=inbox.url()), User.objects.create_user("ann")
    for key in ("1", "2"):
        make_event(webhook, object_id=key)
    drain()
    first = Delivery.objects.order_by("event_id").first()
    assert first
    assert retries.resend(Delivery.objects.filter(pk=first.pk), user) == 1
    drain()
    assert len(inbox.received()) == 3
    before, again = [one for one in inbox.received() if one.headers["webhook-id"] == str(first.pk)]
    assert before.body == again.body
    assert "x-webhook-redelivery" not in before.headers
    assert again.headers["x-webhook-redelivery"] == "true"
    assert list(first.attempts.values_list("number", "requested_by")) == [(1, ""), (2, "ann")]
    assert states() == [State.SUCCEEDED, State.SUCCEEDED]


def test_resends_of_one_object_go_in_the_order_of_its_events(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    ids = [str(make_event(webhook).pk) for _ in range(5)]
    drain()
    assert retries.resend(Delivery.objects.order_by("-pk")) == 5
    ids.append(str(make_event(webhook).pk))  # a live change meanwhile
    drain()
    sequences = [str(one.json["sequence"]) for one in inbox.received()]
    assert sequences == ids[:5] + ids, "the change came after all resends"


@pytest.mark.parametrize("state", [State.WAITING, State.PENDING, State.SENDING, State.SUCCEEDED])
def test_deliveries_in_other_states_are_not_retried(state: State) -> None:
    make_delivery(make_webhook(Thing), state)
    assert retries.retry(Delivery.objects.all()) == 0
    assert Delivery.objects.get().state == state


def test_deliveries_of_a_lane_are_retried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_CHANGED", 3)
    webhook = make_webhook(Thing)
    deliveries = [make_delivery(webhook, State.FAILED) for _ in range(5)]
    assert [retries.retry(Delivery.objects.failed()) for _ in range(3)] == [3, 2, 0]
    states = dict(Delivery.objects.values_list("pk", STATE))
    assert [states[delivery.pk] for delivery in deliveries] == [State.PENDING, *[State.WAITING] * 4]


def test_a_retry_probes_a_paused_webhook_at_once() -> None:
    from django.utils import timezone

    webhook = make_webhook(Thing, probe_at=timezone.now() + timedelta(hours=1))
    make_delivery(webhook, State.FAILED)
    retries.retry(Delivery.objects.all())
    assert Webhook.objects.get().probe_at <= timezone.now()


def test_discarding_a_head_promotes_the_next_delivery() -> None:
    webhook = make_webhook(Thing)
    first, second = make_delivery(webhook, State.PENDING), make_delivery(webhook, State.WAITING)
    assert retries.discard(Delivery.objects.filter(pk=first.pk)) == 1
    states = dict(Delivery.objects.values_list("pk", STATE))
    assert (states[first.pk], states[second.pk]) == (State.DISCARDED, State.PENDING)
