"""Two clients of the REST API change one webhook: ``ETag`` and ``If-Match``."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.utils import timezone
from rest_framework.test import APIClient

from dcim.models import Rack, Site
from tests.support.makers import make_webhook
from tests.support.rest import WEBHOOKS, define, detail, wanted
from webhooks.ground.registry import registered_object_types
from webhooks.models import Webhook
from webhooks.models.webhook import ACTION_FIELDS

pytestmark = pytest.mark.one_database

CHANGED = (
    "Nothing was saved: the settings of the webhook changed since you read them. Read it again, and repeat your change "
    "with its new ETag."
)


def tag_of(api: APIClient, pk: Any) -> str:
    return api.get(detail(WEBHOOKS, pk))["ETag"]


def change(api: APIClient, pk: Any, tag: str, method: str = "patch", **body: Any) -> Any:
    body = wanted(**body) if method == "put" else body
    return getattr(api, method)(detail(WEBHOOKS, pk), body, format="json", headers={"if-match": tag})


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_a_change_of_what_another_client_has_changed_is_refused(api: APIClient, method: str) -> None:
    pk = define(api).json()["id"]
    read = tag_of(api, pk)
    assert change(api, pk, read, payload_url="https://example.com/other").status_code == 200
    refused = change(api, pk, read, method, name="mine")
    assert (refused.status_code, refused.json()) == (412, {"detail": CHANGED})
    webhook = Webhook.objects.get()
    assert (webhook.name, webhook.payload_url) == ("ledger", "https://example.com/other")
    assert change(api, pk, tag_of(api, pk), method, name="mine").status_code in (200, 204)


def test_each_response_with_a_webhook_has_the_tag_of_the_next_change(api: APIClient) -> None:
    made = define(api)
    pk, tag = made.json()["id"], made["ETag"]
    assert tag == tag_of(api, pk)
    for method, body in (("patch", {"timeout": 5}), ("put", {"timeout": 6}), ("patch", {"timeout": 7})):
        answer = change(api, pk, tag, method, **body)
        assert answer.status_code == 200, answer.content
        assert answer["ETag"] not in (tag, "")
        tag = answer["ETag"]
        assert tag == tag_of(api, pk)
    for deed in ("pause", "resume"):
        assert api.post(detail(WEBHOOKS, pk, deed))["ETag"] == tag_of(api, pk)


def test_every_setting_counts(api: APIClient) -> None:
    webhook = make_webhook(Site, previous_secret="older")
    seen = {tag_of(api, webhook.pk)}
    changes: dict[str, Any] = {
        "name": "other", "identifier": "x", "description": "x", "static_data": {"x": 1},
        "enabled": False, "on_updated": False, "custom_events": ["x"], "serializer": "x",
        "conditions": {}, "changed_fields": ["x"], "only_changes": True, "prechange": True, "excluded_usernames": ["x"],
        "payload_url": "https://example.com/2", "http_method": "PUT", "content_type": "text/plain",
        "additional_headers": "X-A: 1", "body_template": "x", "ssl_verification": False, "ca_file_path": "/x",
        "timeout": 3, "ordered": False, "secret": "x", "previous_secret": "y", "secret_headers": "X-B: 1",
        "send_trace": True,
        "previous_secret_until": timezone.now(),
    }  # fmt: skip
    changes["conditions"] = {"attr": "name", "value": 1}
    # A webhook needs an action.
    columns = {field.name for field in Webhook._meta.concrete_fields if field.editable} - {"id", *ACTION_FIELDS}
    assert columns <= changes.keys()
    for name, value in changes.items():
        Webhook.objects.filter(pk=webhook.pk).update(**{name: value})
        tag = tag_of(api, webhook.pk)
        assert tag not in seen, name
        seen.add(tag)
    webhook.object_types.set(registered_object_types().filter(model="rack"))
    assert tag_of(api, webhook.pk) not in seen


def test_what_workers_and_a_rotation_of_keys_write_is_no_change_of_the_settings(
    api: APIClient, webhooks_settings: Any
) -> None:
    pk = define(api, secret="one of the secrets").json()["id"]
    read = tag_of(api, pk)
    Webhook.objects.update(last_success_at=timezone.now(), last_failure="refused", failures_in_a_row=3)
    assert tag_of(api, pk) != read  # it names the whole response, so that no cache shows an old one
    webhooks_settings(ENCRYPTION_KEYS=[Fernet.generate_key().decode()])
    call_command("webhooks_rotate_keys")
    assert change(api, pk, read, name="mine").status_code == 200


@pytest.mark.parametrize("form", ["W/{}", '"other", {}', "*"])
def test_a_weak_tag_a_list_and_any_tag_match(api: APIClient, form: str) -> None:
    """As a proxy that compresses responses makes strong tags weak."""
    pk = define(api).json()["id"]
    assert change(api, pk, form.format(tag_of(api, pk)), name="mine").status_code == 200


@pytest.mark.parametrize("tag", ["", "other", '"other"', '"', '"-"', "\xe9"])
def test_a_tag_that_is_no_tag_of_it_never_matches(api: APIClient, tag: str) -> None:
    pk = define(api).json()["id"]
    assert change(api, pk, tag, name="mine").status_code == 412
    assert change(api, pk + 1, tag, name="mine").status_code == 404


def test_a_tag_is_checked_again_when_the_row_is_locked(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pk = define(api).json()["id"]
    clean = Webhook.full_clean

    def meanwhile(webhook: Webhook, *args: Any, **kwargs: Any) -> None:
        clean(webhook, *args, **kwargs)
        Webhook.objects.get(pk=pk).object_types.set(registered_object_types().filter(model=Rack._meta.model_name))

    monkeypatch.setattr(Webhook, "full_clean", meanwhile)
    assert change(api, pk, tag_of(api, pk), name="mine").status_code == 412
    assert Webhook.objects.get().name == "ledger"


def test_a_tag_reveals_no_secret(api: APIClient, settings: Any) -> None:
    pk = define(api, secret="one of the secrets").json()["id"]
    tags = {tag_of(api, pk)}
    webhook = Webhook.objects.get()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another key", [settings.SECRET_KEY]
    Webhook.objects.filter(pk=webhook.pk).update(secret="one of the secrets")
    assert tag_of(api, pk) not in tags  # without the key of the site, a guess has no tag


def test_pages_for_browsers_have_no_tag(api: APIClient) -> None:
    pk = define(api).json()["id"]
    assert not api.get(detail(WEBHOOKS, pk), headers={"accept": "text/html"}).has_header("ETag")
    assert not api.get(WEBHOOKS).has_header("ETag")


def test_the_conditional_middleware_of_django_shows_no_old_response(api: APIClient, settings: Any) -> None:
    settings.MIDDLEWARE = ["django.middleware.http.ConditionalGetMiddleware", *settings.MIDDLEWARE]
    pk = define(api).json()["id"]
    read = tag_of(api, pk)
    url, headers = detail(WEBHOOKS, pk), {"if-none-match": read}
    assert api.get(url, headers=headers).status_code == 304
    Webhook.objects.update(last_failure="refused")
    assert api.get(url, headers=headers).json()["last_failure"] == "refused"
