"""The REST API with the permission classes of a host, and its entries in the history."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.http import JsonResponse
from rest_framework.permissions import SAFE_METHODS, DjangoObjectPermissions, IsAuthenticated
from rest_framework.test import APIClient
from rest_framework.views import APIView

from dcim.models import Site
from tests.support.makers import make_site_delivery, make_webhook
from tests.support.users import ALL_PERMISSIONS, api_client, make_user
from users.models import User
from webhooks.api.deliveries import DeliveryViewSet
from webhooks.api.events import EventViewSet
from webhooks.api.webhooks import WebhookViewSet
from webhooks.models import Delivery, Webhook

API = "/api/webhooks"
NEW = {"name": "new", "on_created": True, "payload_url": "http://127.0.0.1:9/", "object_types": ["dcim.site"]}


@pytest.fixture
def delivery(db: None, redis: Any) -> Delivery:
    return make_site_delivery(make_webhook(Site))


@pytest.mark.one_database
def test_the_history_records_every_change_by_the_api_and_no_secret(db: None, redis: Any) -> None:
    user = make_user(*ALL_PERMISSIONS)
    pk = api_client(user).post(f"{API}/webhooks/", NEW | {"secret": "planted secret"}, format="json").json()["id"]
    for change in (
        {"enabled": False}, {"secret": "another planted one"}, {"name": "new"},
        {"payload_url": "http://127.0.0.1:9/planted"}, {"additional_headers": "X-Planted: 1"},
        {"secret_headers": "X-Planted: 12345678"},
        {"object_types": ["dcim.site"], "timeout": 5}, {"enabled": True},
    ):  # fmt: skip
        assert api_client(user).patch(f"{API}/webhooks/{pk}/", change, format="json").status_code == 200
    api_client(user).delete(f"{API}/webhooks/{pk}/")
    told = [
        (entry.user, entry.get_change_message() or ("Deleted." if entry.is_deletion() else ""))
        for entry in LogEntry.objects.order_by("pk")
    ]
    said = [
        "Added.", "Changed Enabled.", "Changed Secret.", "Changed Payload URL.",
        "Changed Additional headers.", "Changed Secret headers.", "Changed Timeout.",
        "Changed Enabled.", "Deleted.",
    ]  # fmt: skip
    assert told == [(user, words) for words in said]
    assert "lanted" not in str(list(LogEntry.objects.values()))


class TokenPermissions(DjangoObjectPermissions):
    """As NetBox's: a token may be read-only."""

    perms_map = {**DjangoObjectPermissions.perms_map, "GET": ["%(app_label)s.view_%(model_name)s"]}

    def has_permission(self, request: Any, view: Any) -> bool:
        is_write = request.method not in SAFE_METHODS
        return not (is_write and request.auth.read_only) and super().has_permission(request, view)

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        return True


def by_token(user: User, read_only: bool) -> APIClient:
    client = APIClient()
    client.force_authenticate(user, SimpleNamespace(read_only=read_only))
    return client


TokenPermissionsOfUsers = IsAuthenticated & TokenPermissions


@pytest.fixture(params=["TokenPermissions", "TokenPermissionsOfUsers"])
def host_rules(request: pytest.FixtureRequest, settings: Any) -> None:
    rules = [f"tests.api.test_host.{request.param}"]
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "DEFAULT_PERMISSION_CLASSES": rules}


@pytest.mark.one_database
def test_the_permission_classes_of_the_host_apply_too(delivery: Delivery, host_rules: None) -> None:
    everything, nothing = make_user(*ALL_PERMISSIONS), User.objects.create_user("bob")
    address = f"{API}/webhooks/{delivery.webhook_id}/"
    writes = [
        ("post", f"{API}/webhooks/", NEW, 201), ("patch", address, {"name": "other"}, 200),
        ("put", address, NEW | {"name": "third"}, 200),
        ("post", f"{API}/deliveries/{delivery.pk}/retry/", None, 200),
        ("post", f"{API}/deliveries/{delivery.pk}/discard/", None, 200),
        ("post", f"{API}/deliveries/retry/?state=discarded", None, 200), ("delete", address, None, 204),
    ]  # fmt: skip
    reading = by_token(everything, read_only=True)
    for read in (f"{API}/webhooks/", address, f"{API}/deliveries/", f"{API}/events/{delivery.event_id}/"):
        assert reading.get(read).status_code == 200
        assert by_token(nothing, read_only=False).get(read).status_code == 403
    before = (Webhook.objects.values().get(), Delivery.objects.values().get())
    for client in (reading, by_token(nothing, read_only=False)):
        for method, url, body, _ in writes:
            if "?state" not in url:
                assert getattr(client, method)(url, body, format="json").status_code == 403
    assert (Webhook.objects.values().get(), Delivery.objects.values().get()) == before
    for method, url, body, status in writes:
        answer = getattr(by_token(everything, read_only=False), method)(url, body, format="json")
        assert answer.status_code == status, (method, url, answer.content)
    assert [one.name for one in Webhook.objects.all()] == ["new"]


@pytest.mark.one_database
def test_a_read_only_token_cannot_retry_in_bulk(database: str, redis: Any, host_rules: None) -> None:
    make_site_delivery(make_webhook(Site))
    client = by_token(make_user(*ALL_PERMISSIONS), read_only=True)
    assert client.post(f"{API}/deliveries/retry/?state=failed").status_code == 403
    assert Delivery.objects.failed().count() == 1


@pytest.mark.one_database
def test_each_operation_requires_its_own_permission_by_the_classes_of_the_host_too(
    delivery: Delivery, host_rules: None
) -> None:
    user = make_user("view_delivery", "discard_delivery")
    client = by_token(user, read_only=False)
    assert client.post(f"{API}/deliveries/{delivery.pk}/retry/").status_code == 403
    assert client.post(f"{API}/deliveries/{delivery.pk}/discard/").status_code == 200


def refusal_as_plain_json(error: Exception, context: Any) -> JsonResponse:
    """A handler of a host that makes no response of REST framework."""
    return JsonResponse({"error": str(error)}, status=getattr(error, "status_code", 404))


@pytest.mark.one_database
def test_the_exception_handler_of_the_host_may_return_any_response(delivery: Delivery, settings: Any) -> None:
    handler = f"{__name__}.{refusal_as_plain_json.__name__}"
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "EXCEPTION_HANDLER": handler}
    client, webhook = api_client(make_user(*ALL_PERMISSIONS)), f"{API}/webhooks/{delivery.webhook_id}/"
    for url, status in ((f"{API}/events/4711/", 404), (f"{API}/deliveries/?x=1", 400)):
        answer = client.get(url)
        assert (answer.status_code, [*answer.json()]) == (status, ["error"])
    assert client.patch(webhook, {"timeout": 0}, format="json").status_code == 400


def test_throttles_and_authentication_are_those_of_the_host() -> None:
    for view in (WebhookViewSet, DeliveryViewSet, EventViewSet):
        assert view.throttle_classes is APIView.throttle_classes
        assert view.authentication_classes is APIView.authentication_classes
