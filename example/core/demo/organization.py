"""Tags, tenants, sites and racks."""

from decimal import Decimal

from core.demo.seeding import Seeder
from core.models import Tag
from dcim.choices import RackFormFactor, RackRole, SiteStatus, WeightUnit
from dcim.models import Rack, RackGroup, Site
from tenancy.models import Tenant, TenantGroup

TAGS = {
    "production": ("Production", "4caf50"),
    "staging": ("Staging", "ff9800"),
    "edge": ("Edge", "2196f3"),
    "legacy": ("Legacy", "9e9e9e"),
}
TENANTS = {
    "platform": ("Platform Team", "Internal", "internal"),
    "office-it": ("Office IT", "Internal", "internal"),
    "northwind": ("Northwind Traders", "Customers", "customers"),
    "globex": ("Globex Logistics", "Customers", "customers"),
}
SITES = {
    "ams1": {
        "name": "Amsterdam AMS1",
        "facility": "Science Park, hall 3",
        "time_zone": "Europe/Amsterdam",
        "physical_address": "Science Park 610\n1098 XH Amsterdam\nNetherlands",
        "latitude": Decimal("52.356400"),
        "longitude": Decimal("4.951600"),
    },
    "fra2": {
        "name": "Frankfurt FRA2",
        "facility": "Kleyerstraße, room 2.14",
        "time_zone": "Europe/Berlin",
        "physical_address": "Kleyerstraße 90\n60326 Frankfurt am Main\nGermany",
        "latitude": Decimal("50.098700"),
        "longitude": Decimal("8.632300"),
    },
    "lis-office": {
        "name": "Lisbon Office",
        "facility": "4th floor",
        "time_zone": "Europe/Lisbon",
        "physical_address": "Avenida da Liberdade 110\n1250-146 Lisboa\nPortugal",
        "latitude": Decimal("38.719900"),
        "longitude": Decimal("-9.145100"),
    },
    "waw1": {
        "name": "Warsaw WAW1",
        "status": SiteStatus.PLANNED,
        "time_zone": "Europe/Warsaw",
        "physical_address": "Konstruktorska 5\n02-673 Warszawa\nPoland",
        "description": "Opens next spring",
    },
}
RACKS = (
    ("ams1", "row-a", "Row A", "A01", RackRole.NETWORK),
    ("ams1", "row-a", "Row A", "A02", RackRole.COMPUTE),
    ("ams1", "row-b", "Row B", "B01", RackRole.STORAGE),
    ("fra2", "cage-1", "Cage 1", "C1-01", RackRole.NETWORK),
    ("fra2", "cage-1", "Cage 1", "C1-02", RackRole.COMPUTE),
    ("lis-office", "comms", "Comms room", "LIS-1", RackRole.NETWORK),
)


def load_organization(seeder: Seeder) -> None:
    for slug, (name, color) in TAGS.items():
        seeder.get(Tag, slug=slug, defaults={"name": name, "color": color})
    for slug, (name, group_name, group_slug) in TENANTS.items():
        group = seeder.get(TenantGroup, slug=group_slug, defaults={"name": group_name})
        seeder.get(Tenant, slug=slug, defaults={"name": name, "group": group})
    platform = Tenant.objects.get(slug="platform")
    for slug, fields in SITES.items():
        custom = {
            "custom_field_data": {"cost_center": f"DC-{slug[:3].upper()}", "staffed": slug == "lis-office"}
        }
        seeder.get(Site, slug=slug, defaults={"tenant": platform, **fields, **custom}, tags=("production",))
    for site_slug, group_slug, group_name, name, role in RACKS:
        load_rack(seeder, Site.objects.get(slug=site_slug), group_slug, group_name, name, role)


def load_rack(
    seeder: Seeder, site: Site, group_slug: str, group_name: str, name: str, role: RackRole
) -> None:
    group = seeder.get(RackGroup, site=site, slug=group_slug, defaults={"name": group_name})
    defaults = {
        "group": group,
        "role": role,
        "form_factor": RackFormFactor.FOUR_POST_CABINET,
        "weight": Decimal("118.50"),
        "weight_unit": WeightUnit.KILOGRAM,
        "max_weight": 1200,
        "serial": f"RK-{site.slug[:3].upper()}-{name}",
    }
    seeder.get(Rack, site=site, name=name, defaults=defaults)
