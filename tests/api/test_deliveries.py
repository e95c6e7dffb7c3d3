"""Deliveries in the REST API."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from tests.support.draining import STATE
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.rest import (
    DELIVERIES,
    EVENTS,
    NOON,
    client_of,
    detail,
    listed,
    retry_many,
    selects,
)
from tests.testapp.models import Label, Thing
from users.models import User
from webhooks.models import BodyKind, Delivery, Event, Run, State
from webhooks.models.ids import first_id
from webhooks.testing import capture_webhooks, deliver

pytestmark = pytest.mark.one_database


def test_a_delivery_shows_its_event_its_payload_and_its_attempts(api: APIClient, inbox: Inbox) -> None:
    webhook = make_webhook(Label, url=inbox.url("status/500"), name="ledger")
    with capture_webhooks():
        label = Label.objects.create(name="red")
    deliver()
    delivery, event = Delivery.objects.get(), Event.objects.get()
    shown = api.get(detail(DELIVERIES, delivery.pk)).json()
    [attempt] = shown["attempts"]
    assert shown["payload"] == inbox.received()[0].json
    assert shown["webhook"] == {"id": webhook.pk, "name": "ledger"}
    assert shown["event"]["id"] == event.pk == shown["payload"]["sequence"]
    assert (shown["event"]["object_type"], shown["event"]["object_id"]) == ("testapp.label", str(label.pk))
    assert (shown["state"], shown["attempt_count"], shown["reason"]) == ("pending", 1, delivery.reason)
    assert shown["lost_leases"] == 0
    assert shown["next_attempt_at"] is not None
    assert (attempt["number"], attempt["status"], attempt["succeeded"]) == (1, 500, False)
    assert attempt["response_body"] == "this is 500"
    assert attempt["response_headers"]
    request = attempt["request"]
    assert json.loads(request["body"]) == shown["payload"]
    assert (request["method"], request["url"]) == ("POST", webhook.payload_url)
    assert request["headers"]["webhook-id"] == str(delivery.pk)


def test_a_list_of_deliveries_has_neither_payloads_nor_attempts(api: APIClient) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    [row] = api.get(DELIVERIES).json()["results"]
    whole = api.get(detail(DELIVERIES, delivery.pk)).json()
    assert set(whole) - set(row) == {"cause", "remedy", "payload", "attempts"}
    assert row["next_attempt_at"] is None


def test_deliveries_cannot_be_created_changed_or_deleted(api: APIClient) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    assert api.post(DELIVERIES, {}, format="json").status_code == 405
    for method in (api.put, api.patch, api.delete):
        assert method(detail(DELIVERIES, delivery.pk), {}, format="json").status_code == 405


@pytest.mark.parametrize("pk", ["nothing", "00000000-0000-0000-0000-000000000000", "-" * 36, "0" * 32])
def test_an_unknown_delivery_is_not_found(api: APIClient, pk: str) -> None:
    assert api.get(detail(DELIVERIES, pk)).status_code == 404
    assert api.post(detail(DELIVERIES, pk, "retry")).status_code == 404


def test_deliveries_are_filtered(api: APIClient) -> None:
    first, second = make_webhook(Thing), make_webhook(Thing)
    site = make_event(second, object_type="dcim.site", object_id="2", dispatched=True)
    old = make_delivery(first, State.FAILED, id=first_id(NOON))
    new = make_delivery(first, State.SUCCEEDED, object_id="2", id=first_id(NOON + timedelta(hours=2)))
    other = make_delivery(second, event=site, id=first_id(NOON + timedelta(hours=1)))

    def found(**parameters: Any) -> list[Delivery]:
        return [Delivery.objects.get(pk=pk) for pk in listed(api, DELIVERIES, **parameters)]

    assert found() == [new, other, old]
    assert found(state="failed") == [old]
    assert found(state=["failed", "pending"]) == [other, old]
    assert found(webhook=first.pk) == [new, old]
    assert found(object_type="dcim.Site") == [other]
    assert found(object_type="testapp.thing", object_id="2") == [new]
    assert found(created_after="2026-05-04T13:00:00Z") == [new, other]
    assert found(created_before="2026-05-04T13:00:00Z") == [old]
    assert found(created_after="2026-05-04T12:30:00Z", created_before="2026-05-04T15:30:00+02:00") == [other]
    assert found(webhook=first.pk, state="pending") == []
    Delivery.objects.filter(pk=new.pk).update(error_kind="refused")
    assert found(error_kind="refused") == [new]
    assert found(error_kind="http_404") == []
    assert found(webhook=10**9) == []


BAD_FILTERS = [
    ({"state": "broken"}, "state"),
    ({"state": ""}, "state"),
    ({"error_kind": "broken"}, "error_kind"),
    ({"webhook": "ledger"}, "webhook"),
    ({"webhook": ""}, "webhook"),
    ({"webhook": 10**30}, "webhook"),
    ({"created_after": "yesterday"}, "created_after"),
    ({"created_after": ""}, "created_after"),
    ({"object_type": ""}, "object_type"),
    ({"object_id": "1"}, "object_id"),
    ({"object_type": "dcim.site", "object_id": "\0"}, "object_id"),
]


@pytest.mark.parametrize(("parameters", "key"), BAD_FILTERS)
def test_an_invalid_filter_is_refused_by_lists_and_by_a_bulk_retry(
    committing: APIClient, parameters: Any, key: str
) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    listing = committing.get(f"{DELIVERIES}?{urlencode(parameters)}")
    bulk = retry_many(committing, None, **{"state": "failed"} | parameters)
    for answer in (listing, bulk):
        assert (answer.status_code, list(answer.json())) == (400, [key])
    assert states() == ["failed"]


@pytest.mark.usefixtures("in_utc")
@pytest.mark.parametrize(("time", "after", "before"), [("0001-01-01T00:00Z", 1, 0), ("9999-12-31T23:59:59Z", 0, 1)])
def test_a_time_before_or_after_all_ids_finds_all_rows_or_none(
    api: APIClient, time: str, after: int, before: int
) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    for url in (DELIVERIES, EVENTS):
        assert len(api.get(f"{url}?created_after={time}").json()["results"]) == after
        assert len(api.get(f"{url}?created_before={time}").json()["results"]) == before


@pytest.mark.cost
def test_one_delivery_takes_three_queries_and_shows_a_hundred_attempts(api: APIClient) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    for number in range(105):
        make_attempt(delivery, number=number, body_kind=BodyKind.TEMPLATE)
    with CaptureQueriesContext(connection) as queries:
        shown = api.get(detail(DELIVERIES, delivery.pk)).json()
    assert [attempt["number"] for attempt in shown["attempts"]] == list(range(104, 4, -1))
    assert len(selects(queries)) == 3


@pytest.mark.parametrize("state", [State.FAILED, State.DISCARDED])
def test_a_failed_or_discarded_delivery_is_sent_again(api: APIClient, state: str, inbox: Inbox) -> None:
    delivery = make_delivery(make_webhook(Thing, url=inbox.url()), state)
    answer = api.post(detail(DELIVERIES, delivery.pk, "retry"))
    assert (answer.status_code, answer.json()["state"]) == (200, "pending")
    assert answer.json()["finished_at"] is None
    [attempt] = deliver()
    assert attempt.succeeded
    assert inbox.received()[0].headers["webhook-id"] == str(delivery.pk)


@pytest.mark.parametrize("state", [State.WAITING, State.PENDING, State.SENDING, State.SUCCEEDED])
def test_other_deliveries_cannot_be_retried(api: APIClient, state: str) -> None:
    delivery = make_delivery(make_webhook(Thing), state)
    answer = api.post(detail(DELIVERIES, delivery.pk, "retry"))
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        f"Delivery {delivery.pk} is {state.value}. You can only retry a failed or discarded delivery, "
        "or one between attempts, of a webhook that is not deleted."
    )


@pytest.mark.parametrize("state", [State.WAITING, State.PENDING, State.FAILED])
def test_a_waiting_pending_or_failed_delivery_can_be_discarded(api: APIClient, state: str) -> None:
    delivery = make_delivery(make_webhook(Thing), state)
    answer = api.post(detail(DELIVERIES, delivery.pk, "discard"))
    assert (answer.status_code, answer.json()["state"]) == (200, "discarded")


@pytest.mark.parametrize("state", [State.SENDING, State.SUCCEEDED, State.DISCARDED])
def test_other_deliveries_cannot_be_discarded(api: APIClient, state: str) -> None:
    delivery = make_delivery(make_webhook(Thing), state)
    answer = api.post(detail(DELIVERIES, delivery.pk, "discard"))
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith(
        f" is {state.value}. You can only discard a waiting, pending or failed delivery."
    )


def states() -> list[str]:
    return list(Delivery.objects.order_by("event_id").values_list(STATE, flat=True))


def test_a_bulk_retry_sends_all_failed_deliveries_that_the_filters_choose(api: APIClient) -> None:
    chosen, other = make_webhook(Thing), make_webhook(Thing)
    for number, webhook in enumerate([chosen, chosen, other]):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    make_delivery(chosen, State.SUCCEEDED, object_id="4")
    answer = retry_many(api, webhook=chosen.pk)
    assert (answer.status_code, answer.json()) == (200, {"retried": 2, "run": None, "superseded": 0})
    assert states() == ["pending", "pending", "failed", "succeeded"]


def test_a_bulk_retry_sends_discarded_deliveries_only_on_request(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.DISCARDED, object_id="1")
    make_delivery(webhook, State.FAILED, object_id="2")
    assert retry_many(api, webhook=webhook.pk).json() == {"retried": 1, "run": None, "superseded": 0}
    assert retry_many(api, webhook=webhook.pk, state=["discarded", "failed"]).json() == {
        "retried": 1,
        "run": None,
        "superseded": 0,
    }
    assert states() == ["pending", "pending"]


@pytest.mark.parametrize(
    ("parameters", "body", "message"),
    [
        ({}, None, "Give at least one filter as a query parameter: state, webhook, error_kind"),
        ({"format": "json"}, None, "Give at least one filter as a query parameter"),
        ({"webhook": 1}, {"state": "failed"}, "This takes no body: the URL says all."),
    ],
)
def test_a_bulk_retry_without_a_filter_or_with_a_body_is_refused(
    committing: APIClient, parameters: Any, body: Any, message: str
) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    answer = retry_many(committing, body, **parameters)
    assert answer.status_code == 400
    assert message in answer.json()[0]
    assert states() == ["failed"]


@pytest.mark.parametrize(("deed", "told"), [("retry", "Retried."), ("discard", "Discarded.")])
def test_the_history_records_who_retried_or_discarded_a_delivery(db: None, deed: str, told: str) -> None:
    api = client_of("view_delivery", f"{deed}_delivery")
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    assert api.post(detail(DELIVERIES, delivery.pk, deed)).status_code == 200
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.change_message, entry.user) == (str(delivery.pk), told, User.objects.get())
    api.post(detail(DELIVERIES, delivery.pk, deed))
    assert LogEntry.objects.count() == 1, "it changed nothing"


@pytest.mark.parametrize("chosen", [{"state": "succeeded"}, {"webhook": 4711}, {"action": "painted"}])
def test_a_bulk_retry_that_can_take_nothing_is_refused(api: APIClient, chosen: dict[str, Any]) -> None:
    make_delivery(make_webhook(Thing), State.SUCCEEDED)
    answer = retry_many(api, **chosen)
    assert (answer.status_code, answer.json().keys()) == (400, chosen.keys())


def test_superseded_deliveries_are_marked_and_left_out_of_a_bulk_retry(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    old, new = make_delivery(webhook, State.FAILED), make_delivery(webhook, State.SUCCEEDED)
    found = {one["id"]: one["superseded"] for one in api.get(DELIVERIES).json()["results"]}
    assert found == {str(old.pk): True, str(new.pk): False}
    assert api.get(f"{DELIVERIES}{old.pk}/").json()["superseded"] is True
    assert retry_many(api, webhook=webhook.pk).json() == {"retried": 0, "run": None, "superseded": 1}
    body = {"kind": "retry", "filters": {"webhook": webhook.pk}, "superseded": True, "dry_run": True}
    assert api.post("/api/webhooks/runs/", body, format="json").json()["count"] == 1
    assert api.post(f"{DELIVERIES}{old.pk}/retry/").json()["superseded"] is False, "it is pending now"


def test_a_bulk_retry_of_many_begins_a_run(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.operations.runs.AT_ONCE", 2)
    webhook = make_webhook(Thing)
    for key in range(3):
        make_delivery(webhook, State.FAILED, object_id=str(key))
    answer = retry_many(api, webhook=webhook.pk, object_type="testapp.thing")
    run = Run.objects.get()
    assert (answer.status_code, answer.json()) == (202, {"retried": 0, "run": run.pk, "superseded": 0})
    assert run.filters == {"webhook": webhook.pk, "object_type": "testapp.thing"}
    assert states() == ["failed"] * 3


@pytest.mark.django_db
@pytest.mark.parametrize(("deed", "other"), [("retry", "discard"), ("discard", "retry")])
def test_viewing_does_not_imply_retrying_or_discarding(deed: str, other: str) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    url = detail(DELIVERIES, delivery.pk, deed)
    assert client_of("view_delivery", f"{other}_delivery").post(url).status_code == 403
    assert client_of(f"{deed}_delivery").post(url).status_code == 403
    assert states() == ["failed"]
    assert client_of("view_delivery", f"{deed}_delivery").post(url).status_code == 200


def test_a_bulk_retry_requires_the_permission_to_retry(database: str) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    assert retry_many(client_of("view_delivery", "discard_delivery"), state="failed").status_code == 403
    assert retry_many(client_of("view_delivery", "retry_delivery"), state="failed").status_code == 200


def test_a_bulk_retry_with_a_repeated_filter_is_refused(committing: APIClient) -> None:
    first, second = make_webhook(Thing), make_webhook(Thing)
    make_delivery(first, State.FAILED)
    make_delivery(second, State.FAILED)
    answer = retry_many(committing, webhook=[first.pk, second.pk])
    assert (answer.status_code, answer.json()) == (400, {"webhook": ["Give it once."]})
    assert Delivery.objects.failed().count() == 2
