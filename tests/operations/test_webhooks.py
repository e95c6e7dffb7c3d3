"""Webhooks are tested with a ping, and deleted with all their deliveries. Keys are rotated."""

from __future__ import annotations

import io
import re
import threading
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dcim.models import Site
from tests.support.admin_pages import form, staff
from tests.support.draining import drain, states, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.own_pages import own_pages, page_of
from tests.support.threads import Beside
from tests.support.users import api_client, browser, make_user
from tests.testapp.models import Thing
from users.models import User
from webhooks.capture import subscriptions
from webhooks.delivery import retention, sweep
from webhooks.ground.security import encryption
from webhooks.models import Attempt, Delivery, Event, QueuedDelivery, State, Undispatched, Webhook
from webhooks.operations import webhooks as operations
from webhooks.operations.webhooks import ping

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def large(database: str, monkeypatch: pytest.MonkeyPatch) -> Webhook:
    """A webhook with more deliveries than one request deletes."""
    monkeypatch.setattr(operations, "MAX_ROWS", 3)
    monkeypatch.setattr(retention, "PIECE", 3)
    webhook = make_webhook(Thing, name="large", custom_events=["testapp.x"])
    for number, state in enumerate([State.PENDING, State.WAITING, State.SENDING, *[State.FAILED] * 4]):
        make_attempt(make_delivery(webhook, state, object_id=str(number)))
    return webhook


def delete(*webhooks: Webhook) -> None:
    operations.delete_webhooks(Webhook.objects.filter(pk__in=[webhook.pk for webhook in webhooks]))


def test_a_webhook_with_few_deliveries_is_deleted_at_once() -> None:
    webhook, other = make_webhook(Thing), make_webhook(Thing)
    shared = make_delivery(webhook, State.FAILED)
    make_delivery(other, State.FAILED, event=shared.event)
    make_attempt(make_delivery(webhook, State.FAILED, object_id="2"))
    delete(webhook)
    assert list(Webhook.with_deleted.all()) == [other]
    assert [delivery.webhook for delivery in Delivery.objects.all()] == [other]
    assert list(Event.objects.all()) == [shared.event]
    assert not Attempt.objects.exists()


def test_the_sweep_deletes_what_a_request_leaves(large: Webhook) -> None:
    delete(large)
    assert not Webhook.objects.exists()
    assert Delivery.objects.count() == Event.objects.count() == Attempt.objects.count() == 4
    sweeper = sweep.Sweeper()
    sweeper.sweep()
    assert (Delivery.objects.count(), Webhook.with_deleted.count()) == (1, 1)
    sweeper.go_on()
    assert not Webhook.with_deleted.exists()
    assert [model.objects.count() for model in (Delivery, Event, Attempt)] == [0, 0, 0]
    assert sweep.sweep() == 0


def test_a_small_webhook_does_not_wait_for_a_large_one(large: Webhook) -> None:
    delete(large)
    small = make_webhook(Thing)
    delete(small)
    assert list(Webhook.with_deleted.values_list("pk", flat=True)) == [large.pk]


def test_a_webhook_being_deleted_is_not_used_and_its_name_is_free(large: Webhook, inbox: Inbox) -> None:
    Webhook.objects.update(payload_url=inbox.url())
    make_event(large, object_id="new")
    delete(large)
    assert "being deleted" in str(Delivery.objects.first().webhook)  # type: ignore[union-attr]
    make_webhook(Thing, name="large", on="u")
    wanted = subscriptions.current("default")
    assert wanted.disabled is not None
    assert large.pk not in [pk for ids in (*wanted.by_change.values(), *wanted.disabled.values()) for pk in ids]
    before = Delivery.objects.count()
    drain()
    assert inbox.received() == []
    assert Delivery.objects.count() <= before
    assert not Event.objects.undispatched().exists()


def test_the_identifier_of_a_webhook_being_deleted_is_free(large: Webhook) -> None:
    Webhook.objects.update(identifier="cmdb-sync")
    delete(large)
    assert Webhook.with_deleted.filter(pk=large.pk).exists()
    make_webhook(Thing, identifier="cmdb-sync")


def test_no_name_of_another_webhook_blocks_a_deletion() -> None:
    webhook = make_webhook(Thing, name="A")
    make_webhook(Thing, name=f"A (being deleted, {webhook.pk})")
    delete(webhook)
    assert not Webhook.objects.filter(pk=webhook.pk).exists()


def test_a_webhook_can_be_deleted_during_an_attempt(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url("slow/1")), make_webhook(Thing, url=inbox.url())
    make_event(webhook, object_id="1")
    worker = Beside(drain)
    inbox.wait_for(1)
    delete(webhook)
    make_event(other, object_id="2")
    worker.join()
    drain()
    sweep.sweep()
    assert list(Webhook.with_deleted.all()) == [other]
    assert states() == [State.SUCCEEDED]


@pytest.mark.postgresql
@pytest.mark.parametrize("model", [Delivery, QueuedDelivery], ids=["that an admin retries", "that a worker records"])
def test_a_deletion_does_not_wait_for_a_locked_delivery(model: Any) -> None:
    webhook = make_webhook(Thing)
    delivery = make_delivery(webhook, State.PENDING)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            model.objects.select_for_update(of=("self",)).get(pk=delivery.pk)
            held.set()
            assert go_on.wait(60)

    other = Beside(hold)
    assert held.wait(60)
    Beside(lambda: delete(webhook)).join(5)
    Beside(sweep.sweep).join(5)
    assert not Webhook.objects.exists()
    assert Delivery.objects.exists()
    go_on.set()
    other.join()
    sweep.sweep()
    assert not Webhook.with_deleted.exists()


@pytest.mark.postgresql
def test_a_dispatch_during_a_deletion_leaves_no_delivery(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url())
    make_event(webhook, other)
    with transaction.atomic():
        delete(webhook)
        Beside(partial(work_for, 1)).join()  # it leaves the event for later
        assert Undispatched.objects.exists()
    drain()
    sweep.sweep()
    assert list(Webhook.with_deleted.all()) == [other]
    assert states() == [State.SUCCEEDED]


def test_pages_hide_a_webhook_that_is_being_deleted(large: Webhook) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    client.post(reverse("admin:rq_webhooks_webhook_delete", args=[large.pk]), {"post": "yes"})
    assert list(client.get("/api/webhooks/webhooks/").json()["results"]) == []
    assert client.get(f"/api/webhooks/webhooks/{large.pk}/").status_code == 404
    assert "0 webhooks" in client.get(reverse("admin:rq_webhooks_webhook_changelist")).content.decode()
    going: Any = "1 webhook is being deleted"
    assert going in client.get("/admin/webhook-backend-status/").content.decode()
    assert client.get(reverse("admin:rq_webhooks_delivery_changelist")).status_code == 200
    for delivery in Delivery.objects.all():
        assert client.get(reverse("admin:rq_webhooks_delivery_change", args=[delivery.pk])).status_code == 200
    while sweep.sweep():
        pass
    assert "being deleted" not in client.get("/admin/webhook-backend-status/").content.decode()


# Enabling


def by_action(webhook: Webhook, **wanted: Any) -> None:
    """As the action of the list does."""
    operations.set_enabled(Webhook.objects.filter(pk=webhook.pk), make_user("change_webhook"), True)


def by_form(webhook: Webhook, **wanted: Any) -> None:
    things = ContentType.objects.get_for_model(Thing)
    filled = form(name=webhook.name, object_types=[things.pk], payload_url=webhook.payload_url, **wanted)
    filled["initial-enabled"] = str(webhook.enabled)
    assert browser(make_user(is_superuser=True)).post(address(webhook, "change"), filled).status_code == 302


def by_api(webhook: Webhook, **wanted: Any) -> None:
    own = f"/api/webhooks/webhooks/{webhook.pk}/"
    answer = api_client(make_user(is_superuser=True)).patch(own, {"enabled": True, **wanted}, format="json")
    assert answer.status_code == 200, answer.content


def by_own_page(webhook: Webhook, **wanted: Any) -> None:
    """On a page without the admin."""
    with own_pages(make_user(is_superuser=True), Thing) as pages:
        pages.save(page_of(webhook), pages.opened(page_of(webhook)) | {"enabled": "on", **wanted})


@pytest.fixture
def blocked(inbox: Inbox) -> Webhook:
    """A disabled webhook. The head of its lane failed, and has its next attempt in an hour."""
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    later, failing_since = timezone.now() + timedelta(hours=1), timezone.now() - timedelta(minutes=5)
    make_delivery(webhook, due_at=later, failing_since=failing_since, attempt_count=3, failures=3)
    make_delivery(webhook, State.WAITING)
    return webhook


@pytest.mark.parametrize("enable", [by_action, by_form, by_api, by_own_page])
def test_a_webhook_that_is_enabled_again_sends_the_failed_heads_of_its_lanes_at_once(
    blocked: Webhook, inbox: Inbox, enable: Any
) -> None:
    drain()
    assert (states(), inbox.received()) == ([State.PENDING, State.WAITING], [])
    enable(blocked)
    drain()
    assert (states(), len(inbox.received())) == ([State.SUCCEEDED] * 2, 2)


@pytest.mark.parametrize("save", [by_action, by_form, by_api, by_own_page])
def test_a_save_of_an_enabled_webhook_keeps_the_times_of_its_retries(blocked: Webhook, inbox: Inbox, save: Any) -> None:
    Webhook.objects.update(enabled=True)
    blocked.refresh_from_db()
    save(blocked, timeout=7)
    drain()
    assert (states(), inbox.received()) == ([State.PENDING, State.WAITING], [])


def address(webhook: Webhook, deed: str) -> str:
    return reverse(f"admin:rq_webhooks_webhook_{deed}", args=[webhook.pk])


def test_a_ping_is_an_event_for_this_webhook_only(inbox: Inbox) -> None:
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


def test_a_ping_renders_templates_of_objects_with_what_it_has(inbox: Inbox) -> None:
    template = '{"text": {{ (data.display ~ " at " ~ data.site.name) | tojson }}}'
    make_webhook(Site, name="Chat", url=inbox.url(), body_template=template, additional_headers="X-At: {{ data.a.b }}")
    ping(Webhook.objects.get())
    drain()
    [received] = inbox.received()
    assert (received.json, received.headers["x-at"]) == ({"text": "test of Chat at "}, "")


def test_a_failed_ping_does_not_block_the_next_one(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    webhook = make_webhook(Site, url=inbox.url("fail-first/1"))
    for _ in range(2):
        ping(webhook)
        drain()
    assert states() == [State.PENDING, State.SUCCEEDED]


def test_a_ping_probes_a_paused_webhook(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600], PAUSE_AFTER=1)
    webhook = make_webhook(Site, url=inbox.url("fail-first/1"))
    make_event(webhook)
    drain()
    assert Webhook.objects.get().is_paused
    ping(webhook)
    drain()
    assert [one.json["event"] for one in inbox.received()] == ["updated", "ping", "updated"]
    assert states() == [State.SUCCEEDED] * 2
    assert not Webhook.objects.get().is_paused


def test_an_admin_sends_a_ping_from_the_page_of_the_webhook(inbox: Inbox) -> None:
    webhook = make_webhook(Site, url=inbox.url())
    client = staff("view_webhook", "change_webhook", "view_event")
    assert f'action="{address(webhook, "ping")}"' in client.get(address(webhook, "change")).content.decode()
    shown = client.post(address(webhook, "ping"), follow=True).content.decode()
    event = Event.objects.get()
    assert re.search(rf"A test is on its way to “[^”]*”. See <a [^>]*>event {event.pk}</a>", shown)
    assert (event.username, LogEntry.objects.get().get_change_message()) == (
        User.objects.get().email,
        "Sent a test.",
    )
    drain()
    assert len(inbox.received()) == 1
    assert "ping" in client.get(reverse("admin:rq_webhooks_event_change", args=[event.pk])).content.decode()


def test_a_disabled_webhook_gets_no_ping_and_can_be_enabled_on_its_page() -> None:
    webhook = make_webhook(Site, enabled=False)
    client = staff("view_webhook", "change_webhook")
    shown = client.get(address(webhook, "change")).content.decode()
    assert "Send a test" not in shown
    assert f'action="{address(webhook, "enable")}"' in shown
    assert "Enable it before you send a test" in client.post(address(webhook, "ping"), follow=True).content.decode()
    assert not Event.objects.exists()
    assert "1 webhook enabled." in client.post(address(webhook, "enable"), follow=True).content.decode()
    assert "Send a test" in client.get(address(webhook, "change")).content.decode()


def test_a_user_who_may_only_view_cannot_send_a_ping() -> None:
    webhook = make_webhook(Site)
    client = staff("view_webhook")
    assert "Send a test" not in client.get(address(webhook, "change")).content.decode()
    assert client.post(address(webhook, "ping")).status_code == 403
    assert client.get(address(webhook, "ping")).status_code == 405
    assert not Event.objects.exists()


def test_a_ping_to_a_missing_webhook_is_refused(admin_client: Client) -> None:
    assert admin_client.post(reverse("admin:rq_webhooks_webhook_ping", args=[7])).status_code == 404


# Key rotation

OLD, NEW, NEWEST = (Fernet.generate_key().decode() for _ in range(3))


def rotate() -> str:
    out = io.StringIO()
    call_command("webhooks_rotate_keys", stdout=out)
    return out.getvalue().strip()


@pytest.fixture
def old_key(webhooks_settings: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=[OLD])


@pytest.mark.usefixtures("old_key")
def test_rotation_encrypts_all_secrets_with_the_newest_key_and_can_be_repeated(webhooks_settings: Any) -> None:
    webhook = make_webhook(Site, secret="one", previous_secret="two", secret_headers="X-Token: three")
    make_webhook(Site)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE rq_webhooks_webhook SET secret = 'in clear' WHERE id <> %s", [webhook.pk])
    before = Webhook.objects.order_by("pk").values_list("last_updated", flat=True)
    stamps = list(before)
    webhooks_settings(ENCRYPTION_KEYS=[NEW, OLD])
    assert rotate() == "4 encrypted with the newest key, 0 had it already, 0 unreadable."
    assert rotate() == "0 encrypted with the newest key, 4 had it already, 0 unreadable."
    webhooks_settings(ENCRYPTION_KEYS=[NEW])
    webhook.refresh_from_db()
    assert [webhook.secret, webhook.previous_secret, webhook.secret_headers] == ["one", "two", "X-Token: three"]
    assert Webhook.objects.exclude(pk=webhook.pk).get().secret == "in clear"
    assert list(before.all()) == stamps, "nobody edited them"
    assert operations.unreadable_secrets() == []


@pytest.mark.usefixtures("old_key")
def test_rotation_moves_from_secret_key_to_encryption_keys(settings: Any, webhooks_settings: Any) -> None:
    webhooks_settings(ENCRYPTION_KEYS=[])
    make_webhook(Site, secret="one")
    webhooks_settings(ENCRYPTION_KEYS=[NEW])
    assert rotate().startswith("1 encrypted with the newest key")
    settings.SECRET_KEY = "changed"
    assert Webhook.objects.get().secret == "one"


@pytest.mark.usefixtures("old_key")
def test_rotation_names_unreadable_secrets_and_renews_the_others(webhooks_settings: Any) -> None:
    make_webhook(Site, name="lost", secret="one", previous_secret="two")
    webhooks_settings(ENCRYPTION_KEYS=[NEW])
    make_webhook(Site, name="kept", secret="three")
    webhooks_settings(ENCRYPTION_KEYS=[NEWEST, NEW])
    stored = Webhook.objects.get(name="lost").secret.stored
    with pytest.raises(CommandError, match="the secret of “lost”; the previous secret of “lost”"):
        rotate()
    assert operations.unreadable_secrets() == [("lost", "secret"), ("lost", "previous secret")]
    assert Webhook.objects.get(name="lost").secret.stored == stored
    assert encryption.is_current(Webhook.objects.get(name="kept").secret.stored)
    webhooks_settings(ENCRYPTION_KEYS=[NEWEST, OLD])
    assert rotate() == "2 encrypted with the newest key, 1 had it already, 0 unreadable."
    assert Webhook.objects.get(name="lost").secret == "one"


@pytest.mark.usefixtures("old_key")
def test_rotation_refuses_invalid_keys(webhooks_settings: Any) -> None:
    make_webhook(Site, secret="one")
    webhooks_settings(ENCRYPTION_KEYS=["no key"])
    with pytest.raises(CommandError, match=r"Nothing was changed: .*ENCRYPTION_KEYS"):
        rotate()


@pytest.mark.usefixtures("old_key")
def test_rotation_keeps_a_secret_that_is_entered_meanwhile(
    webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_webhook(Site, secret="old")
    webhooks_settings(ENCRYPTION_KEYS=[NEW, OLD])
    encrypt = encryption.encrypt

    def slowly(text: str) -> str:
        monkeypatch.setattr(encryption, "encrypt", encrypt)
        Webhook.objects.update(secret="entered meanwhile")
        return encrypt(text)

    monkeypatch.setattr(encryption, "encrypt", slowly)
    assert operations.rotate_keys().renewed == 0
    assert Webhook.objects.get().secret == "entered meanwhile"
