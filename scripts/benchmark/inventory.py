"""Objects of the example project, as full as those of a real inventory."""

from __future__ import annotations

import copy
from typing import TypeVar

from django.db import models

from core.demo import load
from dcim.models import Device, Interface
from ipam.models import IPAddress

M = TypeVar("M", bound=models.Model)


def make_devices(count: int) -> list[Device]:
    """So many devices with every relation that a device has, inserted without signals."""
    load()
    pattern = Device.objects.exclude(primary_ip4=None).exclude(rack=None).order_by("pk")[0]
    addresses = IPAddress.objects.bulk_create(_address(number) for number in range(count))
    made = Device.objects.bulk_create(_device(pattern, *numbered) for numbered in enumerate(addresses))
    tagged = Device.tags.through
    tags = list(pattern.tags.all())
    tagged.objects.bulk_create(tagged(device=device, tag=tag) for device in made for tag in tags)
    return made


def _address(number: int) -> IPAddress:
    address = _unsaved(IPAddress.objects.all()[0])
    address.assigned_object_id = address.assigned_object_type = None
    address.address = f"10.200.{number // 250}.{number % 250 + 1}/16"
    return address


def _device(pattern: Device, number: int, address: IPAddress) -> Device:
    device = _unsaved(pattern)
    device.name, device.asset_tag, device.serial = f"bench-{number:05}", f"B{number:06}", f"SN-{number:08X}"
    device.position, device.primary_ip4 = None, address
    return device


def _unsaved(pattern: M) -> M:
    twin = copy.copy(pattern)
    twin.pk = None
    twin._state.adding = True
    return twin


def make_interfaces(device: Device, count: int) -> None:
    """So many interfaces of a device, which its deletion cascades to, inserted without signals."""
    names = (f"bench{number}" for number in range(count))
    Interface.objects.bulk_create(Interface(device=device, name=name, type="1000base-t") for name in names)
