"""A test of a webhook, sent like any other Event."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db.models import Q
from django.test import Client
from django.urls import reverse

from dcim.models import Site
from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook, to_view_objects
from webhooks.models import Event, State, Webhook
from webhooks.operations.webhooks import ping

pytestmark = pytest.mark.usefixtures("database")


def client_of(*permissions: str) -> Client:
    user = User.objects.create_user("tester", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(Q(codename__in=permissions) | to_view_objects()))
    client = Client()
    client.force_login(user)
    return client


def address(webhook: Webhook, deed: str) -> str:
    return reverse(f"admin:webhooks_webhook_{deed}", args=[webhook.pk])


def test_a_test_is_an_event_with_a_delivery_to_this_webhook_alone(inbox: Inbox) -> None:
    webhook, _ = make_webhook(Site, name="CMDB", url=inbox.url(), secret="s"), make_webhook(Site, url=inbox.url())
    event = ping(webhook)
    drain()
    [received] = inbox.received()
    body = received.json
    assert (body["event"], body["object_type"], body["model"]) == ("ping", "webhooks.ping", "ping")
    assert body["data"] == {"id": event.object_id, "display": "test of CMDB"}
    assert body["snapshots"] == {"prechange": None, "postchange": None}
    assert "x-hook-signature" in received.headers
    assert [one.webhook for one in event.deliveries.all()] == [webhook]


def test_a_test_that_fails_keeps_no_later_one_waiting(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    webhook = make_webhook(Site, url=inbox.url("fail-first/1"))
    for _ in range(2):
        ping(webhook)
        drain()
    assert states() == [State.PENDING, State.SUCCEEDED]


def test_a_paused_webhook_is_probed_by_its_test(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600], PAUSE_AFTER=1)
    webhook = make_webhook(Site, url=inbox.url("fail-first/1"))
    make_event(webhook)
    drain()
    assert Webhook.objects.get().is_paused
    ping(webhook)
    drain()
    assert states() == [State.PENDING, State.SUCCEEDED]
    assert not Webhook.objects.get().is_paused


def test_an_admin_sends_one_from_the_page_of_the_webhook(inbox: Inbox) -> None:
    webhook = make_webhook(Site, url=inbox.url())
    client = client_of("view_webhook", "change_webhook", "view_event")
    assert f'action="{address(webhook, "ping")}"' in client.get(address(webhook, "change")).content.decode()
    shown = client.post(address(webhook, "ping"), follow=True).content.decode()
    event = Event.objects.get()
    assert re.search(rf"The test is on its way. See <a [^>]*>event {event.pk}</a>", shown)
    assert (event.username, LogEntry.objects.get().get_change_message()) == ("tester", "Sent a test.")
    drain()
    assert len(inbox.received()) == 1
    assert "ping" in client.get(reverse("admin:webhooks_event_change", args=[event.pk])).content.decode()


def test_a_disabled_webhook_gets_none() -> None:
    webhook = make_webhook(Site, enabled=False)
    client = client_of("view_webhook", "change_webhook")
    assert "Send a test" not in client.get(address(webhook, "change")).content.decode()
    assert "Enable it before you send a test" in client.post(address(webhook, "ping"), follow=True).content.decode()
    assert not Event.objects.exists()


def test_who_may_only_view_sends_none() -> None:
    webhook = make_webhook(Site)
    client = client_of("view_webhook")
    assert "Send a test" not in client.get(address(webhook, "change")).content.decode()
    assert client.post(address(webhook, "ping")).status_code == 403
    assert client.get(address(webhook, "ping")).status_code == 405
    assert not Event.objects.exists()


def test_a_webhook_that_is_not_there_gets_none(admin_client: Client) -> None:
    assert admin_client.post(reverse("admin:webhooks_webhook_ping", args=[7])).status_code == 404
