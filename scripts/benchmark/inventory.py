"""Objects of the example project, as full as those of a real inventory."""

from __future__ import annotations

import copy

from core.demo import load
from dcim.models import Device, Interface
from ipam.models import IPAddress


def make_devices(count: int) -> list[Device]:
    """So many devices with every relation that a device has, inserted without signals."""
    load()
    pattern = Device.objects.exclude(primary_ip4=None).exclude(rack=None).order_by("pk")[0]
    tags = list(pattern.tags.all())
    addresses = _addresses(count, pattern)
    devices = [_copy(pattern, number, address) for number, address in enumerate(addresses)]
    made = Device.objects.bulk_create(devices)
    tagged = Device.tags.through
    tagged.objects.bulk_create(tagged(device=device, tag=tag) for device in made for tag in tags)
    return made


def _addresses(count: int, pattern: Device) -> list[IPAddress]:
    addresses = []
    for number in range(count):
        address = copy.copy(pattern.primary_ip4)
        address.pk, address._state = None, copy.copy(address._state)
        address._state.adding = True
        address.address = f"10.200.{number // 250}.{number % 250 + 1}/16"
        addresses.append(address)
    return IPAddress.objects.bulk_create(addresses)


def _copy(pattern: Device, number: int, address: IPAddress) -> Device:
    device = copy.copy(pattern)
    device.pk, device._state = None, copy.copy(pattern._state)
    device._state.adding = True
    device.name, device.asset_tag, device.serial = f"bench-{number:05}", f"B{number:06}", f"SN-{number:08X}"
    device.position, device.primary_ip4 = None, address
    return device


def make_interfaces(device: Device, count: int) -> None:
    """So many interfaces of a device, which its deletion cascades to, inserted without signals."""
    names = (f"bench{number}" for number in range(count))
    Interface.objects.bulk_create(Interface(device=device, name=name, type="1000base-t") for name in names)
