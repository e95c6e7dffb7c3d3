"""What all lists of the REST API share: permissions, pages and strict parameters."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.rest import (
    DELIVERIES,
    EVENTS,
    NOON,
    WEBHOOKS,
    client_of,
    detail,
    listed,
    retry_many,
    selects,
)
from tests.testapp.models import Label, Thing
from webhooks.ground.db import to_utc
from webhooks.insight import paging
from webhooks.models import Delivery, Event, State
from webhooks.models.ids import first_id


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("zone", "day"), [("Europe/Berlin", "0001-01-01"), ("America/New_York", "9999-12-31T23:00:00")]
)
def test_a_time_outside_the_range_of_utc_is_refused(api: APIClient, settings: Any, zone: str, day: str) -> None:
    settings.TIME_ZONE = zone
    answer = api.get(f"{DELIVERIES}?created_after={day}")
    assert (answer.status_code, list(answer.json())) == (400, ["created_after"])


def test_times_have_an_offset_without_time_zones_too(api: APIClient, settings: Any) -> None:
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kathmandu"
    delivery = make_delivery(make_webhook(Thing), State.FAILED, finished_at=NOON, id=first_id(NOON))
    with timezone.override("America/New_York"):  # the user's
        [row] = api.get(DELIVERIES).json()["results"]
    assert [datetime.fromisoformat(time) for time in (row["finished_at"], row["created"])] == [
        NOON, to_utc(delivery.created),
    ]  # fmt: skip
    assert listed(api, DELIVERIES, created_after="2026-05-04T11:59:00Z") == [row["id"]]
    assert listed(api, DELIVERIES, created_after="2026-05-04T12:01:00Z") == []


def test_pages_by_cursor_miss_nothing(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    made = [str(make_delivery(webhook, id=first_id(NOON + timedelta(minutes=number))).pk) for number in range(7)]
    seen, url = [], f"{DELIVERIES}?limit=3&webhook={webhook.pk}"
    while url:
        page = api.get(url).json()
        seen.append([row["id"] for row in page["results"]])
        make_delivery(webhook, id=first_id(NOON + timedelta(hours=len(seen))))  # new rows move nothing
        url = page["next"]
    assert [len(page) for page in seen] == [3, 3, 1]
    assert [pk for page in seen for pk in page] == made[::-1]


def position(key: str) -> str:
    """A cursor of REST framework's own pages."""
    return b64encode(urlencode({"p": key}).encode()).decode()


@pytest.mark.parametrize("url", [DELIVERIES, f"{DELIVERIES}?request_id=r-1", EVENTS])
@pytest.mark.parametrize("cursor", ["nothing", "\0", "1; DROP TABLE", f"{'9' * 30}.{uuid.UUID(int=1)}", "1.1"])
def test_an_invented_cursor_is_not_found(api: APIClient, url: str, cursor: str) -> None:
    answer = api.get(url, {"cursor": cursor})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Invalid cursor"})


@pytest.mark.parametrize("cursor", ["nonsense", position("nothing")])
def test_an_invented_cursor_of_webhooks_is_not_found(api: APIClient, cursor: str) -> None:
    answer = api.get(WEBHOOKS, {"cursor": cursor})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Invalid cursor"})


def test_a_cursor_beyond_all_keys_is_no_error(api: APIClient) -> None:
    for url, cursor in ((EVENTS, "9" * 30), (WEBHOOKS, position("9" * 30))):
        assert api.get(url, {"cursor": cursor}).status_code == 200


def test_a_page_without_a_match_may_have_a_next_page(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "LOOK_THROUGH", (1, 2))
    oldest, *_ = (make_event(username=name).pk for name in ("ann", "bob", "bob", "bob"))
    pages, url = list[list[int]](), f"{EVENTS}?user=ann"
    while url:
        page = api.get(url).json()
        assert page["previous"] is None
        pages.append([row["id"] for row in page["results"]])
        url = page["next"]
    assert pages == [[], [oldest]]


@pytest.mark.cost
def test_a_page_is_read_without_counting(api: APIClient) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    with CaptureQueriesContext(connection) as queries:
        api.get(DELIVERIES)
    assert not [sql for sql in selects(queries) if "COUNT" in sql]


@pytest.mark.cost
@pytest.mark.parametrize(
    ("url", "most"),
    [(WEBHOOKS, 2), (DELIVERIES, 5), (EVENTS, 2)],
)
def test_the_number_of_queries_does_not_grow_with_the_rows(api: APIClient, url: str, most: int) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api.get(url).status_code == 200
        return len(selects(queries))

    def add() -> None:
        delivery = make_delivery(make_webhook(Thing, Label), State.FAILED, object_id=str(Event.objects.count()))
        make_attempt(delivery)

    add()
    few = count()
    for _ in range(10):
        add()
    assert count() == few <= most


@pytest.mark.cost
def test_lists_do_not_load_columns_that_they_do_not_show(api: APIClient) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    for url in (DELIVERIES, EVENTS):
        with CaptureQueriesContext(connection) as queries:
            api.get(url)
        read = selects(queries)[0].replace('"data" =', "")  # the query asks whether there is any
        for column in ('"data"', '"snapshots"', '"secret"', '"response_body"'):
            assert column not in read


@pytest.mark.parametrize("key", ["abc", "0", "9" * 40])
@pytest.mark.parametrize("rows", ["runs", "events", "deliveries", "webhooks"])
def test_an_unknown_key_is_answered_with_json(api: APIClient, rows: str, key: str) -> None:
    answer = api.get(f"/api/webhooks/{rows}/{key}/")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")
    if rows == "webhooks":
        answer = api.get(detail(WEBHOOKS, key, "skips"))
        assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_an_identifier_with_nul_is_unknown(api: APIClient, method: str) -> None:
    answer = getattr(api, method)(f"{WEBHOOKS}a%00b/")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")
    assert api.post(f"{WEBHOOKS}a%00b/ping/").status_code == 404


@pytest.mark.django_db
def test_anonymous_users_are_refused() -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    client = APIClient()
    for url in (WEBHOOKS, DELIVERIES, EVENTS, detail(DELIVERIES, delivery.pk)):
        assert client.get(url).status_code == 401
    assert client.post(detail(DELIVERIES, delivery.pk, "retry")).status_code == 401


@pytest.mark.one_database
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("url", "permission"),
    [(WEBHOOKS, "view_webhook"), (DELIVERIES, "view_delivery"), (EVENTS, "view_event")],
)
def test_reading_requires_the_permission_to_view(url: str, permission: str) -> None:
    others = {"view_webhook", "view_delivery", "view_event"} - {permission}
    stranger, reader = client_of(*others), client_of(permission)
    for method in ("get", "head", "options"):
        assert getattr(stranger, method)(url).status_code == 403
        assert getattr(reader, method)(url).status_code == 200


def test_the_root_of_the_api_links_to_its_lists(api: APIClient) -> None:
    assert api.get("/api/").json()["webhooks"] == "http://testserver/api/webhooks/"
    parts = api.get("/api/webhooks/").json()
    assert parts == {
        part: f"http://testserver/api/webhooks/{part}/" for part in ("webhooks", "deliveries", "events", "runs")
    }


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("url", "parameter", "hint"),
    [
        (WEBHOOKS, "enabeld", "Did you mean enabled?"),
        (DELIVERIES, "wbhook", "Did you mean webhook?"),
        (EVENTS, "faild", "Did you mean failed?"),
        (
            EVENTS,
            "offset",
            "Known are: webhook, failed, object_type, action, object_id, name, user, request_id, created_after, "
            "created_before, cursor, limit.",
        ),
    ],
)
def test_a_misspelt_parameter_is_refused_with_the_nearest_name(
    api: APIClient, url: str, parameter: str, hint: str
) -> None:
    for method in ("get", "head"):
        assert getattr(api, method)(url, {parameter: "1"}).status_code == 400
    told = api.get(url, {parameter: "1", "limit": 5}).json()
    assert told == {parameter: [f"There is no query parameter of this name. {hint}"]}


def test_an_unknown_parameter_or_a_body_is_refused_before_any_change(committing: APIClient) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    answer = retry_many(committing, None, sate="failed", webhook=delivery.webhook_id)
    assert answer.json() == {"sate": ["There is no query parameter of this name. Did you mean state?"]}
    assert committing.get(f"{detail(DELIVERIES, delivery.pk)}?state=failed").status_code == 400
    for deed in ("retry", "discard"):
        url = detail(DELIVERIES, delivery.pk, deed)
        assert committing.post(f"{url}?force=1").status_code == 400
        assert "takes no body" in committing.post(url, {"force": True}, format="json").json()[0]
    assert Delivery.objects.get().state == State.FAILED


@pytest.mark.parametrize(("body", "status"), [("5", 400), ("true", 400), ('"x"', 400), ("[1]", 400), ("null", 200)])
def test_a_body_of_any_type_is_refused_where_none_is_read(api: APIClient, body: str, status: int) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    answer = api.post(detail(DELIVERIES, delivery.pk, "discard"), body, content_type="application/json")
    assert answer.status_code == status


@pytest.mark.one_database
@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 5_000], ids=["lists", "objects"])
def test_json_that_is_nested_too_deeply_is_refused(api: APIClient, body: str) -> None:
    delivery = make_delivery(make_webhook(Thing), State.FAILED)
    for url in (WEBHOOKS, detail(DELIVERIES, delivery.pk, "retry")):
        answer = api.post(url, body, content_type="application/json")
        # A newer Python reads on to the end of the text, which is malformed as well.
        assert (answer.status_code, list(answer.json())) == (400, ["detail"])


@pytest.mark.one_database
@pytest.mark.parametrize(
    "body",
    [{"\ud800": 1}, {"http_method": "\ud800"}, {"conditions": {"\ud800": 1}}, {"custom_events": ["\ud800"]}],
    ids=["field", "choice", "condition", "event"],
)
def test_a_refusal_does_not_repeat_half_of_a_surrogate_pair(api: APIClient, body: Any) -> None:
    given = {"name": "CMDB", "payload_url": "https://cmdb.example.com/", "object_types": ["testapp.thing"]}
    answer = api.post(WEBHOOKS, json.dumps(given | {"on_created": True} | body), content_type="application/json")
    assert answer.status_code == 400
    assert "\ufffd" in str(answer.json())


def test_parameters_of_rest_framework_are_known(api: APIClient) -> None:
    assert api.get(WEBHOOKS, {"format": "json", "version": "1"}).status_code == 200


@pytest.mark.one_database
@pytest.mark.parametrize("limit", ["9" * 30, "9" * 5000, "501", "0", "-1", "1.5", "all", ""])
def test_an_invalid_limit_is_refused(api: APIClient, limit: str) -> None:
    for url in (WEBHOOKS, DELIVERIES, EVENTS):
        answer = api.get(url, {"limit": limit})
        assert (answer.status_code, answer.json()) == (400, {"limit": ["Must be a whole number from 1 to 500."]})


def test_webhooks_are_paged_like_events(api: APIClient) -> None:
    made = [make_webhook(Thing).pk for _ in range(3)]
    first = api.get(WEBHOOKS, {"limit": 2}).json()
    assert first.keys() == api.get(EVENTS).json().keys() == {"next", "previous", "results"}
    second = api.get(first["next"]).json()
    assert [row["id"] for page in (first, second) for row in page["results"]] == made[::-1]
