from core.api.fields import RelatedCountField, TextOrNullField
from core.api.relations import NestedObjectField
from core.api.serializers import BOOKKEEPING, IDENTITY, BriefSerializer, TaggedSerializer
from dcim.models import Cable, Device, Interface, Rack, RackGroup, Site


class SiteSerializer(TaggedSerializer):
    time_zone = TextOrNullField(max_length=63)
    device_count = RelatedCountField("devices")
    prefix_count = RelatedCountField("prefixes")
    rack_count = RelatedCountField("racks")
    virtualmachine_count = RelatedCountField("virtual_machines")
    vlan_count = RelatedCountField("vlans")

    class Meta:
        model = Site
        fields = (
            *IDENTITY,
            "name",
            "slug",
            "status",
            "tenant",
            "facility",
            "time_zone",
            "description",
            "physical_address",
            "shipping_address",
            "latitude",
            "longitude",
            "comments",
            *BOOKKEEPING,
            "device_count",
            "prefix_count",
            "rack_count",
            "rackgroup_count",
            "virtualmachine_count",
            "vlan_count",
            "vlangroup_count",
        )
        read_only_fields = ("rackgroup_count", "vlangroup_count")
        brief_fields = ("name", "slug", "description")


class BriefSiteSerializer(BriefSerializer, SiteSerializer):
    """For webhooks that send only the identity of a site."""


class RackGroupSerializer(TaggedSerializer):
    rack_count = RelatedCountField("racks")

    class Meta:
        model = RackGroup
        fields = (*IDENTITY, "name", "slug", "site", "description", *BOOKKEEPING, "rack_count")
        brief_fields = ("name", "slug", "description")


class RackSerializer(TaggedSerializer):
    device_count = RelatedCountField("devices")

    class Meta:
        model = Rack
        fields = (
            *IDENTITY,
            "name",
            "facility_id",
            "site",
            "group",
            "tenant",
            "status",
            "role",
            "serial",
            "asset_tag",
            "form_factor",
            "width",
            "u_height",
            "starting_unit",
            "weight",
            "max_weight",
            "weight_unit",
            "desc_units",
            "description",
            "comments",
            *BOOKKEEPING,
            "device_count",
        )
        brief_fields = ("name", "description")


class DeviceSerializer(TaggedSerializer):
    primary_ip = NestedObjectField(read_only=True)
    interface_count = RelatedCountField("interfaces")

    class Meta:
        model = Device
        fields = (
            *IDENTITY,
            "name",
            "device_type",
            "role",
            "tenant",
            "platform",
            "serial",
            "asset_tag",
            "site",
            "rack",
            "position",
            "face",
            "status",
            "airflow",
            "primary_ip",
            "primary_ip4",
            "primary_ip6",
            "cluster",
            "description",
            "comments",
            "local_context_data",
            *BOOKKEEPING,
            "interface_count",
        )
        brief_fields = ("name", "description")


class BriefDeviceSerializer(BriefSerializer, DeviceSerializer):
    """For webhooks that send only the identity of a device."""


class InterfaceSerializer(TaggedSerializer):
    count_ipaddresses = RelatedCountField("ip_addresses")

    class Meta:
        model = Interface
        fields = (
            *IDENTITY,
            "device",
            "name",
            "label",
            "type",
            "enabled",
            "parent",
            "lag",
            "mtu",
            "mac_address",
            "speed",
            "duplex",
            "mgmt_only",
            "description",
            "mode",
            "untagged_vlan",
            "tagged_vlans",
            "mark_connected",
            "cable",
            "cable_end",
            "vrf",
            *BOOKKEEPING,
            "count_ipaddresses",
        )
        brief_fields = ("device", "name", "description")


class CableSerializer(TaggedSerializer):
    interface_count = RelatedCountField("interfaces")

    class Meta:
        model = Cable
        fields = (
            *IDENTITY,
            "type",
            "status",
            "label",
            "tenant",
            "description",
            "comments",
            *BOOKKEEPING,
            "interface_count",
        )
        brief_fields = ("label", "description")
