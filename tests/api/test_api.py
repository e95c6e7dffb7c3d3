"""The REST API, over the URLs of the example project."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from tests.support import makers
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_site_skip, make_webhook
from tests.support.users import api_client, make_user
from tests.testapp.models import Label, Thing
from webhooks import actor
from webhooks.models import Attempt, BodyKind, Delivery, Event, Run, State, Webhook, ids
from webhooks.models.queue import ENDED_STATES
from webhooks.testing import capture, deliver

WEBHOOKS, DELIVERIES, EVENTS = "/api/webhooks/webhooks/", "/api/webhooks/deliveries/", "/api/webhooks/events/"
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def client_of(*permissions: str, **fields: Any) -> APIClient:
    return api_client(make_user(*permissions, **fields))


@pytest.fixture
def api(db: None) -> APIClient:
    return client_of(is_superuser=True)


@pytest.fixture
def committing(database: str) -> APIClient:
    """The same with real commits, for requests that are no transaction: an error would break the test's own."""
    return client_of(is_superuser=True)


def wanted(**fields: Any) -> dict[str, Any]:
    """A request to create a webhook."""
    needed = {
        "name": "ledger",
        "object_types": ["dcim.site"],
        "on_created": True,
        "payload_url": "https://example.com/in",
    }
    return needed | fields


def define(api: APIClient, **fields: Any) -> Any:
    return api.post(WEBHOOKS, wanted(**fields), format="json")


def make_delivery(webhook: Webhook, state: str = State.FAILED, at: datetime | None = None, **event: Any) -> Delivery:
    columns = {"action": "updated", "object_type": "testapp.thing", "object_id": "1", "data": '{"id":1}'} | event
    ended = {"finished_at": at or NOON} if state in ENDED_STATES else {}
    pk = ids.new_id() if at is None else ids.first_id(at)
    return makers.make_delivery(webhook, State(state), event=Event.objects.create(**columns), id=pk, **ended)


def detail(url: str, pk: Any, deed: str = "") -> str:
    return f"{url}{pk}/{deed + '/' if deed else ''}"


def selects(queries: CaptureQueriesContext) -> list[str]:
    """The queries of tables, without the savepoints and settings of the request."""
    return [one["sql"] for one in queries if one["sql"].startswith("SELECT") and "set_config" not in one["sql"]]


def listed(api: APIClient, url: str, **parameters: Any) -> list[Any]:
    """The ids in a list."""
    answer = api.get(f"{url}?{urlencode(parameters, doseq=True)}")
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["results"]]


# Webhooks


def test_a_webhook_is_defined_with_models_by_label(api: APIClient) -> None:
    answer = define(api, object_types=["ipam.prefix", "dcim.Site"], on_deleted=True, timeout=5)
    assert answer.status_code == 201, answer.content
    webhook = Webhook.objects.get()
    assert {f"{one.app_label}.{one.model}" for one in webhook.object_types.all()} == {"dcim.site", "ipam.prefix"}
    assert [str(action) for action in webhook.actions] == ["created", "deleted"]
    assert answer.json() == api.get(detail(WEBHOOKS, webhook.pk)).json()


def test_a_response_has_every_field_except_the_secret(api: APIClient) -> None:
    answer = define(api, secret="tell nobody").json()
    moments = {answer.pop("created"), answer.pop("last_updated")}
    assert None not in moments
    assert answer == {
        "id": Webhook.objects.get().pk,
        "name": "ledger",
        "enabled": True,
        "object_types": ["dcim.site"],
        "on_created": True,
        "on_updated": False,
        "on_deleted": False,
        "custom_events": [],
        "serializer": "",
        "excluded_usernames": [],
        "payload_url": "https://example.com/in",
        "http_method": "POST",
        "content_type": "application/json",
        "additional_headers": "",
        "body_template": "",
        "has_secret": True,
        "previous_secret_until": None,
        "has_secret_headers": False,
        "unreadable": [],
        "ssl_verification": True,
        "ca_file_path": "",
        "timeout": None,
        "conditions": None,
        "changed_fields": [],
        "only_changes": False,
        "prechange": False,
        "ordered": True,
        "is_paused": False,
        "paused_at": None,
        "paused_by": "",
        "disabled_reason": "",
        "last_success_at": None,
        "last_failure_at": None,
        "last_failure": "",
        "error_kind": "",
    }


@pytest.mark.one_database
def test_a_webhook_created_by_the_api_receives_its_post(api: APIClient, inbox: Inbox) -> None:
    assert define(api, object_types=["testapp.label"], payload_url=inbox.url()).status_code == 201
    with capture(subscribe=[]):
        Label.objects.create(name="red")
    [attempt] = deliver()
    assert attempt.succeeded
    assert inbox.received()[0].json["data"]["name"] == "red"


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("fields", "key", "message"),
    [
        (
            {"object_types": ["dcim.site", "auth.user"]},
            "object_types",
            "Not registered: auth.user. Choose from: cir",
        ),
        ({"object_types": ["dcim.sites", "nonsense"]}, "object_types", "Not registered: dcim.sites, nonsense. Choose"),
        ({"object_types": ["testapp.thingproxy"]}, "object_types", "Not registered: testapp.thingproxy. Choose"),
        ({"object_types": ["auth.user"]}, "object_types", 'setting WEBHOOKS["MODELS"] or call webhooks.register()'),
        ({"object_types": []}, "object_types", "Choose at least one model."),
        ({"object_types": "dcim.site"}, "object_types", 'Must be a list of labels, such as ["dcim.site"].'),
        (
            {"on_created": False},
            "non_field_errors",
            "Choose at least one action (created, updated, deleted) or one custom event.",
        ),
        ({"payload_url": "ftp://example.com/"}, "payload_url", "Enter an http:// or https:// URL."),
        ({"payload_url": "https://{{ a }/"}, "payload_url", "Line 1: unexpected '}'"),
        ({"http_method": "HEAD"}, "http_method", "is not one of these"),
        ({"content_type": "plain"}, "content_type", "Enter a content type"),
        ({"additional_headers": "X-A: 1\nwebhook-id: 1"}, "additional_headers", "Line 2: webhook-id is not for a"),
        ({"body_template": "\n\n{% if %}"}, "body_template", "Line 1: Expected an expression"),
        ({"secret": "whsec_not base64"}, "secret", "must go on in base64"),
        ({"timeout": 0}, "timeout", "greater than or equal to 1"),
        ({"ssl_verification": False, "ca_file_path": "/ca.pem"}, "ca_file_path", "has no effect while TLS"),
        ({"name": "taken"}, "name", "already exists"),
        ({"name": ""}, "name", "may not be blank"),
    ],
)
def test_an_invalid_field_is_refused_by_name_and_nothing_is_created(
    api: APIClient, fields: Any, key: str, message: str
) -> None:
    make_webhook(Thing, name="taken")
    answer = define(api, **fields)
    assert answer.status_code == 400
    assert list(answer.json()) == [key]
    assert message in json.dumps(answer.json()[key]).replace('\\"', '"')
    assert Webhook.objects.count() == 1


def test_headers_are_shown_to_those_who_may_change_webhooks(api: APIClient) -> None:
    pk = define(api, additional_headers="Authorization: Token t", body_template="{{ data }}").json()["id"]
    assert api.get(detail(WEBHOOKS, pk)).json()["additional_headers"] == "Authorization: Token t"
    for client in (client_of("view_webhook"), client_of("view_webhook", "add_webhook")):
        shown = client.get(detail(WEBHOOKS, pk)).json()
        assert (shown["additional_headers"], shown["body_template"]) == (None, None)
        assert shown["payload_url"] == "https://example.com/…"


def test_a_webhook_with_a_forbidden_destination_can_be_disabled_but_not_enabled(api: APIClient) -> None:
    webhook = make_webhook(Thing, url="http://169.254.169.254/")
    assert api.patch(f"{WEBHOOKS}{webhook.pk}/", {"enabled": False}, format="json").status_code == 200
    answer = api.patch(f"{WEBHOOKS}{webhook.pk}/", {"enabled": True}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["payload_url"])


def test_a_change_is_validated_with_the_stored_fields(api: APIClient) -> None:
    pk = define(api).json()["id"]
    answer = api.patch(detail(WEBHOOKS, pk), {"on_created": False}, format="json")
    assert (answer.status_code, list(answer.json())) == (400, ["non_field_errors"])
    answer = api.patch(detail(WEBHOOKS, pk), {"on_created": False, "on_updated": True}, format="json")
    assert answer.status_code == 200


def test_a_change_of_one_field_leaves_the_others(api: APIClient) -> None:
    before = define(api, secret="tell nobody", object_types=["dcim.site", "dcim.rack"]).json()
    after = api.patch(detail(WEBHOOKS, before["id"]), {"name": "books"}, format="json").json()
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"name", "last_updated"}
    assert Webhook.objects.get().secret == "tell nobody"


def test_new_models_replace_the_old_ones(api: APIClient) -> None:
    pk = define(api).json()["id"]
    answer = api.patch(detail(WEBHOOKS, pk), {"object_types": ["dcim.rack", "ipam.vlan"]}, format="json")
    assert answer.json()["object_types"] == ["dcim.rack", "ipam.vlan"]


@pytest.mark.one_database
@pytest.mark.parametrize("method", ["put", "patch"])
def test_a_secret_stays_unless_it_is_replaced_or_cleared(api: APIClient, method: str) -> None:
    pk = define(api, secret="first").json()["id"]

    def change(**fields: Any) -> bool:
        answer = getattr(api, method)(detail(WEBHOOKS, pk), wanted(**fields), format="json")
        assert answer.status_code == 200, answer.content
        return answer.json()["has_secret"]

    assert change() is True
    assert Webhook.objects.get().secret == "first"
    assert change(secret="second") is True
    assert Webhook.objects.get().secret == "second"
    assert change(secret="") is False
    assert Webhook.objects.get().secret == ""


@pytest.mark.one_database
def test_secret_headers_are_handled_like_the_secret(api: APIClient) -> None:
    made = define(api, secret_headers="X-Token: hush")
    pk = made.json()["id"]
    assert made.json()["has_secret_headers"] is True
    assert Webhook.objects.get().secret_headers == "X-Token: hush"
    refused = api.patch(detail(WEBHOOKS, pk), {"secret_headers": "webhook-id: hush"}, format="json")
    assert refused.status_code == 400
    assert refused.json()["secret_headers"] == [
        "Line 1: webhook-id cannot be set, it belongs to the request itself or to its signature."
    ]
    cleared = api.patch(detail(WEBHOOKS, pk), {"secret_headers": ""}, format="json")
    assert cleared.json()["has_secret_headers"] is False
    assert not [answer for answer in (made, refused, cleared) if b"hush" in answer.content]


def test_an_encrypted_value_is_refused_and_a_missing_key_is_reported(api: APIClient, settings: Any) -> None:
    pk = define(api, secret="first").json()["id"]
    answer = api.patch(detail(WEBHOOKS, pk), {"secret": Webhook.objects.get().secret.stored}, format="json")
    assert "which marks encrypted texts" in answer.json()["secret"][0]
    settings.SECRET_KEY = "changed, and the old one forgotten"
    told = api.get(detail(WEBHOOKS, pk)).json()
    assert (told["has_secret"], told["unreadable"]) == (True, ["secret"])


@pytest.mark.one_database
def test_no_response_contains_a_secret(api: APIClient) -> None:
    secret = "tell-nobody-1234"
    made = define(api, secret=secret)
    pk = made.json()["id"]
    delivery = make_delivery(Webhook.objects.get())
    changed = api.put(detail(WEBHOOKS, pk), wanted(secret=secret, name="books"), format="json")
    refused = api.patch(detail(WEBHOOKS, pk), {"secret": secret, "timeout": 1000}, format="json")
    read = [
        api.get(url, HTTP_ACCEPT=accept)
        for url in (WEBHOOKS, detail(WEBHOOKS, pk), DELIVERIES, detail(DELIVERIES, delivery.pk), EVENTS)
        for accept in ("application/json", "text/html")
    ]
    options = api.options(detail(WEBHOOKS, pk))
    assert [answer.status_code for answer in (made, changed, refused)] == [201, 200, 400]
    for answer in (made, changed, refused, *read, options):
        assert secret.encode() not in answer.content


def test_enabling_a_webhook_resets_its_failures(api: APIClient) -> None:
    pk = define(api).json()["id"]
    Webhook.objects.update(enabled=False, disabled_reason="gone", failures_in_a_row=7)
    assert api.get(detail(WEBHOOKS, pk)).json()["disabled_reason"] == "gone"
    answer = api.patch(detail(WEBHOOKS, pk), {"enabled": True}, format="json")
    assert (answer.json()["enabled"], answer.json()["disabled_reason"]) == (True, "")
    assert Webhook.objects.get().failures_in_a_row == 0


def test_fields_that_workers_write_are_read_only(api: APIClient) -> None:
    define(api, disabled_reason="none", last_failure="none", is_paused=True)
    webhook = Webhook.objects.get()
    assert (webhook.disabled_reason, webhook.last_failure, webhook.is_paused) == ("", "", False)


def test_deleting_a_webhook_deletes_its_deliveries_in_a_fixed_number_of_queries(api: APIClient) -> None:
    others = make_delivery(make_webhook(Thing))
    costs = []
    for count in (2, 20):
        webhook = make_webhook(Thing)
        for number in range(count):
            make_attempt(make_delivery(webhook, object_id=str(number)))
        with CaptureQueriesContext(connection) as queries:
            assert api.delete(detail(WEBHOOKS, webhook.pk)).status_code == 204
        costs.append(len(queries))
    assert list(Delivery.objects.all()) == [others]
    assert not Attempt.objects.exists()
    assert costs[0] == costs[1]


def test_enabling_a_webhook_wakes_a_worker(database: str, redis: Any) -> None:
    api = client_of(is_superuser=True)
    pk = define(api, enabled=False).json()["id"]
    assert redis.dbsize() == 0
    api.patch(detail(WEBHOOKS, pk), {"enabled": True}, format="json")
    assert redis.llen("rq:queue:webhooks") == 1


# Deliveries


@pytest.mark.one_database
def test_a_delivery_shows_its_event_its_payload_and_its_attempts(api: APIClient, inbox: Inbox) -> None:
    webhook = make_webhook(Label, url=inbox.url("status/500"), name="ledger")
    with capture():
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
    delivery = make_delivery(make_webhook(Thing))
    [row] = api.get(DELIVERIES).json()["results"]
    whole = api.get(detail(DELIVERIES, delivery.pk)).json()
    assert set(whole) - set(row) == {"cause", "remedy", "payload", "attempts"}
    assert row["next_attempt_at"] is None


def test_deliveries_cannot_be_created_changed_or_deleted(api: APIClient) -> None:
    delivery = make_delivery(make_webhook(Thing))
    assert api.post(DELIVERIES, {}, format="json").status_code == 405
    for method in (api.put, api.patch, api.delete):
        assert method(detail(DELIVERIES, delivery.pk), {}, format="json").status_code == 405


@pytest.mark.one_database
@pytest.mark.parametrize("pk", ["nothing", "00000000-0000-0000-0000-000000000000", "-" * 36, "0" * 32])
def test_an_unknown_delivery_is_not_found(api: APIClient, pk: str) -> None:
    assert api.get(detail(DELIVERIES, pk)).status_code == 404
    assert api.post(detail(DELIVERIES, pk, "retry")).status_code == 404


def test_deliveries_are_filtered(api: APIClient) -> None:
    first, second = make_webhook(Thing), make_webhook(Thing)
    old = make_delivery(first, State.FAILED, NOON, object_id="1")
    new = make_delivery(first, State.SUCCEEDED, NOON + timedelta(hours=2), object_id="2")
    other = make_delivery(second, State.PENDING, NOON + timedelta(hours=1), object_type="dcim.site", object_id="2")

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


@pytest.mark.one_database
@pytest.mark.parametrize(("parameters", "key"), BAD_FILTERS)
def test_an_invalid_filter_is_refused_by_lists_and_by_a_bulk_retry(
    committing: APIClient, parameters: Any, key: str
) -> None:
    make_delivery(make_webhook(Thing))
    listing = committing.get(f"{DELIVERIES}?{urlencode(parameters)}")
    bulk = retry_many(committing, None, **{"state": "failed"} | parameters)
    for answer in (listing, bulk):
        assert (answer.status_code, list(answer.json())) == (400, [key])
    assert states() == ["failed"]


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("zone", "day"), [("Europe/Berlin", "0001-01-01"), ("America/New_York", "9999-12-31T23:00:00")]
)
def test_a_time_outside_the_range_of_utc_is_refused(api: APIClient, settings: Any, zone: str, day: str) -> None:
    settings.TIME_ZONE = zone
    answer = api.get(f"{DELIVERIES}?created_after={day}")
    assert (answer.status_code, list(answer.json())) == (400, ["created_after"])


@pytest.mark.parametrize(("time", "after", "before"), [("0001-01-01T00:00Z", 1, 0), ("9999-12-31T23:59:59Z", 0, 1)])
def test_a_time_before_or_after_all_ids_finds_all_rows_or_none(
    api: APIClient, time: str, after: int, before: int
) -> None:
    make_delivery(make_webhook(Thing))
    for url in (DELIVERIES, EVENTS):
        assert len(api.get(f"{url}?created_after={time}").json()["results"]) == after
        assert len(api.get(f"{url}?created_before={time}").json()["results"]) == before


def test_pages_by_cursor_miss_nothing(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    made = [str(make_delivery(webhook, at=NOON + timedelta(minutes=number)).pk) for number in range(7)]
    seen, url = [], f"{DELIVERIES}?limit=3&webhook={webhook.pk}"
    while url:
        page = api.get(url).json()
        seen.append([row["id"] for row in page["results"]])
        make_delivery(webhook, at=NOON + timedelta(hours=len(seen)))  # new rows move nothing
        url = page["next"]
    assert [len(page) for page in seen] == [3, 3, 1]
    assert [pk for page in seen for pk in page] == made[::-1]


@pytest.mark.parametrize("url", [DELIVERIES, EVENTS])
@pytest.mark.parametrize("position", [None, "nothing", "\0", "1; DROP TABLE"])
def test_an_invented_cursor_is_not_found(api: APIClient, url: str, position: str | None) -> None:
    cursor = "nonsense" if position is None else b64encode(urlencode({"p": position}).encode()).decode()
    answer = api.get(url, {"cursor": cursor})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Invalid cursor"})


def test_a_cursor_beyond_all_keys_is_no_error(api: APIClient) -> None:
    cursor = b64encode(urlencode({"p": "9" * 30}).encode()).decode()
    assert api.get(EVENTS, {"cursor": cursor}).status_code == 200


def test_a_page_is_read_without_counting(api: APIClient) -> None:
    make_delivery(make_webhook(Thing))
    with CaptureQueriesContext(connection) as queries:
        api.get(DELIVERIES)
    assert not [sql for sql in selects(queries) if "COUNT" in sql]


@pytest.mark.parametrize(
    ("url", "most"),
    [(WEBHOOKS, 2), (DELIVERIES, 5), (EVENTS, 1)],
)
def test_the_number_of_queries_does_not_grow_with_the_rows(api: APIClient, url: str, most: int) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api.get(url).status_code == 200
        return len(selects(queries))

    def add() -> None:
        delivery = make_delivery(make_webhook(Thing, Label), object_id=str(Event.objects.count()))
        Attempt.objects.create(delivery=delivery, number=1, started_at=NOON, duration_ms=1, url="x", succeeded=False)

    add()
    few = count()
    for _ in range(10):
        add()
    assert count() == few <= most


def test_one_delivery_takes_three_queries_and_shows_a_hundred_attempts(api: APIClient) -> None:
    delivery = make_delivery(make_webhook(Thing))
    for number in range(105):
        make_attempt(delivery, number=number, body_kind=BodyKind.TEMPLATE)
    with CaptureQueriesContext(connection) as queries:
        shown = api.get(detail(DELIVERIES, delivery.pk)).json()
    assert [attempt["number"] for attempt in shown["attempts"]] == list(range(104, 4, -1))
    assert len(selects(queries)) == 3


def test_lists_do_not_load_columns_that_they_do_not_show(api: APIClient) -> None:
    make_delivery(make_webhook(Thing))
    for url in (DELIVERIES, EVENTS):
        with CaptureQueriesContext(connection) as queries:
            api.get(url)
        read = selects(queries)[0].replace('"data" =', "")  # the query asks whether there is any
        for column in ('"data"', '"snapshots"', '"secret"', '"response_body"'):
            assert column not in read


# Retry and Discard


@pytest.mark.one_database
@pytest.mark.parametrize("state", [State.FAILED, State.DISCARDED])
def test_a_failed_or_discarded_delivery_is_sent_again(api: APIClient, state: str, inbox: Inbox) -> None:
    delivery = make_delivery(make_webhook(Thing, url=inbox.url()), state)
    answer = api.post(detail(DELIVERIES, delivery.pk, "retry"))
    assert (answer.status_code, answer.json()["state"]) == (200, "pending")
    assert answer.json()["finished_at"] is None
    [attempt] = deliver()
    assert attempt.succeeded
    assert inbox.received()[0].headers["webhook-id"] == str(delivery.pk)


@pytest.mark.one_database
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


@pytest.mark.one_database
@pytest.mark.parametrize("state", [State.SENDING, State.SUCCEEDED, State.DISCARDED])
def test_other_deliveries_cannot_be_discarded(api: APIClient, state: str) -> None:
    delivery = make_delivery(make_webhook(Thing), state)
    answer = api.post(detail(DELIVERIES, delivery.pk, "discard"))
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith(
        f" is {state.value}. You can only discard a waiting, pending or failed delivery."
    )


def retry_many(api: APIClient, body: Any = None, **parameters: Any) -> Any:
    return api.post(f"{DELIVERIES}retry/?{urlencode(parameters, doseq=True)}", body, format="json")


def states() -> list[str]:
    return list(Delivery.objects.order_by("event_id").values_list("state", flat=True))


def test_a_bulk_retry_sends_all_failed_deliveries_that_the_filters_choose(api: APIClient) -> None:
    chosen, other = make_webhook(Thing), make_webhook(Thing)
    for number, webhook in enumerate([chosen, chosen, other]):
        make_delivery(webhook, object_id=str(number))
    make_delivery(chosen, State.SUCCEEDED, object_id="4")
    answer = retry_many(api, webhook=chosen.pk)
    assert (answer.status_code, answer.json()) == (200, {"retried": 2, "run": None})
    assert states() == ["pending", "pending", "failed", "succeeded"]


def test_a_bulk_retry_sends_discarded_deliveries_only_on_request(api: APIClient) -> None:
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.DISCARDED, object_id="1")
    make_delivery(webhook, State.FAILED, object_id="2")
    assert retry_many(api, webhook=webhook.pk).json() == {"retried": 1, "run": None}
    assert retry_many(api, webhook=webhook.pk, state=["discarded", "failed"]).json() == {
        "retried": 1,
        "run": None,
    }
    assert states() == ["pending", "pending"]


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("parameters", "body", "message"),
    [
        ({}, None, "Give at least one filter as a query parameter: object_type, object_id, action"),
        ({"format": "json"}, None, "Give at least one filter as a query parameter"),
        ({"webhook": 1}, {"state": "failed"}, "This takes no body: the URL says all."),
    ],
)
def test_a_bulk_retry_without_a_filter_or_with_a_body_is_refused(
    committing: APIClient, parameters: Any, body: Any, message: str
) -> None:
    make_delivery(make_webhook(Thing))
    answer = retry_many(committing, body, **parameters)
    assert answer.status_code == 400
    assert message in answer.json()[0]
    assert states() == ["failed"]


@pytest.mark.one_database
@pytest.mark.parametrize(("deed", "told"), [("retry", "Retried."), ("discard", "Discarded.")])
def test_the_history_records_who_retried_or_discarded_a_delivery(db: None, deed: str, told: str) -> None:
    api = client_of("view_delivery", f"{deed}_delivery")
    delivery = make_delivery(make_webhook(Thing))
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


@pytest.mark.parametrize("key", ["abc", "0", "9" * 40])
@pytest.mark.parametrize("rows", ["runs", "events", "deliveries", "webhooks"])
def test_an_unknown_key_is_answered_with_json(api: APIClient, rows: str, key: str) -> None:
    answer = api.get(f"/api/webhooks/{rows}/{key}/")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")
    if rows == "webhooks":
        answer = api.get(detail(WEBHOOKS, key, "skips"))
        assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")


def test_a_bulk_retry_of_many_begins_a_run(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.operations.runs.AT_ONCE", 2)
    webhook = make_webhook(Thing)
    for key in range(3):
        make_delivery(webhook, object_id=str(key))
    answer = retry_many(api, webhook=webhook.pk, object_type="testapp.thing")
    run = Run.objects.get()
    assert (answer.status_code, answer.json()) == (202, {"retried": 0, "run": run.pk})
    assert run.filters == {"state": ["failed"], "webhook": webhook.pk, "object_type": "testapp.thing"}
    assert states() == ["failed"] * 3


# Events


def test_a_failed_event_shows_its_error(api: APIClient) -> None:
    made = Event.objects.create(action="created", object_type="dcim.site", object_id="1", error="Traceback: broken")
    [row] = api.get(EVENTS).json()["results"]
    whole = api.get(detail(EVENTS, made.pk)).json()
    assert row["error"] == whole["error"] == "Traceback: broken"
    assert (whole["data"], whole["snapshots"], whole["request"]) == (None, None, None)


def test_an_event_shows_its_data_and_its_request(api: APIClient) -> None:
    with capture() as captured:
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
    make_site_skip(webhook, detail=f'{{"path":"name","operator":"eq","expected":"a{half}b"}}')
    clean = {"name": "a\ufffdb"}
    shown = api.get(f"{EVENTS}{event.pk}/").json()
    assert (shown["data"], shown["request"], shown["serializers"]["other"]["data"]) == (clean, clean, clean)
    assert api.get(f"{DELIVERIES}{delivery.pk}/").json()["payload"]["data"] == clean
    [skip] = api.get(f"{WEBHOOKS}{webhook.pk}/skips/").json()["results"]
    assert skip["detail"]["expected"] == clean["name"]


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


# Skips


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
    assert client_of("view_webhook", "view_skip", "view_payload").get(url).content.decode().count("xyzzy") == 2


# Permissions


@pytest.mark.django_db
def test_anonymous_users_are_refused() -> None:
    delivery = make_delivery(make_webhook(Thing))
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


@pytest.mark.one_database
@pytest.mark.django_db
def test_each_change_of_a_webhook_requires_its_own_permission() -> None:
    webhook = make_webhook(Thing)
    reader = client_of("view_webhook")
    assert define(reader).status_code == 403
    assert reader.patch(detail(WEBHOOKS, webhook.pk), {"name": "x"}, format="json").status_code == 403
    assert reader.delete(detail(WEBHOOKS, webhook.pk)).status_code == 403
    assert define(client_of("add_webhook")).status_code == 201
    changer = client_of("change_webhook")
    assert changer.patch(detail(WEBHOOKS, webhook.pk), {"name": "x"}, format="json").status_code == 200
    assert client_of("delete_webhook").delete(detail(WEBHOOKS, webhook.pk)).status_code == 204


@pytest.mark.one_database
@pytest.mark.django_db
@pytest.mark.parametrize(("deed", "other"), [("retry", "discard"), ("discard", "retry")])
def test_viewing_does_not_imply_retrying_or_discarding(deed: str, other: str) -> None:
    delivery = make_delivery(make_webhook(Thing))
    url = detail(DELIVERIES, delivery.pk, deed)
    assert client_of("view_delivery", f"{other}_delivery").post(url).status_code == 403
    assert client_of(f"{deed}_delivery").post(url).status_code == 403
    assert states() == ["failed"]
    assert client_of("view_delivery", f"{deed}_delivery").post(url).status_code == 200


def test_a_bulk_retry_requires_the_permission_to_retry(database: str) -> None:
    make_delivery(make_webhook(Thing))
    assert retry_many(client_of("view_delivery", "discard_delivery"), state="failed").status_code == 403
    assert retry_many(client_of("view_delivery", "retry_delivery"), state="failed").status_code == 200


def test_the_root_of_the_api_links_to_its_lists(api: APIClient) -> None:
    assert api.get("/api/").json()["webhooks"] == "http://testserver/api/webhooks/"
    parts = api.get("/api/webhooks/").json()
    assert parts == {
        part: f"http://testserver/api/webhooks/{part}/" for part in ("webhooks", "deliveries", "events", "runs")
    }


def test_a_bulk_retry_with_a_repeated_filter_is_refused(committing: APIClient) -> None:
    first, second = make_webhook(Thing), make_webhook(Thing)
    make_delivery(first)
    make_delivery(second)
    answer = retry_many(committing, webhook=[first.pk, second.pk])
    assert (answer.status_code, answer.json()) == (400, {"webhook": ["Give it once."]})
    assert Delivery.objects.failed().count() == 2


def test_the_history_records_that_the_previous_secret_was_forgotten(api: APIClient) -> None:
    pk = define(api, secret="the first of the secrets").json()["id"]
    api.patch(detail(WEBHOOKS, pk), {"secret": "the second of the secrets"}, format="json")
    before = LogEntry.objects.count()
    assert api.patch(detail(WEBHOOKS, pk), {"forget_previous_secret": True}, format="json").status_code == 200
    assert LogEntry.objects.count() == before + 1
    entry = LogEntry.objects.order_by("-pk")[0]
    assert json.loads(entry.change_message) == [{"changed": {"fields": ["Previous secret"]}}]


@pytest.mark.one_database
def test_a_large_file_in_a_form_is_refused_by_name(api: APIClient) -> None:
    large = SimpleUploadedFile("large", b"x" * 3_000_000)
    answer = api.post(WEBHOOKS, wanted(file=large, secret="one of the secrets"), format="multipart")
    assert (answer.status_code, list(answer.json())) == (400, ["file"])
    form = wanted(csrfmiddlewaretoken="t") | {"object_types[0]": "dcim.site"}
    assert api.post(WEBHOOKS, form, format="multipart").status_code == 201


# Unknown names


@pytest.mark.one_database
@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_a_misspelt_field_is_refused_with_the_nearest_name(api: APIClient, method: str) -> None:
    pk = define(api).json()["id"]
    url = WEBHOOKS if method == "post" else detail(WEBHOOKS, pk)
    answer = getattr(api, method)(url, wanted(name="other", sercet="tell nobody", zzz=1), format="json")
    assert answer.status_code == 400
    told = answer.json()
    assert told["sercet"] == ["There is no field of this name. Did you mean secret?"]
    assert told["zzz"][0].startswith("There is no field of this name. Known are: id, name, enabled,")
    assert Webhook.objects.get().name == "ledger"


def test_a_response_can_be_sent_back_unchanged(api: APIClient) -> None:
    before = define(api, additional_headers="X-A: 1", body_template="{{ data }}").json()
    after = api.put(detail(WEBHOOKS, before["id"]), before, format="json")
    assert after.status_code == 200, after.content
    assert after.json() == before | {"last_updated": after.json()["last_updated"]}
    adder = client_of("view_webhook", "add_webhook")
    shown = adder.get(detail(WEBHOOKS, before["id"])).json() | {"name": "copy", "payload_url": "https://example.com/in"}
    assert shown["body_template"] is None
    assert adder.post(WEBHOOKS, shown, format="json").status_code == 201
    assert api.patch(detail(WEBHOOKS, before["id"]), {"body_template": None}, format="json").status_code == 200
    assert Webhook.objects.get(name="ledger").body_template == "{{ data }}"


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
            "Known are: object_type, object_id, action, request_id, name, user, created_after, created_before, failed, "
            "webhook, cursor, limit.",
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
    delivery = make_delivery(make_webhook(Thing))
    answer = retry_many(committing, None, sate="failed", webhook=delivery.webhook_id)
    assert answer.json() == {"sate": ["There is no query parameter of this name. Did you mean state?"]}
    assert committing.get(f"{detail(DELIVERIES, delivery.pk)}?state=failed").status_code == 400
    for deed in ("retry", "discard"):
        url = detail(DELIVERIES, delivery.pk, deed)
        assert committing.post(f"{url}?force=1").status_code == 400
        assert "takes no body" in committing.post(url, {"force": True}, format="json").json()[0]
    assert states() == ["failed"]


def test_parameters_of_rest_framework_are_known(api: APIClient) -> None:
    assert api.get(WEBHOOKS, {"format": "json", "version": "1"}).status_code == 200


# Pages


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


def test_webhooks_are_filtered(api: APIClient) -> None:
    things = make_webhook(Thing, on="c", name="Ledger")
    labels = make_webhook(Label, on="d", name="books", enabled=False, failures_in_a_row=3)
    paused = make_webhook(Thing, Label, on="cu", name="Paused ledger", probe_at=NOON, failures_in_a_row=1)

    def found(**parameters: Any) -> set[Webhook]:
        return set(Webhook.objects.filter(pk__in=listed(api, WEBHOOKS, **parameters)))

    assert found() == {things, labels, paused}
    assert (found(enabled="true"), found(enabled="false")) == ({things, paused}, {labels})
    assert (found(paused="true"), found(paused="false")) == ({paused}, {things, labels})
    assert (found(failing="true"), found(failing="false")) == ({labels, paused}, {things})
    assert (found(name="Ledger"), found(name="ledger")) == ({things}, set())
    assert found(q="LEDGER") == {things, paused}
    assert found(object_type="testapp.Thing") == {things, paused}
    assert (found(action="created"), found(action="deleted")) == ({things, paused}, {labels})
    assert found(object_type="testapp.label", enabled="true") == {paused}
    for bad in ({"enabled": "perhaps"}, {"action": "moved"}, {"name": ""}, {"q": "\0"}):
        assert api.get(WEBHOOKS, bad).status_code == 400


def test_blank_values_are_not_stored(api: APIClient) -> None:
    blank = {"secret_headers": "\n  \n", "excluded_usernames": ["  a "], "changed_fields": ["name", " name"]}
    told = define(api, on_updated=True, **blank).json()
    assert told["has_secret_headers"] is False
    assert (told["excluded_usernames"], told["changed_fields"]) == (["a"], ["name"])


@pytest.mark.one_database
@pytest.mark.parametrize("name", ["name.\0", "name.\ud800"])
def test_field_names_that_no_database_stores_are_refused(api: APIClient, name: str) -> None:
    body = json.dumps(
        wanted(object_types=[], on_created=False, custom_events=["testapp.thing_checked"], changed_fields=[name])
    )
    answer = api.post(WEBHOOKS, body, content_type="application/json")
    assert answer.status_code == 400
    assert "U+0000" in answer.json()["changed_fields"][0]
