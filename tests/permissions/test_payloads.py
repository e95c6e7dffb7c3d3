"""Without ``read_payload_event`` a user sees neither data of objects nor bodies of requests and responses."""

from __future__ import annotations

import hashlib
import json
import zlib

import pytest
from django.contrib.contenttypes.models import ContentType
from django.urls import reverse

from dcim.models import Site
from tests.support.admin_pages import page
from tests.support.answers import API, answers
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.users import ALL_PERMISSIONS, api_client, browser, make_user
from webhooks.ground import payloads
from webhooks.models import Body, BodyKind, Delivery

pytestmark = [pytest.mark.one_database, pytest.mark.usefixtures("db", "redis")]

PLACES = ("Datamark", "Beforemark", "Aftermark", "Outputmark", "Requestmark", "Bodymark", "Answermark", "Valuemark")
ALL_BUT_PAYLOADS = tuple(name for name in ALL_PERMISSIONS if name != "read_payload_event")


@pytest.fixture
def delivery() -> Delivery:
    """A delivery and its event, with a mark in each place of the payload, in the bodies and in a skip."""
    webhook = make_webhook(Site, name="Chat", serializer="short")
    data, output = json.dumps({"id": 1, "name": "Datamark"}), json.dumps({"name": "Outputmark"})
    event = make_site_event(
        1, "AMS1", action="updated", changed='["name"]', data=data, webhook_ids=[webhook.pk],
        snapshots=json.dumps({"prechange": {"name": "Beforemark"}, "postchange": {"name": "Aftermark"}}),
        serializers=json.dumps({"short": {"webhooks": [webhook.pk], "data": output}, "": {"webhooks": []}}),
        request=json.dumps({"path": "/Requestmark"}),
    )  # fmt: skip
    delivery = make_site_delivery(webhook, event=event, reason="HTTP 503", error_kind="http_503")
    body = b"Bodymark"
    Body.objects.create(delivery=delivery, sha256=hashlib.sha256(body).hexdigest(), content=zlib.compress(body))
    sent = {"body_kind": BodyKind.TEMPLATE, "body_sha256": hashlib.sha256(body).hexdigest()}
    make_attempt(delivery, response_headers={"X": "Y"}, response_body="Answermark", **sent)
    plain = payloads.json_body(payloads.as_sent_to(event, webhook.pk))
    make_attempt(delivery, number=2, body_kind=BodyKind.PAYLOAD, body_sha256=hashlib.sha256(plain).hexdigest())
    make_site_skip(webhook, actual="Valuemark")
    return delivery


def marks(found: dict[str, str]) -> dict[str, list[str]]:
    """The marks on each page and in each response that has some."""
    return {
        address: seen for address, said in found.items() if (seen := [mark for mark in PLACES if mark in said])
    }  # fmt: skip


def test_no_page_and_no_response_shows_a_payload(delivery: Delivery) -> None:
    assert marks(answers(make_user(*ALL_BUT_PAYLOADS), delivery)) == {}
    seen = marks(answers(make_user(*ALL_PERMISSIONS), delivery))
    assert {mark for found in seen.values() for mark in found} == set(PLACES), "each mark is where the test looks"


def test_the_pages_name_the_permission_that_shows_more(delivery: Delivery) -> None:
    client = browser(make_user(*ALL_BUT_PAYLOADS))
    for row, count in ((delivery, 3), (delivery.event, 2)):
        said = page(client, reverse(f"admin:rq_webhooks_{row._meta.model_name}_change", args=[row.pk]))
        assert said.count("shown to users who may view payloads (rq_webhooks.read_payload_event)") == count


def test_the_api_has_null_instead(delivery: Delivery) -> None:
    api = api_client(make_user(*ALL_BUT_PAYLOADS))
    one = api.get(f"{API}/deliveries/{delivery.pk}/").json()
    assert one["payload"] is None
    assert [(attempt["request"]["body"], attempt["response_body"]) for attempt in one["attempts"]] == [(None, None)] * 2
    assert one["attempts"][1]["response_headers"] == {"X": "Y"}
    event = api.get(f"{API}/events/{delivery.event_id}/").json()
    assert [event[name] for name in ("data", "snapshots", "serializers", "request")] == [None] * 4
    assert event["changed"] == ["name"]


def test_conditions_are_not_tried_on_payloads(delivery: Delivery) -> None:
    address = reverse("admin:rq_webhooks_webhook_condition_preview")
    asked = {"on_updated": "on", "object_types": [ContentType.objects.get_for_model(Site).pk], "conditions": ""}
    said = [
        browser(make_user(*names)).post(address, asked).json()["text"] for names in (ALL_BUT_PAYLOADS, ALL_PERMISSIONS)
    ]
    assert said == [
        "To try the filters on stored events, you need the permission rq_webhooks.read_payload_event.",
        "Tried on the last event: 1 would have been sent, 0 would not.",
    ]
