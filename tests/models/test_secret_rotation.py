"""A secret is replaced without a gap: real receivers verify requests before, during and after."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
import standardwebhooks
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from tests.support.admin_pages import form
from tests.support.draining import drain, states, work_for
from tests.support.inbox import Inbox, Received
from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from users.models import User
from webhooks.ground.security.encryption import Secret
from webhooks.models import Attempt, MediaType, State, Webhook

pytestmark = pytest.mark.usefixtures("database")

OLDEST, OLD, NEW = (f"whsec_{base64.b64encode(letter * 24).decode()}" for letter in (b"a", b"b", b"c"))


def accepts(secret: str, received: Received) -> bool:
    """Whether the reference library of Standard Webhooks accepts it."""
    try:
        standardwebhooks.Webhook(secret).verify(received.body, received.headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def send(inbox: Inbox) -> Received:
    """Change an object, and return the request that the receiver gets."""
    Thing.objects.create(name="a")
    drain()
    return inbox.received()[-1]


def accepted(inbox: Inbox) -> list[bool]:
    received = send(inbox)
    return [accepts(secret, received) for secret in (OLDEST, OLD, NEW)]


@pytest.fixture
def webhook(inbox: Inbox) -> Webhook:
    return make_webhook(Thing, name="CMDB", url=inbox.url(), secret=OLD)


@pytest.fixture
def admin(database: str) -> User:
    return User.objects.create_superuser("alice", "-")


def by_code(webhook: Webhook, admin: User, secret: str) -> None:
    fresh = Webhook.objects.get()
    fresh.replace_secret(Secret(secret))
    fresh.save()


def by_admin(webhook: Webhook, admin: User, secret: str) -> None:
    client = Client()
    client.force_login(admin)
    models = [one.pk for one in webhook.object_types.all()]
    data = form(secret=secret, payload_url=webhook.payload_url, object_types=models)
    assert client.post(reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk]), data).status_code == 302


def by_api(webhook: Webhook, admin: User, secret: str) -> None:
    client = APIClient()
    client.force_authenticate(admin)
    answer = client.patch(f"/api/webhooks/webhooks/{webhook.pk}/", {"secret": secret}, format="json")
    assert answer.status_code == 200, answer.content
    assert answer.json()["previous_secret_until"]


def let_pass(**time: float) -> None:
    until = Webhook.objects.get().previous_secret_until
    Webhook.objects.update(previous_secret_until=until and until - timedelta(**time))


@pytest.fixture(autouse=True)
def allow_loopback_where_a_webhook_is_saved(webhooks_settings: Any) -> None:
    webhooks_settings(ALLOW_NETWORKS=["127.0.0.0/8"])


@pytest.mark.parametrize("replace", [by_code, by_admin, by_api])
def test_both_secrets_sign_for_a_day_and_then_only_the_new_one(
    webhook: Webhook, admin: User, inbox: Inbox, replace: Any
) -> None:
    assert accepted(inbox) == [False, True, False]
    replace(webhook, admin, NEW)
    left = Webhook.objects.get().previous_secret_until - timezone.now()
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)
    assert accepted(inbox) == [False, True, True]
    let_pass(hours=23, minutes=59)
    assert accepted(inbox) == [False, True, True]
    let_pass(minutes=1, seconds=1)
    assert accepted(inbox) == [False, False, True]
    with transaction.atomic():
        Webhook.objects.delete_expired_secrets()  # unless a worker has swept meanwhile
    fresh = Webhook.objects.get()
    assert (bool(fresh.previous_secret), fresh.previous_secret_until, fresh.secret) == (False, None, NEW)
    assert accepted(inbox) == [False, False, True]


def test_the_overlap_is_a_setting(webhook: Webhook, admin: User, inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(SECRET_OVERLAP=3600)
    by_code(webhook, admin, NEW)
    assert Webhook.objects.get().previous_secret_until - timezone.now() < timedelta(hours=1)
    webhooks_settings(SECRET_OVERLAP=0)
    by_code(webhook, admin, OLDEST)
    assert accepted(inbox) == [True, False, False]


def test_only_one_previous_secret_signs(webhook: Webhook, admin: User, inbox: Inbox) -> None:
    Webhook.objects.update(secret=OLDEST)
    by_code(webhook, admin, OLD)
    by_code(webhook, admin, NEW)
    assert accepted(inbox) == [False, True, True]


def test_entering_the_same_secret_changes_nothing(webhook: Webhook, admin: User, inbox: Inbox) -> None:
    by_code(webhook, admin, NEW)
    until = Webhook.objects.get().previous_secret_until
    by_code(webhook, admin, NEW)
    assert Webhook.objects.get().previous_secret_until == until
    assert accepted(inbox) == [False, True, True]


def test_clearing_the_secret_ends_all_signing(webhook: Webhook, admin: User, inbox: Inbox) -> None:
    by_code(webhook, admin, NEW)
    by_code(webhook, admin, "")
    received = send(inbox)
    assert "webhook-signature" not in received.headers
    assert not Webhook.objects.get().previous_secret


def test_the_overlap_can_be_ended_at_once(webhook: Webhook, admin: User, inbox: Inbox) -> None:
    client = Client()
    client.force_login(admin)
    address = reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])
    assert "Stop signing with the previous secret" not in client.get(address).content.decode()
    by_code(webhook, admin, NEW)
    shown = client.get(address).content.decode()
    assert "Stop signing with the previous secret now" in shown
    assert "It signs together with the new one until 20" in shown
    models = [one.pk for one in webhook.object_types.all()]
    data = form(payload_url=webhook.payload_url, object_types=models, forget_previous_secret="on")
    assert client.post(address, data).status_code == 302
    assert accepted(inbox) == [False, False, True]

    by_code(webhook, admin, OLD)
    api = APIClient()
    api.force_authenticate(admin)
    api.patch(f"/api/webhooks/webhooks/{webhook.pk}/", {"forget_previous_secret": True}, format="json")
    assert accepted(inbox) == [False, True, False]
    api.patch(f"/api/webhooks/webhooks/{webhook.pk}/", {"secret": NEW, "forget_previous_secret": True}, format="json")
    assert accepted(inbox) == [False, False, True]


def test_a_retry_signs_with_the_current_secret(
    webhook: Webhook, admin: User, inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0])
    Webhook.objects.update(payload_url=inbox.url("fail-first/1"), content_type=MediaType.FORM)
    by_code(webhook, admin, NEW)
    Thing.objects.create(name="a")
    drain()
    assert len(inbox.received()) == 2
    for one in inbox.received():
        signatures = one.headers["webhook-signature"].split(" ")
        assert len(signatures) == 2


# Secret headers


def test_secret_headers_are_sent_but_not_stored_with_attempts(webhook: Webhook, inbox: Inbox) -> None:
    Webhook.objects.update(
        payload_url=inbox.url("echo"), secret_headers="Authorization: Bearer tok-12345678\nX-Api-Key: 4711-0815\n"
    )
    received = send(inbox)
    assert received.headers["authorization"] == "Bearer tok-12345678"
    assert received.headers["x-api-key"] == "4711-0815"
    assert accepts(OLD, received)
    attempt = Attempt.objects.get()
    assert "authorization: ********" in attempt.response_body.lower()
    assert {name: attempt.request_headers[name] for name in ("Authorization", "X-Api-Key")} == {
        "Authorization": "********",
        "X-Api-Key": "********",
    }
    kept = f"{attempt.request_headers}{attempt.response_body}{attempt.response_headers}{attempt.reason}"
    assert "tok-12345678" not in kept
    assert "4711-0815" not in kept


# Missing keys


def test_deliveries_wait_without_the_key_and_succeed_when_it_is_back(
    webhook: Webhook, inbox: Inbox, settings: Any, webhooks_settings: Any, app_log: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0], PAUSE_AFTER=100)
    known = settings.SECRET_KEY
    settings.SECRET_KEY = "changed, and the old one forgotten"
    Thing.objects.create(name="a")
    work_for(1)
    assert (states(), inbox.received()) == ([State.PENDING], [])
    assert not Attempt.objects.exists()
    assert (
        "the secret of webhook “CMDB” cannot be used: it cannot be decrypted: its key is no longer in the settings. "
        'Put that key back, at the end of WEBHOOKS["ENCRYPTION_KEYS"] or in SECRET_KEY_FALLBACKS, or enter the text '
        "again."
    ) in app_log.text
    assert OLD not in app_log.text
    settings.SECRET_KEY_FALLBACKS = [known]
    drain()
    [received] = inbox.received()
    assert states() == [State.SUCCEEDED]
    assert accepts(OLD, received)


def test_the_admin_reports_an_unreadable_secret_and_accepts_a_new_one(
    webhook: Webhook, admin: User, inbox: Inbox, settings: Any, redis: Any
) -> None:
    settings.SECRET_KEY = "changed, and the old one forgotten"
    client = Client()
    client.force_login(admin)
    told = "A value is stored, but nothing is sent: it cannot be decrypted"
    assert told in client.get(reverse("admin:rq_webhooks_webhook_change", args=[webhook.pk])).content.decode()
    status = client.get(reverse("webhooks_backend_status")).context["shown"].status.alarms
    assert any("The secret of “CMDB” cannot be decrypted" in alarm.text for alarm in status)
    by_admin(webhook, admin, "")
    assert Webhook.objects.get().unreadable == ["secret"], "an empty input keeps it"
    by_admin(webhook, admin, NEW)
    fresh = Webhook.objects.get()
    assert (fresh.unreadable, bool(fresh.previous_secret)) == ([], False)
    assert accepted(inbox) == [False, False, True]


def test_an_unreadable_previous_secret_does_not_stop_signing(
    webhook: Webhook, admin: User, inbox: Inbox, settings: Any
) -> None:
    by_code(webhook, admin, NEW)
    known, settings.SECRET_KEY = settings.SECRET_KEY, "changed, and the old one forgotten"
    Webhook.objects.update(secret=NEW)
    assert accepted(inbox) == [False, False, True]
    settings.SECRET_KEY_FALLBACKS = [known]
    assert accepted(inbox) == [False, True, True]
