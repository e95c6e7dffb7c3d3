"""Webhooks in the forms of REST framework's browsable pages, as a browser posts them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from rest_framework.test import APIClient

from tests.support.html_forms import fields_of
from tests.support.rest import WEBHOOKS, define, detail
from webhooks.models import Webhook

SECRETS = {"secret": "one of the secrets", "secret_headers": "X-Token: hush"}
OTHERS = {
    "enabled": False, "on_updated": True, "on_deleted": True, "conditions": {"attr": "name", "value": "x"},
    "changed_fields": ["name"], "excluded_usernames": ["bot"], "object_types": ["dcim.site", "dcim.rack"],
    "http_method": "PUT", "content_type": "application/json", "additional_headers": "X-A: 1\nX-B: 2",
    "body_template": "{{ data }}", "timeout": 7, "ordered": False, "only_changes": True, "prechange": True,
    "ssl_verification": False, "send_trace": True,
}  # fmt: skip


def opened(api: APIClient, pk: Any) -> dict[str, str]:
    page = api.get(detail(WEBHOOKS, pk), headers={"accept": "text/html"})
    fields = {name: value for name, [value] in fields_of(page.content.decode(), 'id="put-object-form"').items()}
    assert {"name", "secret", "secret_headers", "payload_url"} <= fields.keys()
    return fields


@pytest.mark.one_database
@pytest.mark.parametrize("sent_as", ["multipart", "form"])
def test_a_rename_in_the_form_changes_the_name_alone(api: APIClient, sent_as: str) -> None:
    before = define(api, **SECRETS, **OTHERS).json()
    fields = opened(api, before["id"]) | {"name": "renamed"}
    if sent_as == "form":
        content_type = "application/x-www-form-urlencoded"
        answer = api.put(detail(WEBHOOKS, before["id"]), urlencode(fields), content_type=content_type)
    else:
        answer = api.put(detail(WEBHOOKS, before["id"]), fields, format="multipart")
    assert answer.status_code == 200, answer.content
    after = answer.json()
    assert {name for name in after if after[name] != before[name]} == {"name", "last_updated"}
    webhook = Webhook.objects.get()
    assert (webhook.secret, webhook.secret_headers) == (SECRETS["secret"], SECRETS["secret_headers"])


@pytest.mark.one_database
def test_a_form_can_replace_a_secret_and_clear_other_fields(api: APIClient) -> None:
    before = define(api, **SECRETS, **OTHERS).json()
    changed = {"secret": "another of the secrets", "additional_headers": "", "timeout": ""}
    answer = api.put(detail(WEBHOOKS, before["id"]), opened(api, before["id"]) | changed, format="multipart")
    assert answer.status_code == 200, answer.content
    webhook = Webhook.objects.get()
    assert (webhook.secret, webhook.secret_headers) == (changed["secret"], SECRETS["secret_headers"])
    assert (webhook.additional_headers, webhook.timeout) == ("", None)


@pytest.mark.one_database
@pytest.mark.parametrize("blank", ["", " ", "\r\n"])
@pytest.mark.parametrize("method", ["put", "patch"])
def test_an_empty_secret_of_a_form_keeps_the_stored_one_and_json_clears_it(
    api: APIClient, method: str, blank: str
) -> None:
    pk = define(api, **SECRETS).json()["id"]
    form = opened(api, pk) | dict.fromkeys(SECRETS, blank)
    assert getattr(api, method)(detail(WEBHOOKS, pk), form, format="multipart").status_code == 200
    webhook = Webhook.objects.get()
    assert (webhook.secret, webhook.secret_headers) == (SECRETS["secret"], SECRETS["secret_headers"])
    cleared = api.patch(detail(WEBHOOKS, pk), dict.fromkeys(SECRETS, ""), format="json").json()
    assert (cleared["has_secret"], cleared["has_secret_headers"]) == (False, False)


@pytest.mark.one_database
def test_a_form_with_a_new_url_must_have_the_secret_headers_again(api: APIClient) -> None:
    pk = define(api, **SECRETS).json()["id"]
    form = opened(api, pk) | {"payload_url": "https://other.example.com/"}
    answer = api.put(detail(WEBHOOKS, pk), form, format="multipart")
    assert (answer.status_code, list(answer.json())) == (400, ["secret_headers"])
    assert Webhook.objects.get().secret_headers == SECRETS["secret_headers"]
