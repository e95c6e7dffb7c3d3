"""Ask for the admin's pages as a browser does."""

from __future__ import annotations

from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from dcim.models import Site
from tests.support.users import browser, make_user
from webhooks.models import Delivery, Event, Webhook

WEBHOOKS = reverse("admin:rq_webhooks_webhook_changelist")
DELIVERIES = reverse("admin:rq_webhooks_delivery_changelist")
EVENTS = reverse("admin:rq_webhooks_event_changelist")
STATUS = reverse("webhooks_backend_status")
RETRY_ALL = f"{reverse('admin:rq_webhooks_run_add')}?kind=retry&state=failed"


def staff(*permissions: str) -> Client:
    """A browser of a staff user with these permissions, such as ``view_delivery``, and access to all objects."""
    return browser(make_user(*permissions))


def page(client: Client, address: str, **query: Any) -> str:
    """The content of a page."""
    response = client.get(address, query)
    assert response.status_code == 200, response
    return response.content.decode()


def messages_after(client: Client, address: str, **data: Any) -> list[str]:
    """Post, follow to the next page, and give the messages that it shows."""
    response = client.post(address, data, follow=True)
    assert response.status_code == 200, response
    return [str(message) for message in response.context["messages"]]


def change_of(row: Webhook | Delivery | Event) -> str:
    return reverse(f"admin:rq_webhooks_{row._meta.model_name}_change", args=[row.pk])


def do(deed: str, delivery: Delivery) -> str:
    return reverse(f"admin:rq_webhooks_delivery_{deed}", args=[delivery.pk])


def statements(client: Client, address: str, **query: Any) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        page(client, address, **query)
    return [one["sql"] for one in captured]


def form(**changes: Any) -> dict[str, Any]:
    """The data of a valid form for a webhook."""
    sites = ContentType.objects.get_for_model(Site)
    filled = {
        "name": "CMDB", "enabled": "on", "object_types": [sites.pk], "on_created": "on",
        "payload_url": "https://cmdb.example/hook", "http_method": "POST", "content_type": "application/json",
        "additional_headers": "", "body_template": "", "secret": "", "secret_headers": "",
        "ssl_verification": "on", "ca_file_path": "", "timeout": "", "ordered": "on",
    }  # fmt: skip
    return {name: value for name, value in (filled | changes).items() if value is not None}
