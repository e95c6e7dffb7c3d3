from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from core.models import OrganizationalModel, PrimaryModel
from dcim.choices import RackFormFactor, RackRole, RackStatus, RackWidth, SiteStatus, WeightUnit


class Site(PrimaryModel):
    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=100, unique=True)
    status = models.CharField(max_length=50, choices=SiteStatus, default=SiteStatus.ACTIVE)
    tenant = models.ForeignKey("tenancy.Tenant", models.PROTECT, related_name="sites", null=True, blank=True)
    facility = models.CharField(
        max_length=50, blank=True, help_text="Local name of the building or the floor"
    )
    time_zone = models.CharField(max_length=63, blank=True, help_text="Such as Europe/Berlin")
    physical_address = models.TextField(max_length=200, blank=True)
    shipping_address = models.TextField(max_length=200, blank=True)
    latitude = models.DecimalField(max_digits=8, decimal_places=6, null=True, blank=True)
    longitude = models.DecimalField(max_digits=9, decimal_places=6, null=True, blank=True)
    # Receivers of signals keep these numbers.
    rackgroup_count = models.PositiveIntegerField(default=0, editable=False)
    vlangroup_count = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class RackGroup(OrganizationalModel):
    site = models.ForeignKey(Site, models.CASCADE, related_name="rack_groups")

    class Meta:
        ordering = ("site", "name")
        constraints = (
            models.UniqueConstraint(fields=["site", "name"], name="dcim_rackgroup_unique_site_name"),
            models.UniqueConstraint(fields=["site", "slug"], name="dcim_rackgroup_unique_site_slug"),
        )


class Rack(PrimaryModel):
    name = models.CharField(max_length=100)
    facility_id = models.CharField(max_length=50, null=True, blank=True)
    site = models.ForeignKey(Site, models.PROTECT, related_name="racks")
    group = models.ForeignKey(RackGroup, models.SET_NULL, related_name="racks", null=True, blank=True)
    tenant = models.ForeignKey("tenancy.Tenant", models.PROTECT, related_name="racks", null=True, blank=True)
    status = models.CharField(max_length=50, choices=RackStatus, default=RackStatus.ACTIVE)
    role = models.CharField(max_length=50, choices=RackRole, blank=True)
    serial = models.CharField("serial number", max_length=50, blank=True)
    asset_tag = models.CharField(max_length=50, unique=True, null=True, blank=True)
    form_factor = models.CharField(max_length=50, choices=RackFormFactor, blank=True)
    width = models.PositiveSmallIntegerField(choices=RackWidth, default=RackWidth.NINETEEN_INCHES)
    u_height = models.PositiveSmallIntegerField(
        "height (U)", default=42, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    starting_unit = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    desc_units = models.BooleanField("descending units", default=False)
    weight = models.DecimalField(max_digits=8, decimal_places=2, null=True, blank=True)
    max_weight = models.PositiveIntegerField(null=True, blank=True)
    weight_unit = models.CharField(max_length=50, choices=WeightUnit, blank=True)

    class Meta:
        ordering = ("site", "name")
        constraints = (
            models.UniqueConstraint(fields=["group", "name"], name="dcim_rack_unique_group_name"),
            models.UniqueConstraint(
                fields=["group", "facility_id"], name="dcim_rack_unique_group_facility_id"
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.facility_id})" if self.facility_id else self.name

    def clean(self) -> None:
        super().clean()
        if self.group and self.group.site_id != self.site_id:
            raise ValidationError({"group": f"Rack group {self.group} is not at the rack's site."})
        if self.weight is not None and not self.weight_unit:
            raise ValidationError({"weight_unit": "A weight needs its unit."})
