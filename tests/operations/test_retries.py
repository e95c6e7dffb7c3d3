"""Deliveries are retried, resent and discarded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.support.draining import STATE, drain, finished, states
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.models import Delivery, State, Webhook
from webhooks.operations import kinds, retries, runs

pytestmark = pytest.mark.usefixtures("database")


def test_a_retry_sends_a_pending_delivery_now_and_keeps_its_schedule(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600, 7200], RETRY_JITTER=0)
    make_event(make_webhook(Thing, url=inbox.url("fail-first/1")))
    drain()
    assert (Delivery.objects.get().state, len(inbox.received())) == (State.PENDING, 1)
    drain()
    assert len(inbox.received()) == 1, "it waits for an hour"
    assert kinds.RETRY.perform(Delivery.objects.all()) == 1
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
    assert kinds.RESEND.perform(Delivery.objects.filter(pk=first.pk), user) == 1
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
    assert kinds.RESEND.perform(Delivery.objects.order_by("-pk")) == 5
    ids.append(str(make_event(webhook).pk))  # a live change meanwhile
    drain()
    sequences = [str(one.json["sequence"]) for one in inbox.received()]
    assert sequences == ids[:5] + ids, "the change came after all resends"


def test_of_too_many_deliveries_the_first_of_a_lane_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_CHANGED", 3)
    webhook = make_webhook(Thing)
    for _ in range(5):
        make_delivery(webhook, State.FAILED)
    assert kinds.RETRY.perform(Delivery.objects.order_by("-pk")) == 3
    assert states() == [State.PENDING, State.WAITING, State.WAITING, State.FAILED, State.FAILED]


@pytest.mark.parametrize(("change", "is_probed"), [(kinds.RETRY.perform, True), (kinds.DISCARD.perform, False)])
def test_a_retry_probes_a_paused_webhook_and_a_discard_does_not(change: Any, is_probed: bool) -> None:
    later = timezone.now() + timedelta(hours=1)
    make_delivery(make_webhook(Thing, probe_at=later, failures_in_a_row=9), State.FAILED)
    assert change(Delivery.objects.all()) == 1
    assert (Webhook.objects.get().probe_at < later) is is_probed


@pytest.mark.parametrize("state", [State.WAITING, State.PENDING, State.SENDING, State.SUCCEEDED])
def test_deliveries_in_other_states_are_not_retried(state: State) -> None:
    make_delivery(make_webhook(Thing), state)
    assert kinds.RETRY.perform(Delivery.objects.all()) == 0
    assert Delivery.objects.get().state == state


def test_deliveries_of_a_lane_are_retried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_CHANGED", 3)
    webhook = make_webhook(Thing)
    deliveries = [make_delivery(webhook, State.FAILED) for _ in range(5)]
    assert [kinds.RETRY.perform(Delivery.objects.failed()) for _ in range(3)] == [3, 2, 0]
    states = dict(Delivery.objects.values_list("pk", STATE))
    assert [states[delivery.pk] for delivery in deliveries] == [State.PENDING, *[State.WAITING] * 4]


def test_an_old_state_that_was_given_up_is_sent_before_a_new_one_that_was_not_accepted(
    inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[], PAUSE_AFTER=99)
    webhook = make_webhook(Thing, url=inbox.url("status/503"))
    old = make_event(webhook)
    drain()
    webhooks_settings(RETRY_SCHEDULE=[3600])
    new = make_event(webhook)
    drain()
    assert states() == [State.FAILED, State.PENDING]
    Webhook.objects.update(payload_url=inbox.url("ok/mended"))  # the receiver is mended
    assert kinds.RETRY.perform(Delivery.objects.failed()) == 1
    drain()
    assert [one.json["sequence"] for one in inbox.received("ok/mended")] == [old.pk, new.pk]


def test_a_failed_delivery_is_superseded_by_a_later_state_that_was_accepted() -> None:
    webhook, other = make_webhook(Thing), make_webhook(Thing)
    unordered = make_webhook(Thing, ordered=False)
    superseded = make_delivery(webhook, State.FAILED)
    make_delivery(webhook, State.FAILED, event=make_event(webhook, action="counted", dispatched=True))  # no state
    discarded = make_delivery(webhook, State.DISCARDED)
    for one, key in ((other, "1"), (webhook, "2"), (unordered, "1")):
        make_delivery(one, State.FAILED, object_id=key)
    assert not Delivery.objects.all().superseded().exists()
    make_delivery(webhook, State.SUCCEEDED, event=make_event(webhook, action="counted", dispatched=True))
    make_delivery(webhook, State.FAILED)
    assert not Delivery.objects.all().superseded().exists(), "a custom event is no state"
    make_delivery(unordered, State.SUCCEEDED)
    make_delivery(webhook, State.SUCCEEDED)
    failed_later = make_delivery(webhook, State.FAILED)
    found = {one.pk for one in Delivery.objects.all().superseded()}
    assert superseded.pk in found
    assert len(found) == 2
    assert not found & {discarded.pk, failed_later.pk}
    shown = {one.pk for one in Delivery.objects.for_list() if one.superseded}
    assert shown == found == {one.pk for one in Delivery.objects.all() if one.superseded}


@pytest.mark.sqlite
def test_sqlite_looks_for_a_later_state_in_one_lane_only() -> None:
    plan = Delivery.objects.all().superseded().explain()
    assert "later USING INDEX rq_webhooks_delivery_lane (webhook_id=? AND lane=? AND event_id>?)" in plan


@pytest.mark.parametrize("kind", ["retry", "resend", "recover"])
def test_superseded_deliveries_are_sent_on_demand_only(kind: str) -> None:
    webhook = make_webhook(Thing, enabled=False)
    for key in ("1", "2"):
        make_delivery(webhook, State.FAILED, object_id=key)
    make_delivery(webhook, State.SUCCEEDED)
    filters = {"webhook": webhook.pk} | ({"state": ["failed"]} if kind != "recover" else {})
    if kind == "recover":
        filters["created_after"] = "2026-01-01T00:00:00+00:00"
    found = runs.preview(kind, filters)
    assert (found.count, found.superseded) == (1, 1)
    assert found.note == "It leaves out 1 superseded delivery: its receiver has a later state of the object."
    assert finished(runs.start(kind, filters)).done == 1
    assert states() == [State.FAILED, State.PENDING, State.SUCCEEDED]
    found = runs.preview(kind, filters | {"superseded": True})
    assert (found.count, found.superseded) == (1, 0)
    assert finished(runs.start(kind, filters | {"superseded": True})).done == 1
    assert states() == [State.PENDING, State.PENDING, State.SUCCEEDED]


def test_a_retry_probes_a_paused_webhook_at_once() -> None:
    from django.utils import timezone

    webhook = make_webhook(Thing, probe_at=timezone.now() + timedelta(hours=1))
    make_delivery(webhook, State.FAILED)
    kinds.RETRY.perform(Delivery.objects.all())
    assert Webhook.objects.get().probe_at <= timezone.now()


def test_discarding_a_head_promotes_the_next_delivery() -> None:
    webhook = make_webhook(Thing)
    first, second = make_delivery(webhook, State.PENDING), make_delivery(webhook, State.WAITING)
    assert kinds.DISCARD.perform(Delivery.objects.filter(pk=first.pk)) == 1
    states = dict(Delivery.objects.values_list("pk", STATE))
    assert (states[first.pk], states[second.pk]) == (State.DISCARDED, State.PENDING)
