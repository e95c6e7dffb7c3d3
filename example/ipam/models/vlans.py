from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from core.models import OrganizationalModel, PrimaryModel
from ipam.choices import NetworkRole, VLANStatus

VLAN_ID = [MinValueValidator(1), MaxValueValidator(4094)]


class VLANGroup(OrganizationalModel):
    site = models.ForeignKey("dcim.Site", models.CASCADE, related_name="vlan_groups", null=True, blank=True)
    min_vid = models.PositiveSmallIntegerField("lowest VLAN ID", default=1, validators=VLAN_ID)
    max_vid = models.PositiveSmallIntegerField("highest VLAN ID", default=4094, validators=VLAN_ID)

    class Meta:
        ordering = ("name", "pk")
        verbose_name = "VLAN group"
        constraints = (
            models.UniqueConstraint(fields=["site", "name"], name="ipam_vlangroup_unique_site_name"),
            models.UniqueConstraint(fields=["site", "slug"], name="ipam_vlangroup_unique_site_slug"),
        )

    def clean(self) -> None:
        super().clean()
        if self.min_vid > self.max_vid:
            raise ValidationError({"max_vid": "The highest VLAN ID is below the lowest."})


class VLAN(PrimaryModel):
    site = models.ForeignKey("dcim.Site", models.PROTECT, related_name="vlans", null=True, blank=True)
    group = models.ForeignKey(VLANGroup, models.PROTECT, related_name="vlans", null=True, blank=True)
    vid = models.PositiveSmallIntegerField("VLAN ID", validators=VLAN_ID)
    name = models.CharField(max_length=64)
    tenant = models.ForeignKey("tenancy.Tenant", models.PROTECT, related_name="vlans", null=True, blank=True)
    status = models.CharField(max_length=50, choices=VLANStatus, default=VLANStatus.ACTIVE)
    role = models.CharField(max_length=50, choices=NetworkRole, blank=True)

    class Meta:
        ordering = ("site", "group", "vid", "pk")
        verbose_name = "VLAN"
        constraints = (
            models.UniqueConstraint(fields=["group", "vid"], name="ipam_vlan_unique_group_vid"),
            models.UniqueConstraint(fields=["group", "name"], name="ipam_vlan_unique_group_name"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.vid})"

    def clean(self) -> None:
        super().clean()
        if self.group and not self.group.min_vid <= self.vid <= self.group.max_vid:
            raise ValidationError({"vid": f"Not between {self.group.min_vid} and {self.group.max_vid}."})
