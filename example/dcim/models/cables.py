from django.db import models

from core.models import PrimaryModel
from dcim.choices import CableStatus, CableType


class Cable(PrimaryModel):
    """A cable between interfaces. Each interface has the cable and the end that is plugged into it."""

    type = models.CharField(max_length=50, choices=CableType, blank=True)
    status = models.CharField(max_length=50, choices=CableStatus, default=CableStatus.CONNECTED)
    label = models.CharField(
        max_length=100, blank=True, help_text="As printed on the cable. Leave it empty for the next number."
    )
    tenant = models.ForeignKey("tenancy.Tenant", models.PROTECT, related_name="cables", null=True, blank=True)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return self.label or f"#{self.pk}"
