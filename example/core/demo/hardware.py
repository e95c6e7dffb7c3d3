"""Devices in racks, their interfaces, addresses and cables."""

from dataclasses import dataclass
from decimal import Decimal

from core.demo.networks import SITE_NUMBERS
from core.demo.seeding import Seeder
from dcim.choices import (
    CableEnd,
    CableType,
    DeviceFace,
    DeviceRole,
    DeviceStatus,
    InterfaceMode,
    InterfaceType,
)
from dcim.models import Cable, Device, Interface, Rack
from ipam.choices import ServiceProtocol
from ipam.models import VLAN, IPAddress, Service
from tenancy.models import Tenant


@dataclass(frozen=True)
class Model:
    device_type: str
    platform: str
    role: DeviceRole
    uplink: str
    uplink_type: InterfaceType


ROUTER = Model("Juniper MX204", "Junos", DeviceRole.ROUTER, "et-0/0/0", InterfaceType.QSFP28)
CORE = Model("Arista 7050X3", "EOS", DeviceRole.CORE_SWITCH, "Ethernet49", InterfaceType.QSFP28)
ACCESS = Model("Aruba CX 6300M", "AOS-CX", DeviceRole.ACCESS_SWITCH, "1/1/49", InterfaceType.SFP_PLUS)
FIREWALL = Model("Fortinet FG-200F", "FortiOS", DeviceRole.FIREWALL, "x1", InterfaceType.SFP_PLUS)
SERVER = Model("Dell PowerEdge R660", "Debian 13", DeviceRole.SERVER, "eno1", InterfaceType.SFP28)

DEVICES = (
    ("ams1", "A01", "ams1-rt-01", ROUTER, 40, ("production", "edge")),
    ("ams1", "A01", "ams1-rt-02", ROUTER, 38, ("production", "edge")),
    ("ams1", "A01", "ams1-sw-01", CORE, 36, ("production",)),
    ("ams1", "A01", "ams1-fw-01", FIREWALL, 34, ("production",)),
    ("ams1", "A02", "ams1-hv-01", SERVER, 20, ("production",)),
    ("ams1", "A02", "ams1-hv-02", SERVER, 18, ("production",)),
    ("ams1", "B01", "ams1-st-01", SERVER, 12, ("production",)),
    ("fra2", "C1-01", "fra2-rt-01", ROUTER, 40, ("production", "edge")),
    ("fra2", "C1-01", "fra2-sw-01", CORE, 36, ("production",)),
    ("fra2", "C1-02", "fra2-hv-01", SERVER, 20, ("production",)),
    ("fra2", "C1-02", "fra2-hv-02", SERVER, 18, ("staging",)),
    ("lis-office", "LIS-1", "lis-sw-01", ACCESS, 20, ("production",)),
    ("lis-office", "LIS-1", "lis-fw-01", FIREWALL, 18, ("production",)),
    ("lis-office", "LIS-1", "lis-srv-01", SERVER, 10, ("legacy",)),
)

# The devices at both ends. The cable is plugged into their uplinks.
CABLES = (
    ("ams1-rt-01", "ams1-sw-01", CableType.DAC_PASSIVE),
    ("fra2-rt-01", "fra2-sw-01", CableType.DAC_PASSIVE),
    ("lis-sw-01", "lis-fw-01", CableType.MMF_OM4),
)


def load_hardware(seeder: Seeder) -> None:
    owner = Tenant.objects.get(slug="platform")
    for number, (site, rack_name, name, model, position, tags) in enumerate(DEVICES, start=1):
        rack = Rack.objects.get(site__slug=site, name=rack_name)
        defaults = {
            "device_type": model.device_type,
            "platform": model.platform,
            "role": model.role,
            "tenant": owner,
            "rack": rack,
            "position": Decimal(position),
            "face": DeviceFace.FRONT,
            "status": DeviceStatus.STAGED if "staging" in tags else DeviceStatus.ACTIVE,
            "serial": f"SN{48000 + number * 37}",
            "asset_tag": f"AT-{number:05}",
        }
        device = seeder.get(Device, site=rack.site, name=name, defaults=defaults, tags=tags)
        load_interfaces(seeder, device, model, f"10.{SITE_NUMBERS[site]}.1.{10 + number}/24")
    for *ends, kind in CABLES:
        defaults = {"type": kind, "tenant": owner}
        cable = seeder.get(Cable, description=" to ".join(ends), defaults=defaults)
        for device_name, end in zip(ends, CableEnd, strict=True):
            uplink = Interface.objects.get(device__name=device_name, description="Uplink")
            if uplink.cable is None:
                uplink.cable, uplink.cable_end = cable, end
                uplink.save()


def load_interfaces(seeder: Seeder, device: Device, model: Model, address: str) -> None:
    vlans = VLAN.objects.filter(site=device.site)
    uplink = {"type": model.uplink_type, "mode": InterfaceMode.TAGGED, "mtu": 9000, "description": "Uplink"}
    interface = seeder.get(Interface, device=device, name=model.uplink, defaults=uplink)
    if not interface.tagged_vlans.exists():
        interface.tagged_vlans.set(vlans.exclude(vid=100))
    management = seeder.get(
        Interface,
        device=device,
        name="mgmt0",
        defaults={
            "type": InterfaceType.ETHERNET_1GE,
            "mgmt_only": True,
            "mode": InterfaceMode.ACCESS,
            "untagged_vlan": vlans.get(vid=100),
            "mac_address": f"00:1B:21:3A:4F:{device.pk % 256:02X}",
        },
    )
    fields = {
        "assigned_object": management,
        "dns_name": f"{device.name}.example.com",
        "tenant": device.tenant,
    }
    reachable_at = seeder.get(IPAddress, address=address, vrf=None, defaults=fields)
    if device.primary_ip4 is None:
        device.primary_ip4 = reachable_at
        device.save()
    ssh = seeder.get(
        Service, device=device, name="ssh", defaults={"protocol": ServiceProtocol.TCP, "ports": [22]}
    )
    if not ssh.ipaddresses.exists():
        ssh.ipaddresses.add(reachable_at)
