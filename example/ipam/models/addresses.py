import ipaddress

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

from core.fields import AddressField, PrefixField
from core.models import PrimaryModel
from ipam.choices import RIR, IPAddressRole, IPAddressStatus, IPFamily, NetworkRole, PrefixStatus

ASSIGNABLE_TO = models.Q(app_label="dcim", model="interface") | models.Q(
    app_label="virtualization", model="virtualmachine"
)


class VRF(PrimaryModel):
    name = models.CharField(max_length=100)
    rd = models.CharField(
        "route distinguisher", max_length=21, unique=True, null=True, blank=True, help_text="Such as 65000:1"
    )
    tenant = models.ForeignKey("tenancy.Tenant", models.PROTECT, related_name="vrfs", null=True, blank=True)
    enforce_unique = models.BooleanField("enforce unique space", default=True)

    class Meta:
        ordering = ("name", "rd", "pk")
        verbose_name = "VRF"

    def __str__(self) -> str:
        return f"{self.name} ({self.rd})" if self.rd else self.name


class Aggregate(PrimaryModel):
    prefix = PrefixField(unique=True)
    rir = models.CharField("RIR", max_length=50, choices=RIR)
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="aggregates", null=True, blank=True
    )
    date_added = models.DateField(null=True, blank=True)

    class Meta:
        ordering = ("prefix", "pk")

    def __str__(self) -> str:
        return str(self.prefix)

    @property
    def family(self) -> IPFamily:
        return IPFamily(ipaddress.ip_network(self.prefix).version)


class Prefix(PrimaryModel):
    prefix = PrefixField()
    site = models.ForeignKey("dcim.Site", models.PROTECT, related_name="prefixes", null=True, blank=True)
    vrf = models.ForeignKey(VRF, models.PROTECT, related_name="prefixes", null=True, blank=True)
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="prefixes", null=True, blank=True
    )
    vlan = models.ForeignKey("ipam.VLAN", models.PROTECT, related_name="prefixes", null=True, blank=True)
    status = models.CharField(max_length=50, choices=PrefixStatus, default=PrefixStatus.ACTIVE)
    role = models.CharField(max_length=50, choices=NetworkRole, blank=True)
    is_pool = models.BooleanField("is a pool", default=False)
    mark_utilized = models.BooleanField(default=False)

    class Meta:
        ordering = ("vrf", "prefix", "pk")
        verbose_name_plural = "prefixes"
        constraints = (
            models.UniqueConstraint(fields=["vrf", "prefix"], name="ipam_prefix_unique_vrf_prefix"),
        )

    def __str__(self) -> str:
        return str(self.prefix)

    @property
    def family(self) -> IPFamily:
        return IPFamily(ipaddress.ip_network(self.prefix).version)


class IPAddress(PrimaryModel):
    address = AddressField()
    vrf = models.ForeignKey(VRF, models.PROTECT, related_name="ip_addresses", null=True, blank=True)
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="ip_addresses", null=True, blank=True
    )
    status = models.CharField(max_length=50, choices=IPAddressStatus, default=IPAddressStatus.ACTIVE)
    role = models.CharField(max_length=50, choices=IPAddressRole, blank=True)
    assigned_object_type = models.ForeignKey(
        ContentType,
        models.PROTECT,
        related_name="+",
        null=True,
        blank=True,
        limit_choices_to=ASSIGNABLE_TO,
    )
    assigned_object_id = models.PositiveBigIntegerField(null=True, blank=True)
    assigned_object = GenericForeignKey("assigned_object_type", "assigned_object_id")
    nat_inside = models.ForeignKey(
        "self",
        models.SET_NULL,
        related_name="nat_outside",
        null=True,
        blank=True,
        verbose_name="NAT (inside)",
    )
    dns_name = models.CharField(
        "DNS name",
        max_length=255,
        blank=True,
        validators=[RegexValidator(r"^([0-9A-Za-z_-]+|\*)(\.[0-9A-Za-z_-]+)*\.?$", "Not a valid host name.")],
    )

    class Meta:
        ordering = ("address", "pk")
        verbose_name = "IP address"
        verbose_name_plural = "IP addresses"
        constraints = (
            models.UniqueConstraint(fields=["vrf", "address"], name="ipam_ipaddress_unique_vrf_address"),
        )
        indexes = (
            models.Index(
                fields=["assigned_object_type", "assigned_object_id"], name="ipam_ipaddress_assigned"
            ),
        )

    def __str__(self) -> str:
        return str(self.address)

    @property
    def family(self) -> IPFamily:
        return IPFamily(ipaddress.ip_interface(self.address).version)

    def clean(self) -> None:
        super().clean()
        if (self.assigned_object_type_id is None) != (self.assigned_object_id is None):
            raise ValidationError("assigned_object_type and assigned_object_id go together.")
        if self.assigned_object_type and not self.assigned_object_type.get_all_objects_for_this_type(
            pk=self.assigned_object_id
        ):
            raise ValidationError({"assigned_object_id": "There is no such object."})
