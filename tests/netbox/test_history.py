"""The history of webhooks is in NetBox's changelog."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.test import Client, RequestFactory
from django.urls import reverse
from extras.models import Webhook as Original
from netbox.context_managers import event_tracking

from core.models import ObjectChange
from dcim.models import Site
from tests.support.makers import make_delivery
from users.models import User
from webhooks.insight import history
from webhooks.models import State, Webhook
from webhooks.models.permissions import Operator
from webhooks.operations import runs
from webhooks.operations.kinds import RETRY
from webhooks.operations.webhooks import delete_webhooks, pause, save_webhook, set_enabled

pytestmark = pytest.mark.django_db

SETTINGS = {
    "name": "CMDB",
    "payload_url": "http://10.0.0.5/hooks/t0ken",
    "on_updated": True,
    "secret": "s3cret",
    "secret_headers": "Authorization: Token abc",
    "additional_headers": "X-Api-Key: k3y",
    "conditions": {"attr": "status.value", "value": "active"},
}


@pytest.fixture
def user() -> Any:
    return User.objects.create_user("ben")


@pytest.fixture
def request_id(user: Any) -> Iterator[uuid.UUID]:
    """The id of a request of NetBox that is being answered."""
    request = RequestFactory().get("/")
    request.id, request.user = uuid.uuid4(), user
    with event_tracking(request):
        yield request.id


@pytest.fixture
def webhook(user: Any) -> Webhook:
    made = save_webhook(Webhook(), SETTINGS, [ContentType.objects.get_for_model(Site)], Operator("test"))
    ObjectChange.objects.all().delete()
    return made


def changes() -> list[tuple[str, str, str]]:
    return [(one.action, one.object_repr, one.message) for one in ObjectChange.objects.order_by("pk")]


def test_a_new_webhook_is_one_entry_with_its_settings(user: Any, request_id: uuid.UUID) -> None:
    user.is_superuser = True
    webhook = save_webhook(Webhook(), SETTINGS, [ContentType.objects.get_for_model(Site)], user)
    [change] = ObjectChange.objects.all()
    assert (change.action, change.object_repr, change.message) == ("create", "CMDB", "Added.")
    assert (change.user, change.user_name, change.request_id) == (user, "ben", request_id)
    assert (change.changed_object, change.prechange_data) == (webhook, None)
    after = change.postchange_data
    assert after["conditions"] == SETTINGS["conditions"]
    assert after["object_types"] == [ContentType.objects.get_for_model(Site).pk]
    assert (after["secret"], after["secret_headers"], after["additional_headers"]) == (True, True, True)
    assert (after["body_template"], after["payload_url"]) == (False, "http://10.0.0.5/…")


def test_an_edit_shows_what_was_before(webhook: Webhook, user: Any, request_id: uuid.UUID) -> None:
    user.is_superuser = True
    save_webhook(webhook, {"name": "CMDB 2", "timeout": 5, "secret": "n3w"}, None, user)
    [change] = ObjectChange.objects.all()
    assert (change.action, change.message) == ("update", "Changed Name, Secret and Timeout.")
    assert change.diff() == {"pre": {"name": "CMDB", "timeout": None}, "post": {"name": "CMDB 2", "timeout": 5}}


def test_no_entry_has_a_secret(webhook: Webhook, user: Any) -> None:
    save_webhook(
        webhook, {"secret": "n3w", "payload_url": "http://10.0.0.5/other", "secret_headers": ""}, None, Operator("x")
    )
    history.record(user, [webhook], history.DELETION)
    stored = json.dumps(list(ObjectChange.objects.values("prechange_data", "postchange_data", "message")))
    assert ObjectChange.objects.count() == 2
    for secret in ("s3cret", "n3w", "abc", "k3y", "t0ken", "other"):
        assert secret not in stored


def test_a_deletion_shows_the_last_settings(webhook: Webhook, user: Any) -> None:
    history.record(user, [webhook], history.DELETION)
    delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
    [change] = ObjectChange.objects.all()
    assert (change.action, change.object_repr, change.changed_object_id) == ("delete", "CMDB", webhook.pk)
    assert (change.prechange_data["name"], change.postchange_data) == ("CMDB", None)


def test_enabling_and_pausing_are_entries(webhook: Webhook, user: Any) -> None:
    user.is_superuser = True
    set_enabled(Webhook.objects.all(), user, enabled=False)
    set_enabled(Webhook.objects.all(), user, enabled=True)
    pause(Webhook.objects.all(), user)
    assert [message for _, _, message in changes()] == ["Disabled.", "Enabled.", "Paused."]
    first, second, last = ObjectChange.objects.order_by("pk")
    assert first.diff() == {"pre": {"enabled": True}, "post": {"enabled": False}}
    assert second.diff() == {"pre": {"enabled": False}, "post": {"enabled": True}}
    assert last.prechange_data is last.postchange_data is None


def test_acts_on_deliveries_are_entries_of_the_webhook(webhook: Webhook, user: Any) -> None:
    delivery = make_delivery(webhook, State.FAILED)
    RETRY.perform(type(delivery).objects.filter(pk=delivery.pk), user)
    [change] = ObjectChange.objects.all()
    assert (change.changed_object, change.message, change.action) == (webhook, "Retried.", "update")
    assert "CMDB" in change.object_repr


def test_a_run_is_an_entry_without_an_object(webhook: Webhook, user: Any) -> None:
    user.is_superuser = True
    run = runs.start("retry", {"webhook": webhook.pk}, user)
    [change] = ObjectChange.objects.all()
    assert (change.changed_object_type.model, change.changed_object) == ("run", None)
    assert change.message == f"Started run {run.pk}."


def test_an_act_outside_requests_has_an_id_too(webhook: Webhook) -> None:
    pause(Webhook.objects.all(), Operator("webhooks_test"))
    [change] = ObjectChange.objects.all()
    assert (change.user, change.user_name) == (None, "manage.py webhooks_test")
    assert isinstance(change.request_id, uuid.UUID)


def test_long_names_are_cut(webhook: Webhook) -> None:
    pause(Webhook.objects.all(), Operator("webhooks_test", "release 4.2 " * 20))
    [change] = ObjectChange.objects.all()
    assert change.user_name == ("release 4.2 " * 20)[:150]


def test_netbox_shows_the_entries(admin_client: Client, webhook: Webhook, user: Any) -> None:
    user.is_superuser = True
    save_webhook(webhook, {"timeout": 5}, None, user)
    runs.start("retry", {"webhook": webhook.pk}, user)
    page = admin_client.get("/core/changelog/")
    assert page.status_code == 200
    assert "Changed Timeout." in page.text
    for change in ObjectChange.objects.all():
        assert admin_client.get(f"/core/changelog/{change.pk}/").status_code == 200
        assert admin_client.get(f"/api/core/object-changes/{change.pk}/").status_code == 200
    assert admin_client.get("/api/core/object-changes/").json()["count"] == 2


def test_an_edit_on_the_page_of_the_plugin_is_one_entry(admin_client: Client) -> None:
    form = {
        "name": "CMDB", "payload_url": "http://10.0.0.5/", "object_types": [ContentType.objects.get_for_model(Site).pk],
        "on_created": "on", "enabled": "on", "http_method": "POST", "content_type": "application/json",
        "ssl_verification": "on", "ordered": "on",
    }  # fmt: skip
    added = admin_client.post(reverse("plugins:rq_webhooks:webhook_add"), form)
    [webhook] = Webhook.objects.all()
    admin_client.post(reverse("plugins:rq_webhooks:webhook_edit", args=[webhook.pk]), form | {"name": "CMDB 2"})
    admin_client.post(reverse("plugins:rq_webhooks:webhook_delete", args=[webhook.pk]), {"confirm": "true"})
    assert changes() == [("create", "CMDB", "Added."), ("update", "CMDB 2", "Changed Name."), ("delete", "CMDB 2", "")]
    first = ObjectChange.objects.order_by("pk")[0]
    assert (first.user_name, str(first.request_id)) == ("admin", added["X-Request-ID"])


def test_netbox_own_webhooks_have_no_entry_of_ours(request_id: uuid.UUID) -> None:
    Original.objects.create(name="CMDB", payload_url="http://10.0.0.5/")
    assert [one.changed_object_type.app_label for one in ObjectChange.objects.all()] == ["extras"]
