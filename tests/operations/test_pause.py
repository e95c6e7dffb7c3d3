"""A user pauses a webhook: its changes are stored, and wait until a user resumes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.admin_pages import STATUS, WEBHOOKS, messages_after, page, staff
from tests.support.draining import drain, states, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.users import api_client, make_user
from webhooks.delivery import policy
from webhooks.delivery.sweep import unblock_lanes
from webhooks.ground.outcome import Outcome
from webhooks.models import Delivery, QueuedDelivery, State, Webhook
from webhooks.operations import kinds
from webhooks.operations.webhooks import pause, ping, resume
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database", "redis")

API = "/api/webhooks/webhooks"
LONG_AGO = timezone.now() - timedelta(days=1)


def address(webhook: Webhook, act: str) -> str:
    return reverse(f"admin:rq_webhooks_webhook_{act}", args=[webhook.pk])


def paused_webhook(url: str, **fields: Any) -> Webhook:
    webhook = make_webhook(Site, name="CMDB", url=url, **fields)
    assert pause(Webhook.objects.filter(pk=webhook.pk), make_user("change_webhook")) == [webhook]
    webhook.refresh_from_db()
    return webhook


def test_its_changes_wait_and_are_sent_in_order_after_it_is_resumed(inbox: Inbox) -> None:
    webhook = paused_webhook(inbox.url())
    site = Site.objects.create(name="AMS1", slug="ams1")
    site.name = "AMS2"
    site.save()
    drain()
    assert states() == [State.PENDING, State.WAITING]
    assert resume(Webhook.objects.filter(pk=webhook.pk), make_user("change_webhook")) == [webhook]
    drain()
    assert [received.json["data"]["name"] for received in inbox.received()] == ["AMS1", "AMS2"]


def test_neither_a_probe_nor_a_test_nor_a_retry_is_sent(inbox: Inbox) -> None:
    webhook = paused_webhook(inbox.url(), probe_at=LONG_AGO, failures_in_a_row=9)
    make_event(webhook)
    ping(webhook)
    drain()
    QueuedDelivery.objects.update(due_at=timezone.now() + timedelta(hours=1))
    assert kinds.RETRY.perform(Delivery.objects.all()) == 2
    drain()
    assert (states(), inbox.received()) == ([State.PENDING] * 2, [])


def test_the_end_of_a_request_that_was_under_way_does_not_resume_it() -> None:
    webhook = paused_webhook("https://cmdb.example/", probe_at=LONG_AGO, failures_in_a_row=9)
    failed, ok = Outcome(datetime.now(UTC), 1, reason="HTTP 500", status=500), Outcome(datetime.now(UTC), 1, status=200)
    with transaction.atomic():
        assert policy.update_all({webhook: [failed]}) == {webhook.pk}
        policy.update_all({webhook: [ok]})
    webhook.refresh_from_db()
    assert webhook.is_paused


def test_a_worker_hands_back_what_it_has_claimed_and_not_begun(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(SENDERS=1)
    webhook = make_webhook(Site, name="CMDB", url=inbox.url("held"))
    for number in range(3):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    runner.run(60, wait=False)
    inbox.wait_for(1)
    pause(Webhook.objects.filter(pk=webhook.pk), make_user("change_webhook"))
    runner._claims._checked_edits -= 1000
    runner._claims.renew()
    assert states() == [State.SENDING, State.PENDING, State.PENDING]
    inbox.release()
    runner.finish()
    runner.close(grace=5)
    assert states() == [State.SUCCEEDED, State.PENDING, State.PENDING]
    assert len(inbox.received()) == 1


def test_a_lane_does_not_lose_its_head_while_it_waits(webhooks_settings: Any) -> None:
    webhook = paused_webhook("https://cmdb.example/")
    make_event(webhook)
    drain()
    QueuedDelivery.objects.update(failing_since=LONG_AGO)
    assert sweep_step(unblock_lanes) == 0
    resume(Webhook.objects.all(), make_user("change_webhook"))
    assert sweep_step(unblock_lanes) == 0, "each lane gets the whole LANE_WAIT"
    Webhook.objects.update(resumed_at=LONG_AGO)
    assert sweep_step(unblock_lanes) == 1


def test_resume_clears_the_failures_too() -> None:
    webhook = paused_webhook("https://cmdb.example/", probe_at=LONG_AGO, failures_in_a_row=9, probes=3)
    assert resume(Webhook.objects.all(), make_user("change_webhook")) == [webhook]
    webhook.refresh_from_db()
    assert (webhook.paused_at, webhook.paused_by, webhook.probe_at) == (None, "", None)
    assert (webhook.failures_in_a_row, webhook.probes, webhook.is_paused) == (0, 0, False)


def test_a_disabled_webhook_cannot_be_paused() -> None:
    make_webhook(Site, enabled=False)
    assert pause(Webhook.objects.all(), make_user("change_webhook")) == []


@pytest.mark.one_database
def test_the_buttons_on_its_page() -> None:
    webhook = make_webhook(Site, name="CMDB")
    client = staff("view_webhook", "change_webhook", "view_delivery")
    shown = page(client, address(webhook, "change"))
    assert (f'action="{address(webhook, "pause")}"' in shown, ">Resume<" in shown) == (True, False)
    [said] = messages_after(client, address(webhook, "pause"))
    assert said == "1 webhook paused. Changes are still stored, and sent after you resume."
    shown = page(client, address(webhook, "change"))
    assert (f'action="{address(webhook, "resume")}"' in shown, ">Pause<" in shown) == (True, False)
    by = Webhook.objects.get().paused_by
    assert f"“CMDB” was paused by {by}." in shown
    assert f"by {by}" in page(client, STATUS)
    assert "waits until you resume it" in str(messages_after(client, address(webhook, "ping")))
    assert messages_after(client, address(webhook, "pause")) == ["Skipped 1: disabled, or paused by a user already."]
    assert messages_after(client, address(webhook, "resume")) == ["1 webhook resumed."]
    assert [(one.object_repr, one.change_message) for one in LogEntry.objects.order_by("pk")] == [
        ("CMDB", "Paused."), ("CMDB", "Sent a test."), ("CMDB", "Resumed."),
    ]  # fmt: skip


@pytest.mark.one_database
def test_the_actions_of_the_list(admin_client: Client) -> None:
    webhook = make_webhook(Site)
    for action, word, is_paused in (("pause", "paused", True), ("resume", "resumed", False)):
        [said] = messages_after(admin_client, WEBHOOKS, action=action, _selected_action=[webhook.pk])
        assert said.startswith(f"1 webhook {word}.")
        assert Webhook.objects.get().is_paused == is_paused


@pytest.mark.one_database
@pytest.mark.parametrize("act", ["ping", "pause", "resume"])
def test_each_act_takes_a_post_of_a_user_who_may_change_the_webhook(act: str) -> None:
    webhook = make_webhook(Site, probe_at=LONG_AGO)
    viewer = make_user("view_webhook")
    assert staff("view_webhook").post(address(webhook, act)).status_code == 403
    assert staff("change_webhook").get(address(webhook, act)).status_code == 405
    assert api_client(viewer).post(f"{API}/{webhook.pk}/{act}/").status_code == 403
    changer = api_client(make_user("view_webhook", "change_webhook"))
    assert changer.post(f"{API}/{webhook.pk}/{act}/").status_code == 200
    assert changer.post(f"{API}/{webhook.pk + 1}/{act}/").status_code == 404
    assert LogEntry.objects.count() == 1


@pytest.mark.one_database
def test_the_api_pauses_resumes_and_tests(api: APIClient, admin_user: Any) -> None:
    webhook = make_webhook(Site, name="CMDB")
    own = f"{API}/{webhook.pk}"
    shown = api.post(f"{own}/pause/").json()
    assert (shown["is_paused"], shown["paused_by"], bool(shown["paused_at"])) == (True, str(admin_user), True)
    refused = api.post(f"{own}/pause/")
    assert (refused.status_code, "only pause a webhook that is enabled" in refused.json()["detail"]) == (409, True)
    assert [row["name"] for row in api.get(f"{API}/", {"paused": "true"}).json()["results"]] == ["CMDB"]
    shown = api.post(f"{own}/resume/").json()
    assert (shown["is_paused"], shown["paused_by"], shown["paused_at"]) == (False, "", None)
    assert api.post(f"{own}/resume/").status_code == 409
    assert api.post(f"{own}/ping/", {"x": 1}, format="json").status_code == 400
    event = api.post(f"{own}/ping/").json()["event"]
    assert api.get(f"/api/webhooks/events/{event}/").json()["action"] == "ping"
    Webhook.objects.update(enabled=False)
    refused = api.post(f"{own}/ping/")
    assert (refused.status_code, "Enable it before" in refused.json()["detail"]) == (409, True)
    assert [(one.object_repr, one.change_message) for one in LogEntry.objects.order_by("pk")] == [
        ("CMDB", "Paused."), ("CMDB", "Resumed."), ("CMDB", "Sent a test."),
    ]  # fmt: skip
