from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from core.models import PrimaryModel
from ipam.choices import ServiceProtocol
from ipam.models.addresses import IPAddress


def validate_ports(value: Any) -> None:
    """A list of integers from 1 to 65535."""
    if not isinstance(value, list) or not all(type(port) is int and 1 <= port <= 65535 for port in value):
        raise ValidationError("A list of port numbers, such as [80, 443].")


class Service(PrimaryModel):
    """A service that listens on a device or a virtual machine."""

    device = models.ForeignKey("dcim.Device", models.CASCADE, related_name="services", null=True, blank=True)
    virtual_machine = models.ForeignKey(
        "virtualization.VirtualMachine", models.CASCADE, related_name="services", null=True, blank=True
    )
    name = models.CharField(max_length=100)
    protocol = models.CharField(max_length=50, choices=ServiceProtocol)
    ports = models.JSONField(validators=[validate_ports])
    ipaddresses = models.ManyToManyField(
        IPAddress, related_name="services", blank=True, verbose_name="IP addresses"
    )

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.CheckConstraint(
                condition=models.Q(device__isnull=True, virtual_machine__isnull=False)
                | models.Q(device__isnull=False, virtual_machine__isnull=True),
                name="ipam_service_one_parent",
                violation_error_message="A service belongs to either a device or a virtual machine.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.get_protocol_display()}/{','.join(map(str, self.ports))})"
