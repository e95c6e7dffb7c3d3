"""Providers and circuits."""

from datetime import date
from decimal import Decimal

from circuits.choices import CircuitStatus, CircuitType, DistanceUnit
from circuits.models import Circuit, Provider
from core.demo.seeding import Seeder
from dcim.models import Site
from tenancy.models import Tenant

PROVIDERS = {
    "eurofibre": ("EuroFibre Carrier Services", 64500, "EF-20417"),
    "tagus-telecom": ("Tagus Telecom", 64501, "TT-778"),
}
CIRCUITS = (
    ("eurofibre", "EF-DF-0091", CircuitType.DARK_FIBER, "ams1", "fra2", 100_000_000, date(2021, 5, 17)),
    ("eurofibre", "EF-IPT-3310", CircuitType.TRANSIT, "ams1", None, 10_000_000, date(2020, 11, 2)),
    ("tagus-telecom", "TT-5512-INET", CircuitType.INTERNET, "lis-office", None, 1_000_000, date(2023, 1, 9)),
    ("tagus-telecom", "TT-9004-MPLS", CircuitType.MPLS, "lis-office", "ams1", 500_000, None),
)


def load_lines(seeder: Seeder) -> None:
    for slug, (name, asn, account) in PROVIDERS.items():
        seeder.get(Provider, slug=slug, defaults={"name": name, "asn": asn, "account": account})
    sites = {site.slug: site for site in Site.objects.all()}
    tenant = Tenant.objects.get(slug="platform")
    for provider, cid, kind, start, end, rate, installed in CIRCUITS:
        defaults = {
            "type": kind,
            "status": CircuitStatus.ACTIVE if installed else CircuitStatus.PROVISIONING,
            "tenant": tenant,
            "termination_a": sites[start],
            "termination_z": sites.get(end),
            "commit_rate": rate,
            "install_date": installed,
        }
        if kind == CircuitType.DARK_FIBER:
            defaults |= {"distance": Decimal("441.30"), "distance_unit": DistanceUnit.KILOMETER}
        seeder.get(Circuit, provider=Provider.objects.get(slug=provider), cid=cid, defaults=defaults)
