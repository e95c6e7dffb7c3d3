"""NetBox's OpenAPI document with the endpoints of the plugin, and with those of NetBox's own webhooks beside them."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pytest
from django.core.management import call_command
from django.urls import include, path
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from extras.models import Tag
from netbox.plugins.urls import plugin_api_patterns
from utilities.testing import create_test_device

from dcim.models import DeviceType, Interface
from ipam.models import VLAN, IPAddress, Prefix
from tenancy.models import Tenant

pytestmark = pytest.mark.django_db

OURS = "/api/plugins/webhooks/"


@pytest.fixture(scope="module")
def document(django_db_setup: None, django_db_blocker: Any) -> Any:
    """The part about plugins and ``extras``: the whole takes a minute. ``problems`` has its warnings and errors."""
    GENERATOR_STATS.reset()
    GENERATOR_STATS.enable_trace_lineno()
    patterns = [
        path("api/plugins/", include((plugin_api_patterns, "plugins-api"))),
        path("api/extras/", include("extras.api.urls")),
    ]
    with django_db_blocker.unblock(), GENERATOR_STATS.silence():
        made = SchemaGenerator(patterns=patterns).get_schema(request=None, public=True)
    return made | {"problems": [*GENERATOR_STATS._warn_cache, *GENERATOR_STATS._error_cache]}


@pytest.fixture(scope="module")
def operations(document: Any) -> dict[str, Any]:
    """Ours, by method and path."""
    return {
        f"{method} {path.removeprefix(OURS)}": one
        for path, methods in document["paths"].items()
        for method, one in methods.items()
        if path.startswith(OURS)
    }


def test_it_has_no_warning_or_error(document: Any) -> None:
    assert document["problems"] == []


def test_the_document_is_valid(document: Any) -> None:
    validate_schema({name: part for name, part in document.items() if name != "problems"})


def test_the_ids_of_operations_are_distinct(document: Any, operations: dict[str, Any]) -> None:
    ids = Counter(one["operationId"] for methods in document["paths"].values() for one in methods.values())
    assert [name for name, count in ids.items() if count > 1] == []
    assert {one["operationId"].startswith("plugins_webhooks_") for one in operations.values()} == {True}
    assert not [one["operationId"] for one in operations.values() if one["operationId"].endswith("_2")]


def test_each_route_is_described(operations: dict[str, Any]) -> None:
    assert len(operations) == 35
    assert {"post webhooks/", "put webhooks/", "patch webhooks/", "delete webhooks/", "get why/"} <= operations.keys()


def test_the_parameters_of_lists_are_described(operations: dict[str, Any]) -> None:
    found = {
        name: {one["name"] for one in operation["parameters"] if one["in"] == "query"}
        for name, operation in operations.items()
        if "parameters" in operation
    }
    fields, pages = {"fields", "omit", "brief"}, {"limit", "offset", "start"}
    of_event = {"object_type", "object_id", "action", "request_id", "name", "user", "created_after", "created_before"}
    assert found["get webhooks/"] == fields | pages | {
        "ordering", "id", "name", "identifier", "q", "enabled", "paused", "failing", "object_type", "action",
    }  # fmt: skip
    long_list = fields | pages | of_event | {"cursor", "q"}
    assert found["get deliveries/"] == long_list | {"state", "error_kind", "status", "webhook"}
    assert found["get events/"] == long_list | {"failed", "webhook"}
    assert found["get skips/"] == long_list | {"rule", "webhook"}
    assert found["get runs/"] == fields | pages | {"ordering", "kind", "state"}
    assert found["get status/"] == fields


def test_the_fields_of_netbox_are_described(document: Any, operations: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("", "Delivery", "DeliveryDetail", "Event", "EventDetail", "Skip", "Run"):
        assert {"id", "url", "display_url", "display"} <= schemas[f"RqWebhook{name}"]["properties"].keys()
    replayed = operations["post events/{id}/replay/"]["responses"]["201"]["content"]["application/json"]["schema"]
    assert replayed == {"$ref": "#/components/schemas/RqWebhookEventDetail"}
    put = operations["put webhooks/{id}/"]
    answers = {status: one["content"]["application/json"]["schema"] for status, one in put["responses"].items()}
    ours = {"$ref": "#/components/schemas/RqWebhook"}
    assert answers == {"200": ours, "201": ours}
    assert "If-Match" in {one["name"] for one in put["parameters"]}
    create = operations["post webhooks/"]["requestBody"]["content"]["application/json"]["schema"]
    assert create == {"$ref": "#/components/schemas/RqWebhookOneOrManyRequest"}
    one, many = schemas["RqWebhookOneOrManyRequest"]["oneOf"]
    assert many == {"type": "array", "items": one}
    assert "secret" in schemas[one["$ref"].rsplit("/", 1)[1]]["properties"]
    assert "secret" not in schemas["RqWebhook"]["properties"]


def test_the_webhooks_of_netbox_keep_their_names(document: Any) -> None:
    assert "payload_url" in document["components"]["schemas"]["Webhook"]["properties"]
    assert "extras_webhooks_list" in {
        one["operationId"] for methods in document["paths"].values() for one in methods.values()
    }


# NetBox writes null for an empty choice, and its own document has an object there.
EMPTY_CHOICE = ": None is not of type 'object'"


def test_the_payloads_of_netbox_fit_their_schemas() -> None:
    tenant = Tenant.objects.create(name="Ops", slug="ops")
    device = create_test_device("router", tenant=tenant)
    DeviceType.objects.update(slug="model")  # the helper leaves it empty
    site = device.site
    site.tenant, site.latitude = tenant, "59.911491"
    site.save()
    site.tags.add(Tag.objects.create(name="core", slug="core"))
    Interface.objects.create(device=device, name="eth0", type="1000base-t")
    Prefix.objects.create(prefix="10.0.0.0/24", scope=site)
    IPAddress.objects.create(address="10.0.0.1/24", dns_name="a.example.org")
    VLAN.objects.create(vid=7, name="seven", site=site)
    for label in ("dcim.device", "dcim.site", "dcim.interface", "ipam.prefix", "ipam.ipaddress", "ipam.vlan"):
        out, err = io.StringIO(), io.StringIO()
        call_command("webhooks_schema", label, stdout=out, stderr=err)
        assert len(json.loads(out.getvalue())["examples"]) == 1
        assert [line for line in err.getvalue().splitlines()[1:] if EMPTY_CHOICE not in line] == [], label
