from rest_framework import serializers

from core.api.fields import RelatedCountField
from core.api.relations import NestedObjectField
from core.api.serializers import BOOKKEEPING, IDENTITY, TaggedSerializer
from virtualization.models import Cluster, ClusterGroup, VirtualMachine


class ClusterGroupSerializer(TaggedSerializer):
    cluster_count = RelatedCountField("clusters")

    class Meta:
        model = ClusterGroup
        fields = (*IDENTITY, "name", "slug", "description", *BOOKKEEPING, "cluster_count")
        brief_fields = ("name", "slug", "description")


class ClusterSerializer(TaggedSerializer):
    api_access = serializers.CharField(source="api_token", max_length=100, required=False, allow_blank=True)
    device_count = RelatedCountField("devices")
    virtualmachine_count = RelatedCountField("virtual_machines")

    class Meta:
        model = Cluster
        fields = (
            *IDENTITY,
            "name",
            "type",
            "group",
            "status",
            "tenant",
            "site",
            "api_access",
            "description",
            "comments",
            *BOOKKEEPING,
            "device_count",
            "virtualmachine_count",
        )
        brief_fields = ("name", "description")


class VirtualMachineSerializer(TaggedSerializer):
    primary_ip = NestedObjectField(read_only=True)

    class Meta:
        model = VirtualMachine
        fields = (
            *IDENTITY,
            "name",
            "role",
            "status",
            "start_on_boot",
            "site",
            "cluster",
            "device",
            "platform",
            "primary_ip",
            "primary_ip4",
            "primary_ip6",
            "vcpus",
            "memory",
            "disk",
            "description",
            "serial",
            "tenant",
            "comments",
            "local_context_data",
            *BOOKKEEPING,
        )
        brief_fields = ("name", "description")
