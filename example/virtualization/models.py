from django.contrib.contenttypes.fields import GenericRelation
from django.core.exceptions import ValidationError
from django.db import models

from core.models import OrganizationalModel, PrimaryModel
from ipam.primary_ip import PrimaryIPModel
from virtualization.choices import (
    ClusterStatus,
    ClusterType,
    StartOnBoot,
    VirtualMachineRole,
    VirtualMachineStatus,
)


class ClusterGroup(OrganizationalModel):
    class Meta:
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=["name"], name="virtualization_clustergroup_unique_name"),
            models.UniqueConstraint(fields=["slug"], name="virtualization_clustergroup_unique_slug"),
        )


class Cluster(PrimaryModel):
    name = models.CharField(max_length=100)
    type = models.CharField(max_length=50, choices=ClusterType)
    group = models.ForeignKey(ClusterGroup, models.PROTECT, related_name="clusters", null=True, blank=True)
    status = models.CharField(max_length=50, choices=ClusterStatus, default=ClusterStatus.ACTIVE)
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="clusters", null=True, blank=True
    )
    site = models.ForeignKey("dcim.Site", models.PROTECT, related_name="clusters", null=True, blank=True)
    api_token = models.CharField(
        "API token", max_length=100, blank=True, help_text="For the API of the hypervisors"
    )

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(
                fields=["group", "name"], name="virtualization_cluster_unique_group_name"
            ),
        )

    def __str__(self) -> str:
        return self.name


class VirtualMachine(PrimaryIPModel, PrimaryModel):
    name = models.CharField(max_length=64)
    status = models.CharField(
        max_length=50, choices=VirtualMachineStatus, default=VirtualMachineStatus.ACTIVE
    )
    start_on_boot = models.CharField(max_length=50, choices=StartOnBoot, default=StartOnBoot.OFF)
    site = models.ForeignKey(
        "dcim.Site", models.PROTECT, related_name="virtual_machines", null=True, blank=True
    )
    cluster = models.ForeignKey(
        Cluster, models.PROTECT, related_name="virtual_machines", null=True, blank=True
    )
    device = models.ForeignKey(
        "dcim.Device", models.PROTECT, related_name="virtual_machines", null=True, blank=True
    )
    tenant = models.ForeignKey(
        "tenancy.Tenant", models.PROTECT, related_name="virtual_machines", null=True, blank=True
    )
    role = models.CharField(max_length=50, choices=VirtualMachineRole, blank=True)
    platform = models.CharField(max_length=100, blank=True, help_text="Operating system")
    serial = models.CharField("serial number", max_length=50, blank=True)
    vcpus = models.DecimalField("vCPUs", max_digits=6, decimal_places=2, null=True, blank=True)
    memory = models.PositiveIntegerField("memory (MB)", null=True, blank=True)
    disk = models.PositiveIntegerField("disk (MB)", null=True, blank=True)
    local_context_data = models.JSONField(null=True, blank=True)
    ip_addresses = GenericRelation(
        "ipam.IPAddress",
        content_type_field="assigned_object_type",
        object_id_field="assigned_object_id",
        related_query_name="virtual_machine",
    )

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(
                fields=["cluster", "tenant", "name"], name="virtualization_virtualmachine_unique_name"
            ),
            models.UniqueConstraint(
                fields=["cluster", "name"],
                name="virtualization_virtualmachine_unique_name_without_tenant",
                condition=models.Q(tenant__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        if self.cluster is None and self.site is None:
            raise ValidationError({"cluster": "A virtual machine needs a cluster or a site."})
