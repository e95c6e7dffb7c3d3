"""The example's payloads have the keys and shapes of payloads that a real NetBox sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import models
from django.test import RequestFactory

from circuits.models import Circuit, Provider
from core.models import Tag
from dcim.models import Device, Interface, Rack, Site
from ipam.models import VLAN, VRF, IPAddress, Prefix, VLANGroup
from tenancy.models import Tenant, TenantGroup
from tests.support.makers import events, make_webhook
from users.models import User
from virtualization.models import Cluster, VirtualMachine
from webhooks.capture import context
from webhooks.ground import payloads

CAPTURED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "captured" / "netbox_payloads.json").read_text())

NOT_HERE = {
    "the example has no such objects": {
        "region", "group", "asns", "owner", "location", "parent_device", "oob_ip", "virtual_chassis", "vc_position",
        "vc_priority", "config_template", "config_context", "rack_type", "provider_account", "assignments",
        "virtual_machine_type", "l2vpn_termination", "qinq_role", "qinq_svlan", "circuit_count", "cable",
        "manufacturer",
        "console_port_count", "console_server_port_count", "power_port_count", "power_outlet_count",
        "cooling_intake_count", "cooling_outflow_count", "front_port_count", "rear_port_count", "device_bay_count",
        "module_bay_count", "inventory_item_count", "virtual_disk_count",
    },
    "the example's machines have no interfaces": {"interface_count"},
    "the example's objects are smaller": {
        "outer_width", "outer_height", "outer_depth", "outer_unit", "mounting_depth", "airflow", "cooling_method",
        "cooling_capability", "cooling_capacity", "latitude", "longitude",
    },
    "a prefix of the example has a site, where NetBox has a scope of any kind": {"scope_type", "scope_id", "scope"},
    "the example has no trees of prefixes and groups": {"children", "_depth"},
    "internal to NetBox": {"_occupied"},
    "nested objects of the example have no counts and no NAT": {
        "site_count", "device_count", "tenant_count", "nat_inside", "nat_outside",
    },
}  # fmt: skip

# Places where the example has another kind of value.
OTHERWISE = {
    "data.device_type": "a text instead of an object",
    "data.platform": "a text instead of an object",
    "data.role": "a choice instead of an object",
    "data.type": "a choice instead of an object",
}

OFFSET = r"(Z|\+00:00)" if settings.USE_TZ else r"(Z|\+00:00)?"  # serializers then write naive times
TIME = re.compile(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?{OFFSET}")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
# The content of these depends on the site.
OPEN = {"data.custom_fields", "data.local_context_data", "request.GET", "snapshots.prechange", "snapshots.postchange"}


def kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "time" if TIME.fullmatch(value) else "date" if DATE.fullmatch(value) else "text"
    return "list" if isinstance(value, list) else "object"


def differences(theirs: Any, ours: Any, place: str = "") -> Iterator[str]:
    """The unintended differences between a payload of NetBox and ours."""
    if place in OTHERWISE and (theirs is None or kind(theirs) != kind(ours) or isinstance(theirs, dict)):
        return
    if kind(theirs) != kind(ours):
        yield f"{place}: {kind(theirs)} there, {kind(ours)} here ({theirs!r}, {ours!r})"
    elif isinstance(theirs, dict) and place not in OPEN:
        missing = theirs.keys() - ours.keys()
        yield from (f"{place}.{key} is not here" for key in sorted(missing) if not place or not is_known(key))
        for key in sorted(theirs.keys() & ours.keys()):
            yield from differences(theirs[key], ours[key], f"{place}.{key}".lstrip("."))
    elif isinstance(theirs, list) and theirs:
        yield from differences(theirs[0], ours[0], f"{place}[0]") if ours else [f"{place} is empty here"]


def is_known(key: str) -> bool:
    return any(key in keys for keys in NOT_HERE.values())


# The captured objects, as far as the example has them.


def site(**fields: Any) -> Site:
    known = {"facility": "B1", "time_zone": "Europe/Berlin", "latitude": 52.52, "longitude": 13.4, "description": "HQ"}
    return Site.objects.create(name="Berlin", slug="berlin", **known | fields)


def device(**fields: Any) -> Device:
    made = Device.objects.create(
        name="core-01", device_type="Router 9000", role="router", platform="AcmeOS", serial="SN1", site=site(),
        local_context_data={"ntp": []}, **fields,
    )  # fmt: skip
    made.tags.add(Tag.objects.create(name="Edge", slug="edge"))
    return made


def racked() -> Device:
    made = device()
    rack = Rack.objects.create(name="R1", site=made.site)
    Interface.objects.create(device=made, name="eth0", type="1000base-t")
    address = IPAddress.objects.create(address="192.0.2.10/24", dns_name="a.example")
    Device.objects.filter(pk=made.pk).update(rack=rack, position=12.5, face="front", primary_ip4=address)
    return Device.objects.get(pk=made.pk)


def address() -> IPAddress:
    interface = Interface.objects.create(device=device(), name="eth0", type="1000base-t")
    blue = VRF.objects.create(name="blue", rd="65000:1")
    return IPAddress.objects.create(
        address="192.0.2.10/24", vrf=blue, assigned_object=interface, dns_name="core-01.example"
    )


def prefix() -> Prefix:
    blue = VRF.objects.create(name="blue", rd="65000:1")
    return Prefix.objects.create(prefix="192.0.2.0/24", vrf=blue, is_pool=True)


def circuit() -> Circuit:
    telco = Provider.objects.create(name="Telco", slug="telco")
    made = Circuit(cid="T-1", provider=telco, type="transit", install_date="2026-01-31", commit_rate=1_000_000)
    made.save()
    return made


def machine() -> VirtualMachine:
    cluster = Cluster.objects.create(name="kvm-1", type="kvm")
    return VirtualMachine.objects.create(name="vm-1", cluster=cluster, vcpus=2.5, memory=4096, disk=20000)


def tenant() -> Tenant:
    group = TenantGroup.objects.create(name="Customers", slug="customers")
    made = Tenant.objects.create(name="Customer A", slug="customer-a", group=group)
    made.tags.add(Tag.objects.create(name="Production", slug="production"))
    return made


MADE: dict[str, tuple[Callable[[], models.Model], str]] = {
    "site created": (site, "created"),
    "site updated: one field (status)": (site, "updated"),
    "site deleted": (
        lambda: site(facility="", time_zone="", latitude=None, longitude=None, description=""), "deleted",
    ),
    "device created with tags": (device, "created"),
    "device updated: rack and position": (racked, "updated"),
    "dcim.device deleted": (racked, "deleted"),
    "rack created": (
        lambda: Rack.objects.create(name="R1", site=site(), weight=120.5, weight_unit="kg"), "created",
    ),
    "prefix created": (prefix, "created"),
    "IP address created": (address, "created"),
    "ipam.ipaddress deleted": (address, "deleted"),
    "VLAN created": (
        lambda: VLAN.objects.create(
            vid=100, name="users", group=VLANGroup.objects.create(name="campus", slug="campus")
        ),
        "created",
    ),
    "circuit created": (circuit, "created"),
    "virtual machine created": (machine, "created"),
    "tenant created": (tenant, "created"),
}  # fmt: skip


def sent(make: Callable[[], models.Model], action: str) -> Any:
    """The body for a change within a request of a user."""
    types = (Site, Device, Rack, Prefix, IPAddress, VLAN, Circuit, VirtualMachine, Tenant)
    if action != "created":
        made = make()
    make_webhook(*types, prechange=True)
    request = RequestFactory().post("/api/dcim/sites/")
    request.user = User(email="admin")
    with context.acting(context.RequestActor(request)):
        if action == "created":
            made = make()
        elif action == "updated":
            made.save()
        else:
            made.delete()
    label = type(made)._meta.label_lower
    event = [one for one in events(type(made)) if one.object_type == label][-1]
    assert not event.error, event.error
    return json.loads(payloads.json_body(event))


@pytest.mark.one_database
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("label", MADE)
def test_a_payload_has_the_keys_and_shapes_of_netbox(label: str) -> None:
    theirs, (make, action) = CAPTURED[label], MADE[label]
    ours = sent(make, action)
    assert ours["object_type"] == theirs["object_type"]
    if theirs["event"] != ours["event"]:  # tags that are added to a new object are an update outside a transaction
        assert (theirs["event"], ours["event"]) == ("created", "updated")
        ours["snapshots"]["prechange"] = None
    for side in ("prechange", "postchange"):
        assert kind(theirs["snapshots"][side]) == kind(ours["snapshots"][side]), side
    assert list(differences(theirs, ours)) == []


def test_every_captured_payload_is_compared() -> None:
    assert MADE.keys() == CAPTURED.keys()

    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from keys(item)

    there = {key for body in CAPTURED.values() for key in keys(body["data"])}
    assert {key for known in NOT_HERE.values() for key in known} <= there
