"""Clusters and virtual machines."""

from decimal import Decimal

from core.demo.networks import SITE_NUMBERS
from core.demo.seeding import Seeder
from dcim.models import Device, Site
from ipam.choices import ServiceProtocol
from ipam.models import IPAddress, Service
from tenancy.models import Tenant
from virtualization.choices import ClusterType, StartOnBoot, VirtualMachineRole
from virtualization.models import Cluster, ClusterGroup, VirtualMachine

CLUSTERS = (("ams1", "ams1-prod", "Production"), ("fra2", "fra2-staging", "Staging"))
MACHINES = (
    ("ams1-prod", "web-01", VirtualMachineRole.WEB, "platform", 2, 4096, 40_000, 443),
    ("ams1-prod", "web-02", VirtualMachineRole.WEB, "platform", 2, 4096, 40_000, 443),
    ("ams1-prod", "db-01", VirtualMachineRole.DATABASE, "platform", 8, 32_768, 500_000, 5432),
    ("ams1-prod", "erp-01", VirtualMachineRole.APPLICATION, "northwind", 4, 16_384, 120_000, 8443),
    ("fra2-staging", "web-01", VirtualMachineRole.WEB, "platform", 1, 2048, 20_000, 443),
    ("fra2-staging", "tracking-01", VirtualMachineRole.APPLICATION, "globex", 2, 8192, 60_000, 8080),
    ("fra2-staging", "metrics-01", VirtualMachineRole.MONITORING, "office-it", 2, 8192, 200_000, 9090),
)


def load_machines(seeder: Seeder) -> None:
    for site_slug, name, group_name in CLUSTERS:
        group = seeder.get(ClusterGroup, slug=group_name.lower(), defaults={"name": group_name})
        load_cluster(seeder, Site.objects.get(slug=site_slug), name, group)
    for number, (cluster_name, name, role, tenant, vcpus, memory, disk, port) in enumerate(MACHINES, start=1):
        cluster = Cluster.objects.get(name=cluster_name)
        defaults = {
            "site": cluster.site,
            "tenant": Tenant.objects.get(slug=tenant),
            "role": role,
            "platform": "Debian 13",
            "start_on_boot": StartOnBoot.ON,
            "vcpus": Decimal(vcpus),
            "memory": memory,
            "disk": disk,
        }
        machine = seeder.get(VirtualMachine, cluster=cluster, name=name, defaults=defaults)
        load_address(seeder, machine, f"10.{SITE_NUMBERS[cluster.site.slug]}.2.{10 + number}/24", port)


def load_cluster(seeder: Seeder, site: Site, name: str, group: ClusterGroup) -> None:
    defaults = {"type": ClusterType.PROXMOX, "group": group, "site": site}
    cluster = seeder.get(Cluster, name=name, defaults=defaults, tags=(group.slug,))
    for hypervisor in Device.objects.filter(site=site, name__contains="-hv-", cluster=None):
        hypervisor.cluster = cluster
        hypervisor.save()


def load_address(seeder: Seeder, machine: VirtualMachine, address: str, port: int) -> None:
    fields = {"assigned_object": machine, "dns_name": f"{machine.name}.{machine.site.slug}.example.com"}
    reachable_at = seeder.get(IPAddress, address=address, vrf=None, defaults=fields)
    if machine.primary_ip4 is None:
        machine.primary_ip4 = reachable_at
        machine.save()
    listener = {"protocol": ServiceProtocol.TCP, "ports": [port]}
    seeder.get(Service, virtual_machine=machine, name=machine.get_role_display().lower(), defaults=listener)
