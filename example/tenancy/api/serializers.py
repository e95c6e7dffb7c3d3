from core.api.fields import RelatedCountField
from core.api.serializers import BOOKKEEPING, IDENTITY, TaggedSerializer
from tenancy.models import Tenant, TenantGroup


class TenantGroupSerializer(TaggedSerializer):
    tenant_count = RelatedCountField("tenants")

    class Meta:
        model = TenantGroup
        fields = (*IDENTITY, "name", "slug", "parent", "description", *BOOKKEEPING, "tenant_count")
        brief_fields = ("name", "slug", "description")


class TenantSerializer(TaggedSerializer):
    circuit_count = RelatedCountField("circuits")
    cluster_count = RelatedCountField("clusters")
    device_count = RelatedCountField("devices")
    ipaddress_count = RelatedCountField("ip_addresses")
    prefix_count = RelatedCountField("prefixes")
    rack_count = RelatedCountField("racks")
    site_count = RelatedCountField("sites")
    virtualmachine_count = RelatedCountField("virtual_machines")
    vlan_count = RelatedCountField("vlans")
    vrf_count = RelatedCountField("vrfs")

    class Meta:
        model = Tenant
        fields = (
            *IDENTITY,
            "name",
            "slug",
            "group",
            "description",
            "comments",
            *BOOKKEEPING,
            "circuit_count",
            "cluster_count",
            "device_count",
            "ipaddress_count",
            "prefix_count",
            "rack_count",
            "site_count",
            "virtualmachine_count",
            "vlan_count",
            "vrf_count",
        )
        brief_fields = ("name", "slug", "description")
