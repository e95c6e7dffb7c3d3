"""Requests to the REST API of the example project."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from tests.support.users import api_client, make_user

WEBHOOKS, DELIVERIES, EVENTS = "/api/webhooks/webhooks/", "/api/webhooks/deliveries/", "/api/webhooks/events/"
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def client_of(*permissions: str, **fields: Any) -> APIClient:
    return api_client(make_user(*permissions, **fields))


def wanted(**fields: Any) -> dict[str, Any]:
    """A request to create a webhook."""
    needed = {
        "name": "ledger",
        "object_types": ["dcim.site"],
        "on_created": True,
        "payload_url": "https://example.com/in",
    }
    return needed | fields


def define(api: APIClient, **fields: Any) -> Any:
    return api.post(WEBHOOKS, wanted(**fields), format="json")


def detail(url: str, pk: Any, deed: str = "") -> str:
    return f"{url}{pk}/{deed + '/' if deed else ''}"


def selects(queries: CaptureQueriesContext) -> list[str]:
    """The queries of tables, without the savepoints and settings of the request."""
    return [one["sql"] for one in queries if one["sql"].startswith("SELECT") and "set_config" not in one["sql"]]


def listed(api: APIClient, url: str, **parameters: Any) -> list[Any]:
    """The ids in a list."""
    answer = api.get(f"{url}?{urlencode(parameters, doseq=True)}")
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["results"]]


def retry_many(api: APIClient, body: Any = None, **parameters: Any) -> Any:
    return api.post(f"{DELIVERIES}retry/?{urlencode(parameters, doseq=True)}", body, format="json")
