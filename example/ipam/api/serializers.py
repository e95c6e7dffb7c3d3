from django.contrib.contenttypes.models import ContentType

from core.api.fields import ContentTypeField, FamilyField, RelatedCountField
from core.api.relations import NestedObjectField
from core.api.serializers import BOOKKEEPING, IDENTITY, TaggedSerializer
from ipam.models import VLAN, VRF, Aggregate, IPAddress, Prefix, Service, VLANGroup
from ipam.models.addresses import ASSIGNABLE_TO


class VRFSerializer(TaggedSerializer):
    ipaddress_count = RelatedCountField("ip_addresses")
    prefix_count = RelatedCountField("prefixes")

    class Meta:
        model = VRF
        fields = (
            *IDENTITY,
            "name",
            "rd",
            "tenant",
            "enforce_unique",
            "description",
            "comments",
            *BOOKKEEPING,
            "ipaddress_count",
            "prefix_count",
        )
        brief_fields = ("name", "rd", "description")


class AggregateSerializer(TaggedSerializer):
    family = FamilyField()

    class Meta:
        model = Aggregate
        fields = (
            *IDENTITY,
            "family",
            "prefix",
            "rir",
            "tenant",
            "date_added",
            "description",
            "comments",
            *BOOKKEEPING,
        )
        brief_fields = ("family", "prefix", "description")


class PrefixSerializer(TaggedSerializer):
    family = FamilyField()

    class Meta:
        model = Prefix
        fields = (
            *IDENTITY,
            "family",
            "prefix",
            "site",
            "vrf",
            "tenant",
            "vlan",
            "status",
            "role",
            "is_pool",
            "mark_utilized",
            "description",
            "comments",
            *BOOKKEEPING,
        )
        brief_fields = ("family", "prefix", "description")


class IPAddressSerializer(TaggedSerializer):
    family = FamilyField()
    assigned_object_type = ContentTypeField(
        queryset=ContentType.objects.filter(ASSIGNABLE_TO), required=False, allow_null=True
    )
    assigned_object = NestedObjectField(read_only=True)
    nat_outside = NestedObjectField(many=True, read_only=True)

    class Meta:
        model = IPAddress
        fields = (
            *IDENTITY,
            "family",
            "address",
            "vrf",
            "tenant",
            "status",
            "role",
            "assigned_object_type",
            "assigned_object_id",
            "assigned_object",
            "nat_inside",
            "nat_outside",
            "dns_name",
            "description",
            "comments",
            *BOOKKEEPING,
        )
        brief_fields = ("family", "address", "dns_name", "description")


class VLANGroupSerializer(TaggedSerializer):
    vlan_count = RelatedCountField("vlans")

    class Meta:
        model = VLANGroup
        fields = (
            *IDENTITY,
            "name",
            "slug",
            "site",
            "min_vid",
            "max_vid",
            "description",
            *BOOKKEEPING,
            "vlan_count",
        )
        brief_fields = ("name", "slug", "description")


class VLANSerializer(TaggedSerializer):
    prefix_count = RelatedCountField("prefixes")

    class Meta:
        model = VLAN
        fields = (
            *IDENTITY,
            "site",
            "group",
            "vid",
            "name",
            "tenant",
            "status",
            "role",
            "description",
            "comments",
            *BOOKKEEPING,
            "prefix_count",
        )
        brief_fields = ("vid", "name", "description")


class ServiceSerializer(TaggedSerializer):
    class Meta:
        model = Service
        fields = (
            *IDENTITY,
            "device",
            "virtual_machine",
            "name",
            "protocol",
            "ports",
            "ipaddresses",
            "description",
            "comments",
            *BOOKKEEPING,
        )
        brief_fields = ("name", "protocol", "ports", "description")
