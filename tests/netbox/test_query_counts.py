"""What the app costs NetBox, in queries: each bound is for a whole request, with NetBox's own queries in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from dcim.models import (
    ConsolePortTemplate,
    DeviceRole,
    DeviceType,
    InterfaceTemplate,
    Manufacturer,
    PowerPortTemplate,
    Site,
)
from tests.support.netbox import IS_OLDER, OwnRule, admin, api_client, watch
from webhooks.testing import capture_webhooks

pytestmark = pytest.mark.django_db

Change = Callable[[Any], Any]


@pytest.fixture
def atomic_requests(monkeypatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


def sites(count: int) -> list[Site]:
    return [Site.objects.create(name=f"Site {number:02}", slug=f"site-{number:02}") for number in range(count)]


def patch_of_a_site(api: Any) -> Any:
    [site] = sites(1)
    return lambda: api.patch(f"/api/dcim/sites/{site.pk}/", {"description": "x"}, format="json")


def bulk_patch_of_50(api: Any) -> Any:
    changes = [{"id": site.pk, "description": "x"} for site in sites(50)]
    return lambda: api.patch("/api/dcim/sites/", changes, format="json")


def deletion_of_50(api: Any) -> Any:
    chosen = [{"id": site.pk} for site in sites(50)]
    return lambda: api.delete("/api/dcim/sites/", chosen, format="json")


def device_with_five_components(api: Any) -> Any:
    kind = DeviceType.objects.create(
        manufacturer=Manufacturer.objects.create(name="Acme", slug="acme"), model="A1", slug="a1"
    )
    for number in range(3):
        InterfaceTemplate.objects.create(device_type=kind, name=f"e{number}", type="1000base-t")
    ConsolePortTemplate.objects.create(device_type=kind, name="console")
    PowerPortTemplate.objects.create(device_type=kind, name="power")
    role = DeviceRole.objects.create(name="Leaf", slug="leaf")
    [site] = sites(1)
    given = {"name": "ulm-1", "site": site.pk, "device_type": kind.pk, "role": role.pk}
    return lambda: api.post("/api/dcim/devices/", given, format="json")


def queries(prepare: Change, setup: Callable[[], object]) -> list[str]:
    """The queries of a request, after one of another kind has filled the caches of the process."""
    api = api_client(admin())
    change = prepare(api)
    setup()
    api.get("/api/dcim/regions/")
    with capture_webhooks(subscribe=[]), CaptureQueriesContext(connection) as found:
        answer = change()
    assert answer.status_code in (200, 201, 204), answer.content
    return [one["sql"] for one in found.captured_queries]


@pytest.mark.usefixtures("atomic_requests")
def test_a_request_without_a_subscriber_costs_one_query() -> None:
    ours = [sql for sql in queries(patch_of_a_site, lambda: None) if "rq_webhooks" in sql]
    assert len(ours) == 1


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize(
    ("change", "fields", "most"),
    [
        (patch_of_a_site, {}, 32),
        (bulk_patch_of_50, {}, 623),
        (bulk_patch_of_50, {"prechange": True}, 626),
        (device_with_five_components, {}, 160),
        (deletion_of_50, {}, 2720),
    ],
)
def test_a_request_with_a_webhook_costs_at_most_so_many_queries(change, fields, most) -> None:
    assert len(queries(change, lambda: watch(**fields))) <= most + IS_OLDER  # NetBox 4.6 takes one more of its own


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("change", [patch_of_a_site, bulk_patch_of_50, device_with_five_components, deletion_of_50])
def test_netboxs_own_rule_for_comparison(change, monkeypatch, record_property) -> None:
    count = len(queries(change, lambda: OwnRule(monkeypatch)))
    record_property("queries", count)
    assert count
