"""VRFs, aggregates, VLANs and prefixes."""

from datetime import date

from core.demo.seeding import Seeder
from dcim.models import Site
from ipam.choices import RIR, NetworkRole, PrefixStatus
from ipam.models import VLAN, VRF, Aggregate, Prefix, VLANGroup
from tenancy.models import Tenant

AGGREGATES = (
    ("10.0.0.0/8", RIR.RFC1918, date(2019, 3, 1)),
    ("198.51.100.0/24", RIR.RIPE, date(2020, 6, 15)),
    ("2001:db8::/32", RIR.RIPE, date(2021, 9, 30)),
)
SITE_NUMBERS = {"ams1": 10, "fra2": 20, "lis-office": 30}
VLANS = (
    (100, "management", NetworkRole.MANAGEMENT),
    (200, "servers", NetworkRole.SERVERS),
    (300, "users", NetworkRole.USERS),
)


def load_networks(seeder: Seeder) -> None:
    platform = Tenant.objects.get(slug="platform")
    customer = Tenant.objects.get(slug="northwind")
    seeder.get(VRF, rd="65010:100", defaults={"name": "customer-northwind", "tenant": customer})
    for prefix, rir, added in AGGREGATES:
        seeder.get(Aggregate, prefix=prefix, defaults={"rir": rir, "date_added": added, "tenant": platform})
    for slug, number in SITE_NUMBERS.items():
        load_site_networks(seeder, Site.objects.get(slug=slug), number, platform)


def load_site_networks(seeder: Seeder, site: Site, number: int, tenant: Tenant) -> None:
    defaults = {"site": site, "tenant": tenant}
    container = {**defaults, "status": PrefixStatus.CONTAINER, "description": f"All of {site.name}"}
    seeder.get(Prefix, prefix=f"10.{number}.0.0/16", vrf=None, defaults=container)
    seeder.get(Prefix, prefix=f"2001:db8:{number}::/48", vrf=None, defaults=container)
    group = seeder.get(VLANGroup, site=site, slug="campus", defaults={"name": "Campus", "max_vid": 999})
    for vid, name, role in VLANS:
        vlan = seeder.get(VLAN, group=group, vid=vid, defaults={**defaults, "name": name, "role": role})
        fields = {**defaults, "vlan": vlan, "role": role, "is_pool": role == NetworkRole.USERS}
        seeder.get(Prefix, prefix=f"10.{number}.{vid // 100}.0/24", vrf=None, defaults=fields)
