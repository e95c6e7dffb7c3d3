"""Webhooks in the REST API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_delivery, make_webhook
from tests.support.rest import (
    DELIVERIES,
    EVENTS,
    NOON,
    WEBHOOKS,
    client_of,
    define,
    detail,
    listed,
    wanted,
)
from tests.testapp.models import Label, Thing
from users.models import User
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.testing import capture_webhooks, deliver

pytestmark = pytest.mark.one_database


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
        "identifier": None,
        "description": "",
        "static_data": None,
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
        "unregistered": [],
        "ssl_verification": True,
        "ca_file_path": "",
        "timeout": None,
        "conditions": None,
        "changed_fields": [],
        "only_changes": False,
        "prechange": False,
        "send_trace": False,
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


def test_a_webhook_created_by_the_api_receives_its_post(api: APIClient, inbox: Inbox) -> None:
    assert define(api, object_types=["testapp.label"], payload_url=inbox.url()).status_code == 201
    with capture_webhooks(subscribe=[]):
        Label.objects.create(name="red")
    [attempt] = deliver()
    assert attempt.succeeded
    assert inbox.received()[0].json["data"]["name"] == "red"


@pytest.mark.parametrize(
    ("fields", "key", "message"),
    [
        (
            {"object_types": ["dcim.site", "users.user"]},
            "object_types",
            "Not registered: users.user. Choose from: cir",
        ),
        ({"object_types": ["dcim.sites", "nonsense"]}, "object_types", "Not registered: dcim.sites, nonsense. Choose"),
        ({"object_types": ["testapp.thingproxy"]}, "object_types", "Not registered: testapp.thingproxy. Choose"),
        ({"object_types": ["users.user"]}, "object_types", 'setting WEBHOOKS["MODELS"] or call webhooks.register()'),
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


def test_a_model_that_is_not_registered_stays_until_a_request_leaves_it_out(api: APIClient) -> None:
    pk = define(api).json()["id"]
    users = ContentType.objects.get_for_model(User)
    Webhook.object_types.through.objects.create(webhook_id=pk, contenttype=users)
    own, both = detail(WEBHOOKS, pk), ["dcim.site", "users.user"]
    for method, body in (
        ("patch", {"name": "renamed"}),
        ("put", api.get(own).json() | {"timeout": 7}),
        ("patch", {"object_types": ["dcim.rack", *both]}),
    ):
        answer = getattr(api, method)(own, body, format="json")
        assert answer.status_code == 200, answer.content
        assert answer.json()["object_types"] == sorted(body.get("object_types", both))
    assert api.patch(own, {"object_types": ["dcim.site"]}, format="json").json()["object_types"] == ["dcim.site"]
    refused = api.patch(own, {"object_types": both}, format="json")
    assert (refused.status_code, refused.json()["object_types"][0][:27]) == (400, "Not registered: users.user.")


def test_a_model_that_is_not_registered_and_that_another_user_removes_meanwhile_does_not_come_back(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pk = define(api).json()["id"]
    Webhook.object_types.through.objects.create(webhook_id=pk, contenttype=ContentType.objects.get_for_model(User))
    save_settings = Webhook.save_settings

    def save_second(self: Webhook, *args: Any) -> bool:
        self.object_types.remove(ContentType.objects.get_for_model(User))
        return save_settings(self, *args)

    monkeypatch.setattr(Webhook, "save_settings", save_second)
    body = {"name": "renamed", "object_types": ["dcim.site", "users.user"]}
    answer = api.patch(detail(WEBHOOKS, pk), body, format="json")
    assert (answer.status_code, "this webhook was changed" in answer.json()["detail"]) == (409, True)
    assert Webhook.objects.get().name == "ledger"


def test_new_models_replace_the_old_ones(api: APIClient) -> None:
    pk = define(api).json()["id"]
    answer = api.patch(detail(WEBHOOKS, pk), {"object_types": ["dcim.rack", "ipam.vlan"]}, format="json")
    assert answer.json()["object_types"] == ["dcim.rack", "ipam.vlan"]


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


@pytest.mark.cost
def test_deleting_a_webhook_deletes_its_deliveries_in_a_fixed_number_of_queries(api: APIClient) -> None:
    others = make_delivery(make_webhook(Thing))
    costs = []
    for count in (2, 2, 20):  # the first deletion fills caches
        webhook = make_webhook(Thing)
        for number in range(count):
            make_attempt(make_delivery(webhook, object_id=str(number)))
        with CaptureQueriesContext(connection) as queries:
            assert api.delete(detail(WEBHOOKS, webhook.pk)).status_code == 204
        costs.append(len(queries))
    assert list(Delivery.objects.all()) == [others]
    assert not Attempt.objects.exists()
    assert costs[1] == costs[2]


def test_enabling_a_webhook_wakes_a_worker(database: str, redis: Any) -> None:
    api = client_of(is_superuser=True)
    pk = define(api, enabled=False).json()["id"]
    assert redis.dbsize() == 0
    api.patch(detail(WEBHOOKS, pk), {"enabled": True}, format="json")
    assert redis.llen("rq:queue:webhooks") == 1


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


def test_the_history_records_that_the_previous_secret_was_forgotten(api: APIClient) -> None:
    pk = define(api, secret="the first of the secrets").json()["id"]
    api.patch(detail(WEBHOOKS, pk), {"secret": "the second of the secrets"}, format="json")
    before = LogEntry.objects.count()
    assert api.patch(detail(WEBHOOKS, pk), {"forget_previous_secret": True}, format="json").status_code == 200
    assert LogEntry.objects.count() == before + 1
    entry = LogEntry.objects.order_by("-pk")[0]
    assert json.loads(entry.change_message) == [{"changed": {"fields": ["Previous secret"]}}]


def test_a_large_file_in_a_form_is_refused_by_name(api: APIClient) -> None:
    large = SimpleUploadedFile("large", b"x" * 3_000_000)
    answer = api.post(WEBHOOKS, wanted(file=large, secret="one of the secrets"), format="multipart")
    assert (answer.status_code, list(answer.json())) == (400, ["file"])
    form = wanted(csrfmiddlewaretoken="t") | {"object_types[0]": "dcim.site"}
    assert api.post(WEBHOOKS, form, format="multipart").status_code == 201


@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_a_misspelt_field_is_refused_with_the_nearest_name(api: APIClient, method: str) -> None:
    pk = define(api).json()["id"]
    url = WEBHOOKS if method == "post" else detail(WEBHOOKS, pk)
    answer = getattr(api, method)(url, wanted(name="other", sercet="tell nobody", zzz=1), format="json")
    assert answer.status_code == 400
    told = answer.json()
    assert told["sercet"] == ["There is no field of this name. Did you mean secret?"]
    assert told["zzz"][0].startswith("There is no field of this name. Known are: id, name, payload_url,")
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


@pytest.mark.parametrize("name", ["name.\0", "name.\ud800"])
def test_field_names_that_no_database_stores_are_refused(api: APIClient, name: str) -> None:
    body = json.dumps(
        wanted(object_types=[], on_created=False, custom_events=["testapp.thing_checked"], changed_fields=[name])
    )
    answer = api.post(WEBHOOKS, body, content_type="application/json")
    assert answer.status_code == 400
    assert "U+0000" in answer.json()["changed_fields"][0]


def test_a_put_resets_what_it_leaves_out_and_keeps_the_secrets(api: APIClient) -> None:
    plain = define(api).json()
    settings = {
        "enabled": False, "on_updated": True, "custom_events": ["dcim.rack_audited"], "changed_fields": ["name"],
        "conditions": {"attr": "name", "value": "x"}, "http_method": "PUT", "additional_headers": "X-A: 1",
        "body_template": "{{ data }}", "timeout": 7, "ordered": False, "excluded_usernames": ["bot"],
        "content_type": "text/plain", "ssl_verification": False, "only_changes": True, "prechange": True,
        "send_trace": True,
    }  # fmt: skip
    made = define(api, name="other", secret="first", secret_headers="X-Token: hush", **settings)
    assert made.status_code == 201, made.content
    pk = made.json()["id"]
    # A change of the verification sends the secret headers elsewhere.
    answer = api.put(detail(WEBHOOKS, pk), wanted(name="other", secret_headers="X-Token: hush"), format="json")
    assert answer.status_code == 200, answer.content
    same = {"id", "name", "created", "last_updated", "has_secret", "has_secret_headers"}
    assert {name: answer.json()[name] for name in plain if name not in same} == {
        name: plain[name] for name in plain if name not in same
    }
    webhook = Webhook.objects.get(pk=pk)
    assert (webhook.secret, webhook.secret_headers) == ("first", "X-Token: hush")


def test_a_put_without_models_or_actions_is_refused_like_a_new_webhook(api: APIClient) -> None:
    pk = define(api).json()["id"]
    for name, refused in (("object_types", "object_types"), ("on_created", "non_field_errors")):
        body = wanted()
        del body[name]
        answer = api.put(detail(WEBHOOKS, pk), body, format="json")
        assert (answer.status_code, list(answer.json())) == (400, [refused])


@pytest.mark.parametrize(
    ("stored", "refused"),
    [
        ({"serializer": "gone"}, "serializer"),
        ({"payload_url": "ftp://example.com/"}, "payload_url"),
        ({"changed_fields": ["gone"]}, "changed_fields"),
        ({"body_template": "{% if %}"}, "body_template"),
        ({"custom_events": ["testapp.gone"]}, "custom_events"),
        ({"conditions": {"and": 5}}, "conditions"),
    ],
)
def test_a_request_is_judged_by_what_it_names(api: APIClient, stored: dict[str, Any], refused: str) -> None:
    pk = define(api).json()["id"]
    Webhook.objects.update(**stored)
    url = detail(WEBHOOKS, pk)
    for body in ({"name": "renamed"}, {"enabled": False}):
        answer = api.patch(url, body, format="json")
        assert answer.status_code == 200, answer.content
    # What enables it sends all of it, and a PUT names all of it.
    whole = api.get(url).json()
    for method, body in (("patch", {"enabled": True}), ("patch", stored), ("put", whole)):
        answer = getattr(api, method)(url, body, format="json")
        assert (answer.status_code, list(answer.json())) == (400, [refused])
    assert Webhook.objects.get().enabled is False


def test_a_new_value_that_makes_a_stored_one_invalid_is_refused(api: APIClient) -> None:
    made = define(api, changed_fields=["physical_address"], on_updated=True, ca_file_path="/ca.pem")
    assert made.status_code == 201, made.content
    pk = made.json()["id"]
    for body, refused in (({"object_types": ["dcim.rack"]}, "changed_fields"), ({"ssl_verification": False}, "ca_fil")):
        answer = api.patch(detail(WEBHOOKS, pk), body, format="json")
        assert answer.status_code == 400
        assert next(iter(answer.json())).startswith(refused)
