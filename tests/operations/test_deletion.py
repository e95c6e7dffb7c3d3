"""Webhooks that are deleted, with what goes with them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_delivery, make_event, make_webhook
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.capture import subscriptions
from webhooks.delivery import maintenance
from webhooks.models import Attempt, Delivery, Event, State, Webhook
from webhooks.operations import webhooks as operations

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def large(database: str, monkeypatch: pytest.MonkeyPatch) -> Webhook:
    """More goes with it than may go at once."""
    monkeypatch.setattr(operations, "MAX_ROWS", 3)
    monkeypatch.setattr(maintenance, "MOST", 3)
    webhook = make_webhook(Thing, name="large", custom_events=["testapp.x"])
    for number, state in enumerate([State.PENDING, State.WAITING, State.SENDING, *[State.FAILED] * 4]):
        make_attempt(make_delivery(webhook, state, object_id=str(number)))
    return webhook


def delete(*webhooks: Webhook) -> None:
    operations.delete_webhooks(Webhook.objects.filter(pk__in=[webhook.pk for webhook in webhooks]))


def test_what_is_small_is_gone_at_once_and_takes_nothing_of_others() -> None:
    webhook, other = make_webhook(Thing), make_webhook(Thing)
    shared = make_delivery(webhook, State.FAILED)
    make_delivery(other, State.FAILED, event=shared.event)
    make_attempt(make_delivery(webhook, State.FAILED, object_id="2"))
    delete(webhook)
    assert list(Webhook.with_deleted.all()) == [other]
    assert [delivery.webhook for delivery in Delivery.objects.all()] == [other]
    assert list(Event.objects.all()) == [shared.event]
    assert not Attempt.objects.exists()


def test_of_what_is_large_no_more_than_some_goes_at_once_and_sweeps_delete_the_rest(large: Webhook) -> None:
    delete(large)
    assert not Webhook.objects.exists()
    assert Delivery.objects.count() == Event.objects.count() == Attempt.objects.count() == 4
    maintenance.sweep()
    assert (Delivery.objects.count(), Webhook.with_deleted.count()) == (1, 1)
    maintenance.sweep()
    assert not Webhook.with_deleted.exists()
    assert [model.objects.count() for model in (Delivery, Event, Attempt)] == [0, 0, 0]
    assert maintenance.sweep() == 0


def test_a_small_one_does_not_wait_for_a_large_one(large: Webhook) -> None:
    delete(large)
    small = make_webhook(Thing)
    delete(small)
    assert list(Webhook.with_deleted.values_list("pk", flat=True)) == [large.pk]


def test_one_that_is_being_deleted_is_out_of_use_and_its_name_is_free(large: Webhook, inbox: Inbox) -> None:
    Webhook.objects.update(payload_url=inbox.url())
    make_event(large, object_id="new")
    delete(large)
    assert "being deleted" in str(Delivery.objects.first().webhook)  # type: ignore[union-attr]
    make_webhook(Thing, name="large", on="u")
    wanted = subscriptions.current("default", enabled_only=False)
    assert large.pk not in [pk for ids in (*wanted.by_change.values(), *wanted.by_event.values()) for pk in ids]
    before = Delivery.objects.count()
    drain()
    assert inbox.received() == []
    assert Delivery.objects.count() <= before
    assert not Event.objects.undispatched().exists()


def test_no_name_of_another_keeps_one_from_being_deleted() -> None:
    webhook = make_webhook(Thing, name="A")
    make_webhook(Thing, name=f"A (being deleted, {webhook.pk})")
    delete(webhook)
    assert not Webhook.objects.filter(pk=webhook.pk).exists()


def test_one_that_is_just_sent_to_is_deleted_without_harm(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url("slow/1")), make_webhook(Thing, url=inbox.url())
    make_event(webhook, object_id="1")
    worker = Beside(drain)
    inbox.wait_for(1)
    delete(webhook)
    make_event(other, object_id="2")
    worker.join()
    drain()
    maintenance.sweep()
    assert list(Webhook.with_deleted.all()) == [other]
    assert states() == [State.SUCCEEDED]


@pytest.mark.postgresql
def test_nobody_waits_for_a_delivery_that_somebody_else_holds() -> None:
    webhook = make_webhook(Thing)
    delivery = make_delivery(webhook, State.FAILED)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Delivery.objects.select_for_update().get(pk=delivery.pk)
            held.set()
            assert go_on.wait(60)

    other = Beside(hold)
    assert held.wait(60)
    Beside(lambda: delete(webhook)).join(5)
    Beside(maintenance.sweep).join(5)
    assert not Webhook.objects.exists()
    assert Delivery.objects.exists()
    go_on.set()
    other.join()
    maintenance.sweep()
    assert not Webhook.with_deleted.exists()


@pytest.mark.postgresql
def test_a_dispatch_beside_a_deletion_adds_nothing_that_stays(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url())
    make_event(webhook, other)
    with transaction.atomic():
        delete(webhook)
        worker = Beside(drain)
        worker.wait_until_blocked_or_done()
    worker.join()
    maintenance.sweep()
    assert list(Webhook.with_deleted.all()) == [other]
    assert states() == [State.SUCCEEDED]


def test_the_pages_show_it_no_more_and_tell_that_it_is_going(large: Webhook) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    client.post(reverse("admin:webhooks_webhook_delete", args=[large.pk]), {"post": "yes"})
    assert list(client.get("/api/webhooks/webhooks/").json()["results"]) == []
    assert client.get(f"/api/webhooks/webhooks/{large.pk}/").status_code == 404
    assert "0 webhooks" in client.get(reverse("admin:webhooks_webhook_changelist")).content.decode()
    going: Any = "1 deleted webhook still had many deliveries"
    assert going in client.get("/admin/webhook-backend-status/").content.decode()
    assert client.get(reverse("admin:webhooks_delivery_changelist")).status_code == 200
    for delivery in Delivery.objects.all():
        assert client.get(reverse("admin:webhooks_delivery_change", args=[delivery.pk])).status_code == 200
    while maintenance.sweep():
        pass
    assert "being deleted" not in client.get("/admin/webhook-backend-status/").content.decode()
