"""What rows store in fewer bytes than they say, and the rows that a delivery writes."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.draining import drain, states, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import retention
from webhooks.delivery.dispatch import insert_for
from webhooks.ground.db import fetch_all, to_utc
from webhooks.ground.text.redaction import REDACTED
from webhooks.models import Attempt, Delivery, Event, State, Undispatched
from webhooks.models.attempt import pack_headers, unpack_headers
from webhooks.models.ids import delivery_id
from webhooks.models.worker import in_worker_transaction
from webhooks.operations import kinds

pytestmark = pytest.mark.usefixtures("database")

PK = uuid.UUID("01a22cd6-6fc5-78d1-bb4e-9ea6c8e3353e")
USUAL = {
    "Content-Type": "application/json",
    "User-Agent": "django-rq-webhooks",
    "webhook-id": str(PK),
    "webhook-timestamp": "1796048590",
    "webhook-signature": REDACTED,
    "X-Hook-Signature": REDACTED,
    "X-Webhook-Depth": "1",
}
ODD = {
    "a:b\\n\n": "x:\\c\n\\",
    "": "",
    "webhook-id": "another",
    "webhook-timestamp": "",
    "content-type": "application/json",
    "X-Webhook-Depth": "2",
    "c": "no letter",
}


@pytest.mark.parametrize("headers", [{}, USUAL, ODD, dict(reversed(USUAL.items()))])
def test_packed_headers_come_back_as_they_were_sent(headers: dict[str, str]) -> None:
    found = unpack_headers(pack_headers(headers, str(PK)), PK)
    assert list(found.items()) == list(headers.items())


@pytest.mark.cost
def test_the_usual_headers_take_a_few_bytes() -> None:
    assert len(pack_headers(USUAL, str(PK))) == 23


def test_a_request_is_recorded_with_its_headers_in_their_order(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url(), secret="s3cret", additional_headers="X-Team: ops"))
    drain()
    sent, attempt = inbox.received()[0], Attempt.objects.get()
    stored = attempt.request_headers
    assert set(stored) >= {"Content-Type", "X-Team", "webhook-id", "webhook-timestamp", "X-Hook-Signature"}
    assert {name: sent.headers[name.lower()] for name, value in stored.items() if value != REDACTED} == {
        name: value for name, value in stored.items() if value != REDACTED
    }
    assert attempt.response_headers["Content-Length"] == "2"


TEXTS = ["", "{}", '{"a":1}', "\x01", json.dumps({"name": "é" * 2000}), json.dumps({"id": 7, "tags": ["x"] * 900})]


@pytest.mark.parametrize("text", TEXTS)
def test_packed_texts_come_back_as_they_were(text: str) -> None:
    new = make_event(data=text, snapshots=text)
    Event.insert_all([Event(action="updated", object_id="1", data=text, request=text)], "default")
    Event(action="updated", object_id="1", data=text, context=text).insert("default")
    first, second, third = Event.objects.order_by("pk")
    assert (first.pk, first.data, first.snapshots) == (new.pk, text, text)
    assert (second.data, second.request) == (third.data, third.context) == (text, text)
    assert Event.objects.filter(data="").count() == (3 if text == "" else 0)


@pytest.mark.postgresql
def test_the_data_of_a_usual_event_shrink_to_a_third() -> None:
    data = json.dumps(
        {"id": 7, "url": "/api/dcim/sites/7/", "display": "AMS1", "name": "AMS1", "slug": "ams1", "description": "",
         "status": {"value": "active", "label": "Active"}, "tenant": None, "tags": [], "custom_fields": {},
         "created": "2026-11-30T14:22:58.507312Z", "last_updated": "2026-11-30T14:23:00.461772Z"},
        separators=(",", ":"),
    )  # fmt: skip
    make_event(data=data)
    [(size,)] = fetch_all("default", "SELECT octet_length(data) FROM rq_webhooks_event")
    assert size < len(data) / 3


@pytest.mark.cost
def test_a_success_at_once_changes_no_row_of_the_history(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    with CaptureQueriesContext(connection) as captured:
        drain()
    written = [one["sql"] for one in captured if "UPDATE rq_webhooks_delivery" in one["sql"]]
    delivery = Delivery.objects.get()
    assert (written, delivery.state, delivery.attempt_count) == ([], State.SUCCEEDED, 1)
    attempt = Attempt.objects.get()
    assert delivery.finished_at is not None
    assert abs((to_utc(delivery.finished_at) - to_utc(attempt.started_at)).total_seconds()) < 60
    [listed] = Delivery.objects.for_list()
    assert listed.finished_at == delivery.finished_at


def test_a_delivery_that_succeeded_at_once_and_is_sent_again_counts_both_attempts(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    drain()
    assert kinds.RESEND.perform(Delivery.objects.all()) == 1
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempt_count, delivery.finished_at) == (State.PENDING, 1, None)
    drain()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempt_count) == (State.SUCCEEDED, 2)
    assert list(delivery.attempts.values_list("number", flat=True)) == [1, 2]


def test_a_discarded_delivery_that_is_retried_succeeds(inbox: Inbox) -> None:
    delivery = make_delivery(make_webhook(Thing, url=inbox.url()))
    assert Delivery.objects.all().discard() == 1
    assert kinds.RETRY.perform(Delivery.objects.all()) == 1
    drain()
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.outcome, delivery.attempt_count) == (State.SUCCEEDED, "succeeded", 1)


def test_an_event_that_an_operator_has_put_back_keeps_out_no_other(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    event = make_event(webhook)
    drain()
    Undispatched.objects.create(event=event)
    make_event(webhook, object_id="2")
    drain()
    assert (states(), len(inbox.received())) == ([State.SUCCEEDED] * 2, 2)
    assert not Undispatched.objects.exists()


def test_a_success_at_once_is_kept_for_as_long_as_its_attempt_says() -> None:
    webhook = make_webhook(Thing)
    for days, ended in ((1000, 1000), (1000, 0)):
        begun, moment = (timezone.now() - timedelta(days=one) for one in (days, ended))
        event = make_event(webhook, object_id=f"{ended}", dispatched=True, timestamp=begun)
        delivery = make_delivery(webhook, State.SUCCEEDED, event=event, id=delivery_id(begun, event.pk, webhook.pk))
        Delivery.objects.filter(pk=delivery.pk).update(noted_end=None)
        make_attempt(delivery, started_at=moment, succeeded=True)
    assert sweep_step(retention.purge_ended, State.SUCCEEDED) == 1
    assert Delivery.objects.get().event.object_id == "0"


@pytest.mark.postgresql
def test_retention_deletes_no_event_while_a_backfill_makes_deliveries() -> None:
    webhook, event = make_webhook(Thing), make_event(dispatched=True)
    with transaction.atomic():
        assert insert_for(webhook, [event]) == 1
        deleted = Beside(
            lambda: in_worker_transaction("default", lambda: retention.purge(Delivery.objects.order_by(), 9))
        )
        assert deleted.join() == 0
    assert states() == [State.PENDING]


@pytest.mark.postgresql
def test_a_backfill_makes_no_delivery_of_an_event_that_retention_has_deleted() -> None:
    webhook, event = make_webhook(Thing), make_event(dispatched=True)
    Event.objects.filter(pk=event.pk).delete()
    assert in_worker_transaction("default", lambda: insert_for(webhook, [event])) == 0
    assert not Delivery.objects.exists()


def test_an_attempt_that_is_there_already_does_not_stop_the_next(inbox: Inbox) -> None:
    delivery = make_delivery(make_webhook(Thing, url=inbox.url()))
    make_attempt(delivery)
    drain()
    assert (states(), list(delivery.attempts.values_list("number", flat=True))) == ([State.SUCCEEDED], [1, 2])
