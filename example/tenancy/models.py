from django.db import models

from core.models import OrganizationalModel, PrimaryModel


class TenantGroup(OrganizationalModel):
    parent = models.ForeignKey("self", models.CASCADE, related_name="children", null=True, blank=True)

    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["name"], name="tenancy_tenantgroup_unique_name"),
            models.UniqueConstraint(fields=["slug"], name="tenancy_tenantgroup_unique_slug"),
        )


class Tenant(PrimaryModel):
    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=100, unique=True)
    group = models.ForeignKey(TenantGroup, models.SET_NULL, related_name="tenants", null=True, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
