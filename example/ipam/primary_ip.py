from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import models

if TYPE_CHECKING:
    from ipam.models import IPAddress


class PrimaryIPModel(models.Model):
    """A machine with primary addresses."""

    primary_ip4 = models.OneToOneField(
        "ipam.IPAddress",
        models.SET_NULL,
        related_name="primary_ip4_for_%(class)s",
        null=True,
        blank=True,
        verbose_name="primary IPv4",
    )
    primary_ip6 = models.OneToOneField(
        "ipam.IPAddress",
        models.SET_NULL,
        related_name="primary_ip6_for_%(class)s",
        null=True,
        blank=True,
        verbose_name="primary IPv6",
    )

    class Meta:
        abstract = True

    @property
    def primary_ip(self) -> IPAddress | None:
        """The IPv6 address if it has one, else the IPv4 address."""
        return self.primary_ip6 or self.primary_ip4

    def clean(self) -> None:
        super().clean()
        for field, family in (("primary_ip4", 4), ("primary_ip6", 6)):
            address: IPAddress | None = getattr(self, field)
            if address and address.family != family:
                raise ValidationError({field: f"{address} is not an IPv{family} address."})
