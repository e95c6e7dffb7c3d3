"""Events and skips in the REST API."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from tests.support import makers
from tests.support.makers import make_site_skip, make_webhook
from tests.support.rest import (
    DELIVERIES,
    EVENTS,
    NOON,
    WEBHOOKS,
    client_of,
    detail,
    listed,
)
from tests.testapp.models import Thing
from webhooks import actor
from webhooks.models import Event
from webhooks.models.ids import first_id
from webhooks.testing import capture_webhooks


def test_a_failed_event_shows_its_error(api: APIClient) -> None:
    made = Event.objects.create(action="created", object_type="dcim.site", object_id="1", error="Traceback: broken")
    [row] = api.get(EVENTS).json()["results"]
    whole = api.get(detail(EVENTS, made.pk)).json()
    assert row["error"] == whole["error"] == "Traceback: broken"
    assert (whole["data"], whole["snapshots"], whole["request"]) == (None, None, None)


def test_an_event_shows_its_data_and_its_request(api: APIClient) -> None:
    with capture_webhooks() as captured:
        api.post("/api/tenancy/tenants/", {"name": "ACME", "slug": "acme"}, format="json")
    [event] = captured
    shown = api.get(detail(EVENTS, Event.objects.get().pk)).json()
    assert shown["data"] == event.data
    assert (shown["action"], shown["object_type"], shown["object_repr"]) == ("created", "tenancy.tenant", "ACME")
    assert shown["request"]["path"] == "/api/tenancy/tenants/"
    assert shown["snapshots"]["postchange"]["name"] == "ACME"


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF"])
def test_half_of_a_surrogate_pair_in_stored_text_is_no_server_error(api: APIClient, half: str) -> None:
    """``dumps`` stores none, but a host may write rows by itself."""
    text = f'{{"name":"a{half}b"}}'
    webhook = make_webhook(Thing)
    event = makers.make_event(
        webhook, data=text, snapshots=f'{{"prechange":null,"postchange":{text}}}', request=text,
        serializers=json.dumps({"other": {"webhooks": [], "data": text}}),
    )  # fmt: skip
    delivery = makers.make_delivery(webhook, event=event)
    clean = {"name": "a\ufffdb"}
    shown = api.get(f"{EVENTS}{event.pk}/").json()
    assert (shown["data"], shown["request"], shown["serializers"]["other"]["data"]) == (clean, clean, clean)
    assert api.get(f"{DELIVERIES}{delivery.pk}/").json()["payload"]["data"] == clean


def test_events_are_filtered(api: APIClient) -> None:
    good = Event.objects.create(action="created", object_type="dcim.site", object_id="1")
    bad = Event.objects.create(action="created", object_type="dcim.rack", object_id="1", error="broken")
    assert listed(api, EVENTS) == [bad.pk, good.pk]
    assert listed(api, EVENTS, failed="true") == [bad.pk]
    assert listed(api, EVENTS, failed="false") == [good.pk]
    assert listed(api, EVENTS, object_type="dcim.site", object_id="1") == [good.pk]
    assert api.get(EVENTS, {"failed": "perhaps"}).status_code == 400
    assert api.get(EVENTS, {"object_id": "1"}).status_code == 400


def test_events_cannot_be_changed(api: APIClient) -> None:
    made = Event.objects.create(action="created", object_type="dcim.site", object_id="1")
    assert api.post(EVENTS, {}, format="json").status_code == 405
    assert api.delete(detail(EVENTS, made.pk)).status_code == 405


def test_the_skips_of_a_webhook_are_listed_with_what_said_no(api: APIClient) -> None:
    webhook, other = make_webhook(Thing, conditions={"attr": "status", "value": "retired"}), make_webhook(Thing)
    with actor("robot", request_id="r1"):
        thing = Thing.objects.create(name="a")
    [shown] = api.get(detail(WEBHOOKS, webhook.pk, "skips")).json()["results"]
    assert shown | {"id": "", "timestamp": ""} == {
        "id": "", "timestamp": "", "action": "created", "object_type": "testapp.thing", "object_id": str(thing.pk),
        "object_repr": "a", "username": "robot", "request_id": "r1", "rule": "condition",
        "detail": {"path": "status", "operator": "eq", "expected": "retired", "actual": "active"},
        "reason": 'The condition wants status eq "retired". It was "active".',
    }  # fmt: skip
    assert listed(api, detail(WEBHOOKS, other.pk, "skips")) == []
    assert api.get(detail(WEBHOOKS, 0, "skips")).status_code == 404
    assert api.post(detail(WEBHOOKS, webhook.pk, "skips"), {}, format="json").status_code == 405


def test_skips_are_filtered_and_paged(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    skips = [make_site_skip(webhook, key) for key in range(3)]
    ignored = make_site_skip(webhook, 1, rule="ignored_user", detail="{}")
    url = detail(WEBHOOKS, webhook.pk, "skips")
    assert listed(api, url, rule="ignored_user") == [str(ignored.pk)]
    assert set(listed(api, url, object_type="dcim.site", object_id="1")) == {str(skips[1].pk), str(ignored.pk)}
    for given in ({"action": "deleted"}, {"user": "ann"}, {"request_id": "r-1"}, {"name": "Porto"}):
        assert listed(api, url, **given) == []
    deleted = make_site_skip(
        webhook, 4, action="deleted", username="ann", request_id="r-1", object_repr="Porto", id=first_id(NOON)
    )
    for given in ({"action": "deleted"}, {"user": "ann"}, {"request_id": "r-1"}, {"name": "porto"}):
        assert listed(api, url, **given) == [str(deleted.pk)]
    assert listed(api, url, created_before=(NOON + timedelta(hours=1)).isoformat()) == [str(deleted.pk)]
    deleted.delete()
    for wrong in ({"rule": "mood"}, {"object_id": "1"}, {"webhook": "1"}, {"limit": "0"}):
        assert api.get(url, wrong).status_code == 400
    pages = [api.get(url, {"limit": 3}).json()]
    pages.append(api.get(pages[0]["next"]).json())
    assert [len(one["results"]) for one in pages] == [3, 1]
    assert {one["id"] for page in pages for one in page["results"]} == {str(one.pk) for one in (*skips, ignored)}


@pytest.mark.one_database
@pytest.mark.django_db
def test_only_users_who_may_view_payloads_see_the_value_that_a_condition_found() -> None:
    webhook = make_webhook(Thing)
    make_site_skip(webhook, actual="xyzzy")
    url = detail(WEBHOOKS, webhook.pk, "skips")
    assert client_of("view_skip").get(url).status_code == 404
    assert client_of("view_webhook").get(url).status_code == 403
    assert "xyzzy" not in client_of("view_webhook", "view_skip").get(url).content.decode()
    assert client_of("view_webhook", "view_skip", "read_payload_event").get(url).content.decode().count("xyzzy") == 2
