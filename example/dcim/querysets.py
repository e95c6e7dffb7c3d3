"""Querysets for webhooks: they load all fields of a serializer in a constant number of queries."""

from __future__ import annotations

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from dcim.models import Site

COUNTED = {
    "device_count": "devices",
    "prefix_count": "prefixes",
    "rack_count": "racks",
    "virtualmachine_count": "virtual_machines",
    "vlan_count": "vlans",
}


def sites() -> QuerySet[Site]:
    """Sites with their tenants, and with the counts of ``SiteSerializer`` as annotations."""
    counts = {name: Coalesce(_count(relation), 0) for name, relation in COUNTED.items()}
    return Site.objects.select_related("tenant").annotate(**counts)


def _count(relation: str) -> Subquery:
    reverse = Site._meta.get_field(relation)
    name = reverse.field.name
    rows = reverse.related_model._base_manager.filter(**{name: OuterRef("pk")}).order_by()
    return Subquery(rows.values(name).annotate(number=Count("pk")).values("number"))
