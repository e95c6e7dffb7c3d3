"""Invalid filters of a webhook are refused when it is saved: by the model, the admin and the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from rest_framework import serializers
from rest_framework.test import APIClient

from dcim.models import Device, Site
from tests.support.makers import make_webhook
from webhooks.ground import registry
from webhooks.models import Webhook

pytestmark = pytest.mark.usefixtures("database")

RULE = {"and": [{"attr": "status.value", "value": "active"}, {"attr": "name", "op": "is", "value": "x"}]}
PLACE = "and[1].op: there is no operator 'is'; use one of eq"


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"conditions": RULE}, "conditions", PLACE),
        ({"conditions": [1]}, "conditions", "A condition must be an object"),
        (
            {"conditions": {"attr": "snapshots.prechange.a", "op": "changed"}},
            "conditions",
            "write 'a', not 'snapshots.",
        ),
        ({"conditions": {"attr": "name", "value": "a\x00b"}}, "conditions", "U+0000"),
        ({"conditions": {"attr": "name", "value": "\ud800"}}, "conditions", "lone surrogate"),
        ({"conditions": {"attr": "name", "value": float("nan")}}, "conditions", "NaN"),
        ({"changed_fields": "status"}, "changed_fields", "list of field names"),
        ({"changed_fields": ["status", 1]}, "changed_fields", "list of field names"),
    ],
)
def test_the_model_refuses_invalid_filters_and_says_where(fields: dict[str, Any], field: str, told: str) -> None:
    webhook = make_webhook(Site)
    for name, value in fields.items():
        setattr(webhook, name, value)
    with pytest.raises(ValidationError) as caught:
        webhook.full_clean()
    assert told in caught.value.message_dict[field][0]


def test_all_problems_are_reported_at_once() -> None:
    wrong = {"changed_fields": "status", "conditions": [1], "custom_events": ["none"]}
    webhook = make_webhook(Site)
    for name, value in wrong.items():
        setattr(webhook, name, value)
    webhook.new_object_types = []
    with pytest.raises(ValidationError) as caught:
        webhook.full_clean()
    assert caught.value.message_dict.keys() == {"changed_fields", "conditions", "custom_events", "object_types"}


@pytest.mark.parametrize("empty", [None, {}, [], ""])
def test_empty_conditions_are_none(empty: Any) -> None:
    webhook = make_webhook(Site)
    webhook.conditions = empty
    webhook.full_clean()
    assert webhook.conditions is None


def test_the_api_accepts_filters_and_names_problems(api: APIClient) -> None:
    webhook = make_webhook(Site, Device)
    address = f"/api/webhooks/webhooks/{webhook.pk}/"
    taken = {"conditions": RULE["and"][0], "changed_fields": ["tags", "custom_fields.zone", "rack"], "prechange": True}
    answer = api.patch(address, taken, format="json")
    assert answer.status_code == 200, answer.json()
    assert {name: answer.json()[name] for name in taken} == taken
    assert PLACE in api.patch(address, {"conditions": RULE}, format="json").json()["conditions"][0]
    refused = api.patch(address, {"changed_fields": ["tags", "colour", "device_count"]}, format="json").json()
    assert "'colour', 'device_count'" in refused["changed_fields"][0]
    assert "custom_fields" in refused["changed_fields"][0]
    # A name that only a model has which is no longer chosen.
    refused = api.patch(address, {"object_types": ["dcim.site"]}, format="json").json()
    assert "'rack'" in refused["changed_fields"][0]
    assert api.patch(address, {"conditions": {}}, format="json").json()["conditions"] is None


def the_form(**fields: Any) -> dict[str, Any]:
    sites = ContentType.objects.get_for_model(Site).pk
    return {
        "name": "a", "payload_url": "http://127.0.0.1:1/", "object_types": [sites], "on_updated": "on", "enabled": "on",
        "http_method": "POST", "content_type": "application/json", "ordered": "on", "ssl_verification": "on", **fields,
    }  # fmt: skip


def test_the_form_accepts_filters_and_names_problems(admin_client: Any) -> None:
    address = "/admin/rq_webhooks/webhook/add/"
    wrong = {"conditions": json.dumps(RULE), "changed_fields": "status colour"}
    page = admin_client.post(address, the_form(**wrong)).content.decode()
    assert "and[1].op: there is no operator" in page
    assert "No chosen model has &#x27;colour&#x27;" in page
    assert "&quot;is&quot;" in page, "what was entered is still there"
    shown = admin_client.post(address, the_form(conditions="{")).content.decode()
    assert "This is not JSON: Expecting property name enclosed in double quotes: line 1 column 2" in shown
    for long in (
        "[" * 100_000,
        "[" * 900 + "]" * 900,
        "[" * 5000 + "]" * 5000,
        f'{{"attr": "id", "value": {"1" * 5000}}}',
    ):
        assert "conditions" in admin_client.post(address, the_form(conditions=long)).context["adminform"].form.errors
    right = {"conditions": json.dumps(RULE["and"][0]), "changed_fields": "status, tags", "only_changes": "on"}
    assert admin_client.post(address, the_form(**right)).status_code == 302
    webhook = Webhook.objects.get()
    assert (webhook.conditions, webhook.changed_fields) == (RULE["and"][0], ["status", "tags"])
    assert (webhook.only_changes, webhook.prechange) == (True, False)
    page = admin_client.get(f"/admin/rq_webhooks/webhook/{webhook.pk}/change/").content.decode()
    assert "status, tags" in page
    assert "&quot;status.value&quot;" in page
    empty = the_form(name="b", conditions=" \r\n")
    assert admin_client.post(address, empty).status_code == 302, "white space is no condition"


class Particular(serializers.ModelSerializer):
    """Has other fields for each user."""

    class Meta:
        model = Site
        fields = ("id", "name", "slug")

    def get_fields(self) -> Any:
        shown = super().get_fields()
        return shown if self.context["request"].user.is_staff else {"name": shown["name"]}


class Broken(serializers.ModelSerializer):
    def get_fields(self) -> Any:
        raise RuntimeError("this serializer cannot be asked")


@pytest.fixture
def sites_by(api: APIClient, own_registrations: None) -> Any:
    """Register a serializer for sites, change a webhook for them by the API, and return the response."""
    webhook = make_webhook(Site)

    def answer(serializer: Any, **fields: Any) -> Any:
        registry.register(Site, serializer)
        return api.patch(f"/api/webhooks/webhooks/{webhook.pk}/", fields, format="json")

    return answer


def test_a_serializer_that_asks_for_the_request_is_given_one(sites_by: Any) -> None:
    assert sites_by(Particular, enabled=True).status_code == 200
    assert sites_by(Particular, changed_fields=["name"]).status_code == 200
    assert "Choose from: name." in sites_by(Particular, changed_fields=["slug"]).json()["changed_fields"][0]


def test_a_serializer_that_cannot_be_asked_refuses_nothing(
    sites_by: Any, app_log: pytest.LogCaptureFixture, admin_client: Any
) -> None:
    assert sites_by(Broken, enabled=True).status_code == 200
    assert "Cannot list the fields" not in app_log.text
    assert sites_by(Broken, changed_fields=["colour"]).status_code == 200
    assert "this serializer cannot be asked" in app_log.text
    address = "/admin/rq_webhooks/webhook/add/"
    assert admin_client.post(address, the_form(changed_fields="colour")).status_code == 302


@pytest.mark.parametrize("name", ["status.value", "tenant.name", "tags.slug"])
def test_a_name_behind_a_field_that_holds_none_is_refused(api: APIClient, name: str) -> None:
    webhook = make_webhook(Site)
    answer = api.patch(f"/api/webhooks/webhooks/{webhook.pk}/", {"changed_fields": [name]}, format="json")
    assert f"Write '{name.partition('.')[0]}'." in answer.json()["changed_fields"][0]


@pytest.mark.parametrize("names", [["custom_fields.\0"], ["\0"], ["custom_fields.\ud800"]])
@pytest.mark.parametrize("models", [[Site], []])
def test_names_that_no_database_takes_are_refused(database: str, names: list[str], models: list[Any]) -> None:
    webhook = Webhook(name="CMDB", payload_url="https://a.example.com/", custom_events=["dcim.rack_audited"])
    webhook.changed_fields, webhook.new_object_types = names, list(ContentType.objects.get_for_models(*models).values())
    with pytest.raises(ValidationError, match="databases do not store as JSON"):
        webhook.full_clean()
