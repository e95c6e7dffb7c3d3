"""An attempt keeps its request as it was sent: method, URL, headers and body, without secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.fernet import Fernet
from django.db import transaction
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from tests.support.draining import drain, states
from tests.support.inbox import Inbox, Received
from tests.support.makers import make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.delivery import retention
from webhooks.ground.security.encryption import Secret
from webhooks.ground.text.redaction import REDACTED
from webhooks.models import Attempt, Body, Delivery, Event, Method, State, Webhook
from webhooks.operations.webhooks import rotate_keys

pytestmark = pytest.mark.usefixtures("database")

KEY, NEW_KEY = (base64.b64encode(f"planted key {number} 0123456789".encode()).decode() for number in range(2))
PLANTED = (KEY, NEW_KEY, "planted-token-1", "planted-token-2", "planted-cookie", "planted-api-key", "planted-me")

# HTTP adds these headers to the request.
OF_HTTP = {"host", "content-length", "accept-encoding"}

FORM = "application/x-www-form-urlencoded"
TEMPLATE = '{"id": {{ data.id }}, "name": {{ data.name | tojson }}, "event": "{{ event }}"}'
KINDS: list[dict[str, Any]] = [
    {},
    {"content_type": FORM},
    {"content_type": f"{FORM}; charset=utf-8", "http_method": "PATCH"},
    {"body_template": TEMPLATE, "http_method": "PUT"},
    {"body_template": "Zürich 東京 \U0001f310 {{ data.name }}", "content_type": "text/plain; charset=utf-8"},
    {"body_template": "{% if false %}nothing{% endif %}", "http_method": "DELETE"},
    {"http_method": "GET", "additional_headers": "X-Id: {{ data.id }}\nx-id: {{ data.id }}, again\nX-Latin: Zürich"},
    {"http_method": "DELETE", "secret_headers": "Authorization: Bearer planted-token-1\nX-Api-Key: planted-api-key"},
    {
        "additional_headers": "cookie: planted-cookie\ncontent-type: text/x",
        "secret_headers": "USER-AGENT: planted-me",
    },
    {"body_template": "always the same", "secret": f"whsec_{NEW_KEY}"},
]
EDITS: list[dict[str, Any]] = [
    {"http_method": "PUT"},
    {"body_template": "now from a template: {{ data.id }}"},
    {"content_type": "application/json"},
    {"body_template": f"[{TEMPLATE}]"},
    {"body_template": ""},
    {"body_template": "x" * 5000 + "{{ data.name }}"},
    {"additional_headers": "X-Other: {{ event }}"},
    {"secret_headers": Secret("Authorization: Bearer planted-token-2")},
    {"content_type": FORM},
    {},
]
NAMES = ["Plain name", 'Zürich 東京 \U0001f310 "quoted" & <more>', "", None]


@pytest.fixture(autouse=True)
def no_retries_and_no_pauses(webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[], PAUSE_AFTER=1000)


def send_all(inbox: Inbox, events: int) -> None:
    """Two attempts of each delivery: the first fails, and before the second one most webhooks are edited."""
    webhooks = [
        make_webhook(
            Thing,
            **{"url": inbox.url(f"status/500/{number}/{{{{ event }}}}" if number % 3 else f"status/500/{number}"),
               "secret": f"whsec_{KEY}", "secret_headers": "Authorization: Basic planted-token-1"} | fields,
        )
        for number, fields in enumerate(KINDS)
    ]  # fmt: skip
    for number in range(events):
        make_event(*webhooks, data=json.dumps({"id": number, "name": NAMES[number % len(NAMES)]}))
    drain(60)
    assert set(states()) == {State.FAILED}
    for number, webhook in enumerate(webhooks):
        webhook.payload_url = webhook.payload_url.replace("status/500", "ok")
        for name, value in EDITS[number].items():
            setattr(webhook, name, value)
        if number % 2:
            webhook.replace_secret(Secret(f"whsec_{NEW_KEY}"))  # the previous secret signs, too
        webhook.save()


def by_delivery(received: list[Received]) -> dict[str, list[Received]]:
    found = defaultdict(list)
    for one in received:
        found[one.headers["webhook-id"]].append(one)
    return found


def assert_is_what_came(shown: dict[str, Any], came: Received) -> None:
    assert shown["method"] == came.method
    assert urlsplit(shown["url"])._replace(scheme="", netloc="").geturl() == came.path
    digest = hashlib.sha256(came.body).hexdigest()
    assert (shown["body_sha256"], hashlib.sha256(shown["body"].encode()).hexdigest()) == (digest, digest)
    headers = {name.lower(): value for name, value in shown["headers"].items()}
    assert len(headers) == len(shown["headers"])
    assert headers.keys() == came.headers.keys() - OF_HTTP
    assert {name: value for name, value in headers.items() if value != REDACTED} == {
        name: value for name, value in came.headers.items() if name in headers and headers[name] != REDACTED
    }
    assert {"x-hook-signature", "webhook-signature"} <= {name for name, value in headers.items() if value == REDACTED}


def assert_no_secret_is_stored() -> None:
    for model in (Attempt, Body, Delivery, Event, Webhook):
        for row in model.objects.values():
            content = zlib.decompress(row.pop("content")).decode() if "content" in row else ""
            found = [secret for secret in PLANTED if secret in f"{row} {content}"]
            # Additional headers are no secret. Attempts redact some of them all the same.
            assert found == (["planted-cookie"] if model is Webhook and "cookie" in row["additional_headers"] else [])


def test_each_attempt_shows_what_the_receiver_got(
    inbox: Inbox, api: APIClient, webhooks_settings: Any, is_long: bool
) -> None:
    events = 50 if is_long else 2 * len(NAMES)
    send_all(inbox, events)
    webhooks_settings(ENCRYPTION_KEYS=[Fernet.generate_key().decode()])
    assert rotate_keys().renewed > len(KINDS)
    Delivery.objects.failed().retry("a test")
    drain(60)
    assert set(states()) == {State.SUCCEEDED}

    came = by_delivery(inbox.received())
    compared = 0
    for delivery in Delivery.objects.all():
        shown = api.get(f"/api/webhooks/deliveries/{delivery.pk}/").json()["attempts"]
        for attempt, received in zip(reversed(shown), came[str(delivery.pk)], strict=True):
            assert_is_what_came(attempt["request"], received)
            compared += 1
    assert compared == 2 * events * len(KINDS)
    assert_no_secret_is_stored()


def attempts(api: APIClient) -> list[dict[str, Any]]:
    """The attempts of the only delivery, the newest first."""
    found: list[dict[str, Any]] = api.get(f"/api/webhooks/deliveries/{Delivery.objects.get().pk}/").json()["attempts"]
    return found


def test_an_event_without_data_is_shown_as_it_was_sent(inbox: Inbox, api: APIClient) -> None:
    for fields in ({}, {"content_type": FORM}):
        make_event(make_webhook(Thing, url=inbox.url(), **fields), data="")
    drain()
    assert {attempt.body_sha256 for attempt in Attempt.objects.all()} == {
        hashlib.sha256(one.body).hexdigest() for one in inbox.received()
    }
    for delivery in Delivery.objects.all():
        [attempt] = api.get(f"/api/webhooks/deliveries/{delivery.pk}/").json()["attempts"]
        assert hashlib.sha256(attempt["request"]["body"].encode()).hexdigest() == attempt["request"]["body_sha256"]


def test_a_body_that_a_template_writes_again_is_stored_once(inbox: Inbox, api: APIClient) -> None:
    webhook = make_webhook(Thing, url=inbox.url("status/500"), body_template="for {{ data.id }}")
    make_event(webhook, data='{"id": 7}')
    for body_template in ("for {{ data.id }}", "for {{ data.id }}", "another for {{ data.id }}", "for {{ data.id }}"):
        Webhook.objects.update(body_template=body_template)
        drain()
        Delivery.objects.failed().retry("a test")
    assert [one["request"]["body"] for one in attempts(api)] == ["for 7", "another for 7", "for 7", "for 7"]
    assert sorted(zlib.decompress(body.content) for body in Body.objects.all()) == [b"another for 7", b"for 7"]
    Delivery.objects.all().discard()
    with transaction.atomic():
        assert retention.purge(Delivery.objects.all(), 10) == 1
    assert not Body.objects.exists()


def test_the_plain_payload_is_not_stored_again(inbox: Inbox) -> None:
    for fields in ({}, {"content_type": FORM}):
        make_event(make_webhook(Thing, url=inbox.url(), **fields))
    drain()
    assert {attempt.body_kind for attempt in Attempt.objects.all()} == {"payload", "form"}
    assert not Body.objects.exists()


def test_the_url_headers_and_body_of_an_attempt_stay_when_the_webhook_changes(inbox: Inbox, api: APIClient) -> None:
    webhook = make_webhook(Thing, url=inbox.url("ok/old"), body_template="old", additional_headers="X-A: old")
    make_event(webhook)
    drain()
    Webhook.objects.update(
        payload_url=inbox.url("ok/new"), body_template="new", additional_headers="X-A: new", http_method=Method.PUT
    )
    [attempt] = attempts(api)
    assert attempt["request"].pop("headers")["X-A"] == "old"
    digest = hashlib.sha256(b"old").hexdigest()
    assert attempt["request"] == {"method": "POST", "url": inbox.url("ok/old"), "body": "old", "body_sha256": digest}


def test_an_attempt_that_could_not_be_composed_has_no_request(api: APIClient) -> None:
    make_event(make_webhook(Thing, body_template="{{ data.nope.deeper }}"))
    drain()
    [attempt] = attempts(api)
    assert attempt["request"] is None
    assert "UndefinedError" in attempt["reason"]
    row = Attempt.objects.get()
    assert (row.method, row.url, row.request_headers, row.body_kind, row.body_sha256) == ("", "", {}, "", "")


def test_a_body_is_not_shown_if_the_event_gives_other_bytes(inbox: Inbox, api: APIClient, admin_client: Client) -> None:
    make_event(make_webhook(Thing, url=inbox.url()), data='{"id": 7}')
    drain()
    Event.objects.update(data='{"id": 8}')
    [attempt] = attempts(api)
    assert attempt["request"]["body"] is None
    assert attempt["request"]["body_sha256"] == hashlib.sha256(inbox.received()[0].body).hexdigest()
    shown = admin_client.get(reverse("admin:rq_webhooks_delivery_change", args=[Delivery.objects.get().pk]))
    assert "the stored event does not give the same bytes again" in shown.content.decode()
