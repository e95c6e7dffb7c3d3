"""Webhooks, deliveries and events in NetBox's GraphQL API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from dcim.models import Device, Site
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from tests.support.netbox_api import client_of, grant, make_user
from webhooks.models import State

pytestmark = pytest.mark.django_db

HIDDEN_URL = "https://chat.example.com/hooks/T0123/very-hidden"
EVERYTHING = """{
    rq_webhook_list { id name payload_url additional_headers body_template object_types has_secret }
    rq_webhook_delivery_list { id reason event { object_repr } webhook { name } }
    rq_webhook_event_list { id object_type error }
}"""


def ask(client: Any, query: str) -> Any:
    answer = client.post("/graphql/", {"query": query}, format="json")
    assert answer.status_code == 200, answer.content
    return answer.json()


def data(client: Any, query: str) -> Any:
    answer = ask(client, query)
    assert "errors" not in answer, answer
    return answer["data"]


@pytest.fixture
def admin() -> Any:
    return client_of(make_user(is_superuser=True))


def test_rows_are_listed_filtered_and_paged(admin: Any) -> None:
    webhook, other = make_webhook(Site, Device, name="ledger"), make_webhook(Site, name="other")
    made = [make_site_delivery(webhook, State.FAILED, make_site_event(key, f"site {key}")) for key in range(3)]
    make_site_delivery(other, State.SUCCEEDED, made[0].event)
    assert data(admin, "{ rq_webhook_list { name object_types enabled url } }") == {
        "rq_webhook_list": [
            {
                "name": one.name, "object_types": types, "enabled": True,
                "url": f"http://testserver/api/plugins/webhooks/webhooks/{one.pk}/",
            }
            for one, types in ((webhook, ["dcim.device", "dcim.site"]), (other, ["dcim.site"]))
        ]
    }  # fmt: skip
    query = '{ rq_webhook_delivery_list(filters: {webhook: %s, state: ["failed"]}, pagination: {limit: 2}) { id } }'
    found = data(admin, query % webhook.pk)["rq_webhook_delivery_list"]
    assert [one["id"] for one in found] == sorted((str(one.pk) for one in made), reverse=True)[:2]
    query = "{ rq_webhook_event_list(pagination: {offset: 1}) { object_repr } }"
    assert data(admin, query)["rq_webhook_event_list"] == [{"object_repr": "site 1"}, {"object_repr": "site 0"}]


def test_one_row_has_its_details(admin: Any) -> None:
    delivery = make_site_delivery(make_webhook(Site, name="ledger"), State.FAILED, make_site_event(7, "AMS1"))
    make_attempt(delivery, status=503)
    query = '{ rq_webhook_delivery(id: "%s") { display state attempts { number status request { method } } } }'
    assert data(admin, query % delivery.pk)["rq_webhook_delivery"] == {
        "display": "AMS1 updated → ledger", "state": "failed",
        "attempts": [{"number": 1, "status": 503, "request": {"method": "POST"}}],
    }  # fmt: skip
    query = '{ rq_webhook_event(id: "%s") { id data } }'
    assert data(admin, query % delivery.event_id)["rq_webhook_event"] == {
        "id": delivery.event_id, "data": {"id": 7, "name": "AMS1"},
    }  # fmt: skip
    assert data(admin, '{ rq_webhook(id: "99999") { id } }') == {"rq_webhook": None}


def test_a_wrong_filter_is_refused_as_in_rest(admin: Any) -> None:
    answer = ask(admin, '{ rq_webhook_delivery_list(filters: {state: ["lost"]}) { id } }')
    assert "is not one of these" in answer["errors"][0]["message"]


def test_a_user_without_permission_sees_nothing(client: Any) -> None:
    delivery = make_site_delivery(make_webhook(Site), State.FAILED)
    person = client_of(make_user("dcim.view_site"))
    assert set(map(str, data(person, EVERYTHING).values())) == {"[]"}
    assert data(person, f'{{ rq_webhook_event(id: "{delivery.event_id}") {{ id }} }}') == {"rq_webhook_event": None}
    asked = {"data": {"query": EVERYTHING}, "content_type": "application/json"}
    assert client.post("/graphql/", **asked, headers={"accept": "application/json"}).status_code == 403


def test_a_constrained_user_sees_their_rows_without_what_is_hidden() -> None:
    mine, other = (
        make_webhook(Site, name=name, url=HIDDEN_URL, additional_headers="X-Team: hush", body_template="hush")
        for name in ("mine", "other")
    )
    for webhook in (mine, other):
        event = make_site_event(webhook.pk, data=json.dumps({"serial": "hush"}))
        make_site_delivery(webhook, State.FAILED, event, reason="hush")
    person = make_user("dcim.view_site", "view_event")
    grant(person, "view_webhook", constraints={"name": "mine"})
    grant(person, "view_delivery", constraints={"webhook__name": "mine"})
    client = client_of(person)
    found = data(client, EVERYTHING)
    assert [one["name"] for one in found["rq_webhook_list"]] == ["mine"]
    assert [one["webhook"]["name"] for one in found["rq_webhook_delivery_list"]] == ["mine"]
    assert len(found["rq_webhook_event_list"]) == 2
    details = data(client, f'{{ rq_webhook_event(id: "{event.pk}") {{ object_id data snapshots }} }}')
    assert details["rq_webhook_event"] == {"object_id": str(other.pk), "data": None, "snapshots": None}
    text = json.dumps([found, details])
    assert "hush" not in text
    assert "very-hidden" not in text


@pytest.mark.parametrize("name", ["secret", "secret_headers", "previous_secret"])
def test_there_is_no_field_for_a_secret(admin: Any, name: str) -> None:
    answer = ask(admin, f"{{ rq_webhook_list {{ {name} }} }}")
    assert "Cannot query field" in answer["errors"][0]["message"]


def test_a_list_needs_as_many_queries_for_fifty_rows_as_for_ten(admin: Any) -> None:
    numbers = []
    for count in (10, 40):
        for key in range(count):
            make_site_delivery(make_webhook(Site), State.FAILED, make_site_event(key))
        data(admin, EVERYTHING)
        with CaptureQueriesContext(connection) as queries:
            found = data(admin, EVERYTHING)
        numbers.append(len(queries))
    assert [len(rows) for rows in found.values()] == [50, 50, 50]
    assert numbers[0] == numbers[1]
