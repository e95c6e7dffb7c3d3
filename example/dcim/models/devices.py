from django.contrib.contenttypes.fields import GenericRelation
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from core.models import InventoryModel, PrimaryModel
from dcim.choices import (
    CableEnd,
    DeviceAirflow,
    DeviceFace,
    DeviceRole,
    DeviceStatus,
    InterfaceDuplex,
    InterfaceMode,
    InterfaceType,
)
from dcim.models.sites import Rack, Site
from ipam.primary_ip import PrimaryIPModel


class Device(PrimaryIPModel, PrimaryModel):
    name = models.CharField(max_length=64, null=True, blank=True)
    device_type = models.CharField(max_length=100, help_text="Manufacturer and model")
    role = models.CharField(max_length=50, choices=DeviceRole)
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="devices", null=True, blank=True
    )
    platform = models.CharField(max_length=100, blank=True, help_text="Operating system")
    serial = models.CharField("serial number", max_length=50, blank=True)
    asset_tag = models.CharField(max_length=50, unique=True, null=True, blank=True)
    site = models.ForeignKey(Site, models.PROTECT, related_name="devices")
    rack = models.ForeignKey(Rack, models.PROTECT, related_name="devices", null=True, blank=True)
    position = models.DecimalField("position (U)", max_digits=4, decimal_places=1, null=True, blank=True)
    face = models.CharField("rack face", max_length=50, choices=DeviceFace, blank=True)
    status = models.CharField(max_length=50, choices=DeviceStatus, default=DeviceStatus.ACTIVE)
    airflow = models.CharField(max_length=50, choices=DeviceAirflow, blank=True)
    cluster = models.ForeignKey(
        "virtualization.Cluster", models.SET_NULL, related_name="devices", null=True, blank=True
    )
    local_context_data = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(fields=["site", "tenant", "name"], name="dcim_device_unique_name"),
            models.UniqueConstraint(
                fields=["site", "name"],
                name="dcim_device_unique_name_without_tenant",
                condition=models.Q(tenant__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return self.name or f"{self.device_type} ({self.pk})"

    def clean(self) -> None:
        super().clean()
        if self.rack and self.rack.site_id != self.site_id:
            raise ValidationError({"rack": f"Rack {self.rack} is not at the device's site."})
        if self.position is not None and not (self.rack and self.face):
            raise ValidationError({"position": "A position needs a rack and a face."})


class Interface(InventoryModel):
    device = models.ForeignKey(Device, models.CASCADE, related_name="interfaces")
    name = models.CharField(max_length=64)
    label = models.CharField(max_length=64, blank=True, help_text="As printed on the device")
    type = models.CharField(max_length=50, choices=InterfaceType)
    enabled = models.BooleanField(default=True)
    parent = models.ForeignKey(
        "self", models.RESTRICT, related_name="child_interfaces", null=True, blank=True
    )
    lag = models.ForeignKey("self", models.SET_NULL, related_name="member_interfaces", null=True, blank=True)
    mtu = models.PositiveIntegerField(
        "MTU", null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(65536)]
    )
    mac_address = models.CharField(
        "MAC address",
        max_length=17,
        null=True,
        blank=True,
        validators=[RegexValidator("^([0-9A-F]{2}:){5}[0-9A-F]{2}$", "Such as 00:1B:21:3A:4F:05.")],
    )
    speed = models.PositiveIntegerField("speed (Kbps)", null=True, blank=True)
    duplex = models.CharField(max_length=50, choices=InterfaceDuplex, blank=True)
    mgmt_only = models.BooleanField("management only", default=False)
    mode = models.CharField("802.1Q mode", max_length=50, choices=InterfaceMode, blank=True)
    untagged_vlan = models.ForeignKey(
        "ipam.VLAN", models.SET_NULL, related_name="interfaces_as_untagged", null=True, blank=True
    )
    tagged_vlans = models.ManyToManyField("ipam.VLAN", related_name="interfaces_as_tagged", blank=True)
    vrf = models.ForeignKey("ipam.VRF", models.SET_NULL, related_name="interfaces", null=True, blank=True)
    mark_connected = models.BooleanField(default=False)
    cable = models.ForeignKey("dcim.Cable", models.SET_NULL, related_name="interfaces", null=True, blank=True)
    cable_end = models.CharField(max_length=1, choices=CableEnd, blank=True)
    ip_addresses = GenericRelation(
        "ipam.IPAddress",
        content_type_field="assigned_object_type",
        object_id_field="assigned_object_id",
        related_query_name="interface",
    )

    class Meta:
        ordering = ("device", "name")
        constraints = (
            models.UniqueConstraint(fields=["device", "name"], name="dcim_interface_unique_device_name"),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        for field in ("parent", "lag"):
            other: Interface | None = getattr(self, field)
            if other and other.device_id != self.device_id:
                raise ValidationError({field: f"Interface {other} belongs to another device."})
        if bool(self.cable) != bool(self.cable_end):
            raise ValidationError({"cable_end": "A cable and its end belong together."})
