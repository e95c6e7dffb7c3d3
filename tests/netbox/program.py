"""A program of changes in a NetBox: over its REST API, on its pages, in jobs and in a shell.

The steps build on each other. Each is one or a few requests, or one job.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.test import Client, RequestFactory
from django.urls import reverse
from extras.jobs import ScriptJob
from extras.models import Script, ScriptModule
from netbox.context_managers import event_tracking
from users.constants import TOKEN_PREFIX
from utilities.request import copy_safe_request

from core.models import ObjectType
from dcim.models import Device, Interface, Site
from users.models import Token, User


@dataclass
class Hands:
    """A superuser with a token and a browser. ``ids`` has the keys of created objects, by names of the program."""

    user: Any
    ids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        token = Token.objects.create(user=self.user)
        self.rest = Client(headers={"authorization": f"Bearer {TOKEN_PREFIX}{token.key}.{token.token}"})
        self.browser = Client()
        self.browser.force_login(self.user)

    def __getitem__(self, name: str) -> int:
        return self.ids[name]

    # The REST API

    def api(self, method: str, path: str, data: Any = None, status: Iterable[int] = (200, 201, 204)) -> Any:
        options = {} if data is None else {"data": data, "content_type": "application/json"}
        answer = getattr(self.rest, method)(f"/api/{path}/", **options)
        assert answer.status_code in status, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def create(self, name: str, path: str, /, **data: Any) -> int:
        created: int = self.api("post", path, data)["id"]
        self.ids[name] = created
        return created

    def patch(self, name: str, path: str, /, **data: Any) -> Any:
        return self.api("patch", f"{path}/{self[name]}", data)

    def delete(self, name: str, path: str, status: Iterable[int] = (204,)) -> None:
        self.api("delete", f"{path}/{self[name]}", status=status)

    # The pages

    def submit(self, view: str, *names: str, http: int = 302, **data: Any) -> Any:
        """Send the form of a page. ``names`` are those of objects in its path."""
        path = reverse(view, args=[self[name] for name in names])
        answer = self.browser.post(path, data)
        assert answer.status_code == http, f"{path}: {answer.status_code} {form_errors(answer)}"
        return answer

    # Outside of requests

    def request(self) -> Any:
        """What NetBox's jobs have of the request that started them."""
        request = RequestFactory().post("/extras/scripts/")
        request.user, request.id = self.user, uuid.uuid4()
        return copy_safe_request(request)

    def run_script(self, name: str, commit: bool = True) -> None:
        script = Script.objects.get(name=name)
        ScriptJob.enqueue(instance=script, name=name, user=self.user, data={}, request=self.request(), commit=commit)


def form_errors(answer: Any) -> Any:
    context = answer.context or {}
    return [form.errors for form in (context.get("form"), context.get("model_form")) if form is not None]


@dataclass(frozen=True)
class Step:
    words: str
    run: Callable[[Hands], None]


STEPS: list[Step] = []


def step(words: str) -> Callable[[Callable[[Hands], None]], None]:
    def add(run: Callable[[Hands], None]) -> None:
        STEPS.append(Step(words, run))

    return add


def link(model: str, pk: int) -> dict[str, Any]:
    return {"object_type": model, "object_id": pk}


# Organization


@step("REST: create a region")
def _(hands: Hands) -> None:
    hands.create("region", "dcim/regions", name="North", slug="north")


@step("REST: create a region in the region")
def _(hands: Hands) -> None:
    hands.create("child region", "dcim/regions", name="Far north", slug="far-north", parent=hands["region"])


@step("REST: create tags in one request")
def _(hands: Hands) -> None:
    tags = [{"name": name, "slug": name.lower(), "color": "4caf50"} for name in ("Red", "Green", "Blue")]
    for tag in hands.api("post", "extras/tags", tags):
        hands.ids[tag["name"]] = tag["id"]


@step("REST: create a site with tags")
def _(hands: Hands) -> None:
    tags = [{"name": "Red"}, {"name": "Green"}]
    hands.create("site", "dcim/sites", name="AMS1", slug="ams1", region=hands["region"], tags=tags)


@step("REST: change one field of the site")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", status="planned")


@step("REST: change decimals, times and a text of the site")
def _(hands: Hands) -> None:
    hands.patch(
        "site", "dcim/sites", latitude=52.356400, longitude=4.951600, time_zone="Europe/Amsterdam", comments="Grüße\n✓"
    )


@step("REST: save the site without a change")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", status="planned")


@step("REST: change the tags of the site")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", tags=[{"name": "Green"}, {"name": "Blue"}])


@step("REST: remove the tags of the site")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", tags=[])


@step("REST: replace the site with PUT")
def _(hands: Hands) -> None:
    data = {"name": "AMS1", "slug": "ams1", "status": "active", "region": hands["child region"], "facility": "Hall 3"}
    hands.api("put", f"dcim/sites/{hands['site']}", data)


@step("REST: create sites in one request")
def _(hands: Hands) -> None:
    sites = [{"name": f"Many {number}", "slug": f"many-{number}"} for number in range(1, 4)]
    for site in hands.api("post", "dcim/sites", sites):
        hands.ids[site["name"]] = site["id"]


@step("REST: change sites in one request")
def _(hands: Hands) -> None:
    sites = [{"id": hands[f"Many {number}"], "description": f"Number {number}"} for number in range(1, 4)]
    hands.api("patch", "dcim/sites", sites)


@step("REST: delete sites in one request")
def _(hands: Hands) -> None:
    hands.api("delete", "dcim/sites", [{"id": hands["Many 2"]}, {"id": hands["Many 3"]}])


@step("REST: move a region to the top of the tree")
def _(hands: Hands) -> None:
    hands.patch("child region", "dcim/regions", parent=None)


@step("REST: delete the region of the site")
def _(hands: Hands) -> None:
    hands.delete("child region", "dcim/regions")


@step("REST: an invalid change")
def _(hands: Hands) -> None:
    hands.api("patch", f"dcim/sites/{hands['site']}", {"status": "nonsense"}, status=(400,))


@step("REST: create sites in one request, of which one is invalid")
def _(hands: Hands) -> None:
    hands.api("post", "dcim/sites", [{"name": "Good", "slug": "good"}, {"name": "Bad"}], status=(400,))


@step("REST: create locations")
def _(hands: Hands) -> None:
    hands.create("location", "dcim/locations", name="Hall", slug="hall", site=hands["site"])
    hands.create("row", "dcim/locations", name="Row", slug="row", site=hands["site"], parent=hands["location"])


# Tenants, contacts and journals


@step("REST: create a tenant in a group")
def _(hands: Hands) -> None:
    hands.create("tenant group", "tenancy/tenant-groups", name="Customers", slug="customers")
    hands.create("tenant", "tenancy/tenants", name="Acme", slug="acme", group=hands["tenant group"])


@step("REST: give the site a tenant")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", tenant=hands["tenant"])


@step("REST: delete a tenant that is in use")
def _(hands: Hands) -> None:
    hands.delete("tenant", "tenancy/tenants", status=(409,))


@step("REST: delete the group of the tenant")
def _(hands: Hands) -> None:
    hands.delete("tenant group", "tenancy/tenant-groups")


@step("REST: create a contact and assign it")
def _(hands: Hands) -> None:
    hands.create("contact group", "tenancy/contact-groups", name="Staff", slug="staff")
    hands.create("contact role", "tenancy/contact-roles", name="Owner", slug="owner")
    hands.create("contact", "tenancy/contacts", name="Ada", groups=[hands["contact group"]])
    assigned = {"contact": hands["contact"], "role": hands["contact role"], "priority": "primary"}
    hands.create("assignment", "tenancy/contact-assignments", **link("dcim.site", hands["site"]), **assigned)


@step("REST: delete the assignment and its contact")
def _(hands: Hands) -> None:
    hands.delete("contact", "tenancy/contacts", status=(409,))
    hands.delete("assignment", "tenancy/contact-assignments")
    hands.delete("contact", "tenancy/contacts")


@step("REST: write a journal entry, and change it")
def _(hands: Hands) -> None:
    about = {"assigned_object_type": "dcim.site", "assigned_object_id": hands["site"]}
    hands.create("journal", "extras/journal-entries", **about, kind="info", comments="Cleaned")
    hands.patch("journal", "extras/journal-entries", kind="warning")


@step("REST: create a custom field for sites")
def _(hands: Hands) -> None:
    field = {"name": "cost_center", "type": "text", "default": "none", "object_types": ["dcim.site"]}
    hands.create("custom field", "extras/custom-fields", **field)


@step("REST: set the custom field of the site")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", custom_fields={"cost_center": "DC-AMS"})


@step("REST: delete the custom field")
def _(hands: Hands) -> None:
    hands.delete("custom field", "extras/custom-fields")


@step("REST: create a set of choices, and change it")
def _(hands: Hands) -> None:
    choices = [["a", "A"], ["b", "B"]]
    hands.create("choices", "extras/custom-field-choice-sets", name="Letters", extra_choices=choices)
    hands.patch("choices", "extras/custom-field-choice-sets", extra_choices=choices[:1])


@step("REST: create an event rule, and change its event types")
def _(hands: Hands) -> None:
    hands.create("receiver", "extras/webhooks", name="Ledger", payload_url="http://127.0.0.1/", secret="hidden")
    action = {"action_type": "webhook", "action_object_type": "extras.webhook", "action_object_id": hands["receiver"]}
    rule = {"name": "Ledger", "enabled": False, "object_types": ["dcim.site"], "event_types": ["object_created"]}
    hands.create("rule", "extras/event-rules", **rule, **action)
    hands.patch("rule", "extras/event-rules", event_types=["object_created", "object_deleted"])


@step("REST: give the site an owner")
def _(hands: Hands) -> None:
    hands.create("owner group", "users/owner-groups", name="Teams")
    hands.create("owner", "users/owners", name="NOC", group=hands["owner group"])
    hands.patch("site", "dcim/sites", owner=hands["owner"])


@step("REST: delete the owner of the site")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", owner=None)
    hands.delete("owner", "users/owners")


@step("REST: delete a tag that the site has")
def _(hands: Hands) -> None:
    hands.patch("site", "dcim/sites", tags=[{"name": "Red"}])
    hands.delete("Red", "extras/tags")


# Devices and components


@step("REST: create a device type with templates of components")
def _(hands: Hands) -> None:
    hands.create("manufacturer", "dcim/manufacturers", name="Maker", slug="maker")
    maker = hands["manufacturer"]
    hands.create("device type", "dcim/device-types", manufacturer=maker, model="S48", slug="s48", u_height=1)
    of = {"device_type": hands["device type"]}
    ports = [{**of, "name": f"eth{number}", "type": "1000base-t"} for number in range(2)]
    hands.api("post", "dcim/interface-templates", ports)
    hands.create("console template", "dcim/console-port-templates", **of, name="con0", type="rj-45")
    hands.create("power template", "dcim/power-port-templates", **of, name="psu0", type="iec-60320-c14")


@step("REST: change a template of a component")
def _(hands: Hands) -> None:
    hands.patch("power template", "dcim/power-port-templates", maximum_draw=200)


@step("REST: create a device with components of its type")
def _(hands: Hands) -> None:
    hands.create("role", "dcim/device-roles", name="Switch", slug="switch", color="ff0000")
    device = {"device_type": hands["device type"], "role": hands["role"], "site": hands["site"], "status": "active"}
    for name in ("sw1", "sw2", "sw3"):
        hands.create(name, "dcim/devices", name=name, **device)
        for port in Interface.objects.filter(device__name=name):
            hands.ids[f"{name} {port.name}"] = port.pk


@step("REST: rename a device")
def _(hands: Hands) -> None:
    hands.patch("sw1", "dcim/devices", name="switch-1")


@step("REST: add an interface to a device")
def _(hands: Hands) -> None:
    hands.create("lag", "dcim/interfaces", device=hands["sw1"], name="lag0", type="lag")


@step("REST: put interfaces into a group in one request")
def _(hands: Hands) -> None:
    ports = [{"id": hands[f"sw1 eth{number}"], "lag": hands["lag"]} for number in range(2)]
    hands.api("patch", "dcim/interfaces", ports)


@step("REST: delete the group of the interfaces")
def _(hands: Hands) -> None:
    hands.delete("lag", "dcim/interfaces")


@step("REST: connect two interfaces with a cable")
def _(hands: Hands) -> None:
    a, b = (link("dcim.interface", hands[name]) for name in ("sw1 eth0", "sw2 eth0"))
    hands.create("cable", "dcim/cables", a_terminations=[a], b_terminations=[b], type="cat6")


@step("REST: change the status of the cable")
def _(hands: Hands) -> None:
    hands.patch("cable", "dcim/cables", status="planned")


@step("REST: give the cable another end")
def _(hands: Hands) -> None:
    hands.patch("cable", "dcim/cables", b_terminations=[link("dcim.interface", hands["sw3 eth0"])])


@step("REST: delete the cable")
def _(hands: Hands) -> None:
    hands.delete("cable", "dcim/cables")


@step("REST: connect several interfaces with one cable")
def _(hands: Hands) -> None:
    a = [link("dcim.interface", hands[f"sw1 eth{number}"]) for number in range(2)]
    b = [link("dcim.interface", hands[f"sw2 eth{number}"]) for number in range(2)]
    hands.create("wide cable", "dcim/cables", a_terminations=a, b_terminations=b)


@step("REST: create ports at the rear and in front")
def _(hands: Hands) -> None:
    hands.create("rear", "dcim/rear-ports", device=hands["sw3"], name="rear", type="8p8c", positions=1)
    ports = [{"position": 1, "rear_port": hands["rear"], "rear_port_position": 1}]
    hands.create("front", "dcim/front-ports", device=hands["sw3"], name="front", type="8p8c", rear_ports=ports)


@step("REST: change the ends of a port in front")
def _(hands: Hands) -> None:
    hands.patch("rear", "dcim/rear-ports", positions=2)
    ports = [{"position": 1, "rear_port": hands["rear"], "rear_port_position": 2}]
    hands.patch("front", "dcim/front-ports", rear_ports=ports)


@step("REST: create inventory items in a tree, and delete its root")
def _(hands: Hands) -> None:
    hands.create("item", "dcim/inventory-items", device=hands["sw1"], name="Board")
    hands.create("part", "dcim/inventory-items", device=hands["sw1"], name="Chip", parent=hands["item"])
    hands.delete("item", "dcim/inventory-items")


@step("REST: install a module")
def _(hands: Hands) -> None:
    hands.create("bay", "dcim/module-bays", device=hands["sw1"], name="Slot 1")
    hands.create("module type", "dcim/module-types", manufacturer=hands["manufacturer"], model="Card")
    of = {"module_type": hands["module type"]}
    hands.create("module template", "dcim/interface-templates", **of, name="card0", type="1000base-t")
    place = {"device": hands["sw1"], "module_bay": hands["bay"]}
    hands.create("module", "dcim/modules", **place, **of, status="active")


@step("REST: delete the module with its interface")
def _(hands: Hands) -> None:
    hands.delete("module", "dcim/modules")


@step("REST: create a virtual chassis with a master")
def _(hands: Hands) -> None:
    hands.create("chassis", "dcim/virtual-chassis", name="Stack", master=hands["sw1"])


@step("REST: let a device join the virtual chassis")
def _(hands: Hands) -> None:
    hands.patch("sw2", "dcim/devices", virtual_chassis=hands["chassis"], vc_position=2)


@step("REST: delete the virtual chassis")
def _(hands: Hands) -> None:
    hands.delete("chassis", "dcim/virtual-chassis")


@step("REST: delete a virtual chassis with members")
def _(hands: Hands) -> None:
    hands.create("big chassis", "dcim/virtual-chassis", name="Big stack")
    for position, name in enumerate(("sw1", "sw2", "sw3"), 1):
        hands.patch(name, "dcim/devices", virtual_chassis=hands["big chassis"], vc_position=position)
    hands.delete("big chassis", "dcim/virtual-chassis")


@step("REST: create a rack, and mount a device")
def _(hands: Hands) -> None:
    hands.create("rack", "dcim/racks", name="R1", site=hands["site"], status="active", u_height=42)
    hands.patch("sw1", "dcim/devices", rack=hands["rack"], position=10, face="front")


@step("REST: move the rack with its device to another site")
def _(hands: Hands) -> None:
    hands.patch("rack", "dcim/racks", site=hands["Many 1"])


@step("REST: create power panels and feeds")
def _(hands: Hands) -> None:
    hands.create("panel", "dcim/power-panels", name="P1", site=hands["site"])
    hands.create("feed", "dcim/power-feeds", name="F1", power_panel=hands["panel"])
    port = Device.objects.get(pk=hands["sw2"]).powerports.get()
    a, b = link("dcim.powerfeed", hands["feed"]), link("dcim.powerport", port.pk)
    hands.create("power cable", "dcim/cables", a_terminations=[a], b_terminations=[b])


@step("REST: create a config context")
def _(hands: Hands) -> None:
    hands.create("context", "extras/config-contexts", name="NTP", data={"ntp": ["10.0.0.1"]}, sites=[hands["site"]])


@step("REST: change the sites of the config context")
def _(hands: Hands) -> None:
    hands.patch("context", "extras/config-contexts", sites=[hands["Many 1"]])


@step("REST: create a config context with a secret")
def _(hands: Hands) -> None:
    hands.create("secret context", "extras/config-contexts", name="SNMP", data={"snmp": {"secret": "hidden"}})
    hands.patch("sw3", "dcim/devices", comments="With a context")


@step("REST: change the context of a device")
def _(hands: Hands) -> None:
    hands.patch("sw3", "dcim/devices", local_context_data={"dns": "10.0.0.2", "token": "hidden"})
    hands.patch("sw3", "dcim/devices", local_context_data={"dns": "10.0.0.3", "token": "changed"})


@step("REST: delete the config context with a secret")
def _(hands: Hands) -> None:
    hands.delete("secret context", "extras/config-contexts")
    hands.patch("sw3", "dcim/devices", local_context_data=None)


# Addresses and VLANs


@step("REST: create a VRF with route targets, and change them")
def _(hands: Hands) -> None:
    for name in ("65000:1", "65000:2"):
        hands.create(name, "ipam/route-targets", name=name)
    hands.create("vrf", "ipam/vrfs", name="Blue", rd="65000:9", import_targets=[hands["65000:1"]])
    hands.patch("vrf", "ipam/vrfs", import_targets=[hands["65000:2"]], export_targets=[hands["65000:1"]])


@step("REST: create a prefix of a site")
def _(hands: Hands) -> None:
    scope = {"scope_type": "dcim.site", "scope_id": hands["site"]}
    hands.create("prefix", "ipam/prefixes", prefix="10.1.0.0/16", status="container", **scope)


@step("REST: take the next prefix")
def _(hands: Hands) -> None:
    path = f"ipam/prefixes/{hands['prefix']}/available-prefixes"
    hands.ids["small prefix"] = hands.api("post", path, {"prefix_length": 24})["id"]


@step("REST: take the next addresses")
def _(hands: Hands) -> None:
    path = f"ipam/prefixes/{hands['small prefix']}/available-ips"
    for number, address in enumerate(hands.api("post", path, [{}, {"description": "second"}])):
        hands.ids[f"address {number}"] = address["id"]


@step("REST: assign an address to an interface")
def _(hands: Hands) -> None:
    assigned = {"assigned_object_type": "dcim.interface", "assigned_object_id": hands["sw1 eth0"]}
    hands.patch("address 0", "ipam/ip-addresses", **assigned)


@step("REST: make it the primary address of the device")
def _(hands: Hands) -> None:
    hands.patch("sw1", "dcim/devices", primary_ip4=hands["address 0"])


@step("REST: delete the primary address")
def _(hands: Hands) -> None:
    hands.delete("address 0", "ipam/ip-addresses")


@step("REST: delete the prefix around another one")
def _(hands: Hands) -> None:
    hands.delete("prefix", "ipam/prefixes")


@step("REST: create a VLAN group with VLANs")
def _(hands: Hands) -> None:
    hands.create("vlan group", "ipam/vlan-groups", name="Campus", slug="campus", vid_ranges=[[1, 100], [200, 300]])
    vlans = [{"vid": vid, "name": f"V{vid}", "group": hands["vlan group"], "status": "active"} for vid in (10, 20)]
    for vlan in hands.api("post", "ipam/vlans", vlans):
        hands.ids[vlan["name"]] = vlan["id"]


@step("REST: change the ranges of the VLAN group")
def _(hands: Hands) -> None:
    hands.patch("vlan group", "ipam/vlan-groups", vid_ranges=[[1, 150]])


@step("REST: give an interface VLANs")
def _(hands: Hands) -> None:
    vlans = {"untagged_vlan": hands["V10"], "tagged_vlans": [hands["V20"]]}
    hands.patch("sw2 eth1", "dcim/interfaces", mode="tagged", **vlans)


@step("REST: delete a VLAN that an interface has")
def _(hands: Hands) -> None:
    hands.delete("V20", "ipam/vlans")


@step("REST: create an AS number, and give it to the site")
def _(hands: Hands) -> None:
    hands.create("registry", "ipam/rirs", name="RIPE", slug="ripe")
    hands.create("asn", "ipam/asns", asn=65001, rir=hands["registry"])
    hands.patch("site", "dcim/sites", asns=[hands["asn"]])


@step("REST: delete the AS number of the site")
def _(hands: Hands) -> None:
    hands.delete("asn", "ipam/asns")


# Virtual machines, circuits, tunnels and wireless LANs


@step("REST: create a cluster and a virtual machine with an interface")
def _(hands: Hands) -> None:
    hands.create("cluster type", "virtualization/cluster-types", name="KVM", slug="kvm")
    hands.create("cluster", "virtualization/clusters", name="C1", type=hands["cluster type"])
    hands.create("vm", "virtualization/virtual-machines", name="vm1", cluster=hands["cluster"], vcpus=2, memory=1024)
    hands.create("vm port", "virtualization/interfaces", virtual_machine=hands["vm"], name="eth0")


@step("REST: create disks of the virtual machine, which sets its size")
def _(hands: Hands) -> None:
    for number in range(2):
        disk = {"virtual_machine": hands["vm"], "name": f"sd{number}", "size": 10}
        hands.create(f"disk {number}", "virtualization/virtual-disks", **disk)


@step("REST: delete the virtual machine with all it has")
def _(hands: Hands) -> None:
    hands.delete("vm", "virtualization/virtual-machines")


@step("REST: create a circuit with terminations")
def _(hands: Hands) -> None:
    hands.create("provider", "circuits/providers", name="Telco", slug="telco")
    hands.create("circuit type", "circuits/circuit-types", name="Fibre", slug="fibre")
    hands.create("circuit", "circuits/circuits", cid="X1", provider=hands["provider"], type=hands["circuit type"])
    for side in ("A", "Z"):
        end = {"circuit": hands["circuit"], "term_side": side, "termination_type": "dcim.site"}
        hands.create(f"side {side}", "circuits/circuit-terminations", **end, termination_id=hands["site"])


@step("REST: delete the circuit")
def _(hands: Hands) -> None:
    hands.delete("circuit", "circuits/circuits")


@step("REST: create a wireless LAN in a group")
def _(hands: Hands) -> None:
    hands.create("wlan group", "wireless/wireless-lan-groups", name="Guests", slug="guests")
    hands.create("wlan", "wireless/wireless-lans", ssid="guests", group=hands["wlan group"], auth_psk="hidden")


@step("REST: create a group of routers with a key")
def _(hands: Hands) -> None:
    group = {"group_id": 1, "protocol": "vrrp2", "auth_type": "md5", "auth_key": "hidden"}
    hands.create("fhrp group", "ipam/fhrp-groups", **group)
    hands.patch("fhrp group", "ipam/fhrp-groups", auth_key="changed")


@step("REST: create an IKE policy with a key")
def _(hands: Hands) -> None:
    proposal = {"authentication_method": "preshared-keys", "encryption_algorithm": "aes-256-cbc", "group": 14}
    hands.create("proposal", "vpn/ike-proposals", name="Proposal", **proposal)
    policy = {"name": "Policy", "version": 2, "proposals": [hands["proposal"]], "preshared_key": "hidden"}
    hands.create("policy", "vpn/ike-policies", **policy)


@step("REST: create a tunnel")
def _(hands: Hands) -> None:
    hands.create("tunnel", "vpn/tunnels", name="T1", status="active", encapsulation="gre")


@step("REST: delete a device with its cables, addresses and components")
def _(hands: Hands) -> None:
    hands.delete("sw2", "dcim/devices")


# Pages


@step("Page: add a site")
def _(hands: Hands) -> None:
    hands.submit("dcim:site_add", name="Page 1", slug="page-1", status="active", tags=[hands["Blue"]])
    hands.ids["page 1"] = Site.objects.get(slug="page-1").pk


@step("Page: edit a site")
def _(hands: Hands) -> None:
    tags = [hands["Green"]]
    hands.submit("dcim:site_edit", "page 1", name="Page 1", slug="page-1", status="retired", tags=tags)


@step("Page: delete a virtual chassis with members")
def _(hands: Hands) -> None:
    hands.create("page chassis", "dcim/virtual-chassis", name="Third stack", master=hands["sw1"])
    hands.patch("sw3", "dcim/devices", virtual_chassis=hands["page chassis"], vc_position=2)
    hands.patch("page chassis", "dcim/virtual-chassis", master=None)
    hands.submit("dcim:virtualchassis_delete", "page chassis", confirm="on")


@step("Page: a form with an error")
def _(hands: Hands) -> None:
    hands.submit("dcim:site_edit", "page 1", http=200, name="", slug="page-1", status="retired")


@step("Page: import sites as CSV")
def _(hands: Hands) -> None:
    rows = "name,slug,status\nJob 1,job-1,active\nJob 2,job-2,planned\nJob 3,job-3,active"
    hands.submit("dcim:site_bulk_import", data=rows, format="csv", csv_delimiter="auto")
    hands.ids |= dict(Site.objects.filter(name__startswith="Job").values_list("name", "pk"))


@step("Page: update sites by a CSV import")
def _(hands: Hands) -> None:
    rows = f"id,description\n{hands['Job 1']},Imported\n{hands['Job 2']},Imported"
    hands.submit("dcim:site_bulk_import", data=rows, format="csv", csv_delimiter="auto")


@step("Page: import CSV with a wrong row")
def _(hands: Hands) -> None:
    rows = "name,slug,status\nJob 4,job-4,active\nJob 5,job-5,nonsense"
    hands.submit("dcim:site_bulk_import", data=rows, format="csv", csv_delimiter="auto", http=200)


@step("Page: edit sites in bulk, with tags")
def _(hands: Hands) -> None:
    chosen = [hands[f"Job {number}"] for number in (1, 2, 3)]
    hands.submit("dcim:site_bulk_edit", pk=chosen, _apply=1, description="Bulk", add_tags=[hands["Blue"]])


@step("Page: rename sites in bulk")
def _(hands: Hands) -> None:
    chosen = [hands["Job 1"], hands["Job 2"]]
    new = {"field_names": ["name"], "find": "^(.*)$", "replace": r"\1X", "use_regex": True}
    hands.submit("dcim:site_bulk_rename", pk=chosen, _apply=1, **new)


@step("Page: add several interfaces with one form")
def _(hands: Hands) -> None:
    data = {"device": hands["sw1"], "name": "port[0-2]", "type": "1000base-t"}
    hands.submit("dcim:interface_add", **data)


@step("Page: add interfaces to several devices")
def _(hands: Hands) -> None:
    chosen = [hands["sw1"], hands["sw3"]]
    hands.submit("dcim:device_bulk_add_interface", pk=chosen, _create=1, name="mgmt[0-1]", type="virtual")


@step("Page: delete a site")
def _(hands: Hands) -> None:
    hands.submit("dcim:site_delete", "page 1", confirm=True)


@step("Page: delete sites in bulk")
def _(hands: Hands) -> None:
    hands.submit("dcim:site_bulk_delete", pk=[hands["Job 3"]], confirm=True, _confirm=1)


# Jobs


@step("Job: edit sites in the background")
def _(hands: Hands) -> None:
    chosen = [hands["Job 1"], hands["Job 2"]]
    hands.submit("dcim:site_bulk_edit", pk=chosen, _apply=1, facility="Background", background_job=True)


@step("Job: import sites in the background")
def _(hands: Hands) -> None:
    rows = "name,slug,status\nJob 6,job-6,active"
    hands.submit("dcim:site_bulk_import", data=rows, format="csv", csv_delimiter="auto", background_job=True)


@step("Job: register a module of scripts")
def _(hands: Hands) -> None:
    ScriptModule(file_root="scripts", file_path="changes.py").save()


@step("Job: a script that changes sites")
def _(hands: Hands) -> None:
    hands.run_script("RenameSites")


@step("Job: a script that creates a site")
def _(hands: Hands) -> None:
    hands.run_script("CreateSite")


@step("Job: a script without commit")
def _(hands: Hands) -> None:
    hands.run_script("RenameSites", commit=False)


@step("Job: a script that fails")
def _(hands: Hands) -> None:
    hands.run_script("Fails")


# Shell


@step("Shell: save a site")
def _(hands: Hands) -> None:
    site = Site.objects.get(pk=hands["site"])
    site.description = "Shell"
    site.save()


@step("Shell: delete sites of a queryset")
def _(hands: Hands) -> None:
    Site.objects.filter(slug="scripted").delete()


@step("Shell: save a site twice in one transaction, with NetBox's tracking")
def _(hands: Hands) -> None:
    with event_tracking(hands.request()), transaction.atomic():
        site = Site.objects.get(pk=hands["site"])
        site.snapshot()
        for text in ("First", "Second"):
            site.description = text
            site.save()


@step("Shell: create and delete a site in one transaction, with NetBox's tracking")
def _(hands: Hands) -> None:
    with event_tracking(hands.request()), transaction.atomic():
        Site.objects.create(name="Short", slug="short").delete()


@step("Shell: a transaction that is rolled back, with NetBox's tracking")
def _(hands: Hands) -> None:
    with event_tracking(hands.request()), transaction.atomic():
        site = Site.objects.get(pk=hands["site"])
        site.snapshot()
        site.description = "Never"
        site.save()
        transaction.set_rollback(True)


@step("Shell: update the sites of a queryset")
def _(hands: Hands) -> None:
    Site.objects.filter(pk=hands["site"]).update(description="Unseen")


def superuser() -> Any:
    return User.objects.create_superuser("admin")


def models_of_event_rules() -> list[Any]:
    """The content types that NetBox's own event rules may have, without those of the plugin."""
    found = ObjectType.objects.with_feature("event_rules").exclude(app_label="rq_webhooks")
    return [one for one in found if one.model_class() is not None]
