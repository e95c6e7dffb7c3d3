from django.core.exceptions import ValidationError
from django.db import models

from circuits.choices import CircuitStatus, CircuitType, DistanceUnit
from core.models import PrimaryModel


class Provider(PrimaryModel):
    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=100, unique=True)
    asn = models.PositiveBigIntegerField("ASN", null=True, blank=True)
    account = models.CharField("account number", max_length=100, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Circuit(PrimaryModel):
    cid = models.CharField("circuit ID", max_length=100)
    provider = models.ForeignKey(Provider, models.PROTECT, related_name="circuits")
    type = models.CharField(max_length=50, choices=CircuitType)
    status = models.CharField(max_length=50, choices=CircuitStatus, default=CircuitStatus.ACTIVE)
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="circuits", null=True, blank=True
    )
    install_date = models.DateField(null=True, blank=True)
    termination_date = models.DateField(null=True, blank=True)
    commit_rate = models.PositiveIntegerField("commit rate (Kbps)", null=True, blank=True)
    distance = models.DecimalField(max_digits=8, decimal_places=2, null=True, blank=True)
    distance_unit = models.CharField(max_length=50, choices=DistanceUnit, blank=True)
    termination_a = models.ForeignKey(
        "dcim.Site", models.PROTECT, related_name="circuits_a", null=True, blank=True
    )
    termination_z = models.ForeignKey(
        "dcim.Site", models.PROTECT, related_name="circuits_z", null=True, blank=True
    )

    class Meta:
        ordering = ("provider", "cid")
        constraints = (
            models.UniqueConstraint(fields=["provider", "cid"], name="circuits_circuit_unique_provider_cid"),
        )

    def __str__(self) -> str:
        return self.cid

    def clean(self) -> None:
        super().clean()
        if self.install_date and self.termination_date and self.termination_date < self.install_date:
            raise ValidationError({"termination_date": "Ends before it is installed."})
