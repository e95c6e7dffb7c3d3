from django.contrib.contenttypes.prefetch import GenericPrefetch

from core.api.views import InventoryViewSet
from dcim.models import Interface
from ipam.api.serializers import (
    AggregateSerializer,
    IPAddressSerializer,
    PrefixSerializer,
    ServiceSerializer,
    VLANGroupSerializer,
    VLANSerializer,
    VRFSerializer,
)
from ipam.models import VLAN, VRF, Aggregate, IPAddress, Prefix, Service, VLANGroup
from virtualization.models import VirtualMachine


class VRFViewSet(InventoryViewSet):
    queryset = VRF.objects.select_related("tenant").prefetch_related("tags")
    serializer_class = VRFSerializer
    filterset_fields = ("name", "rd", "enforce_unique", "tenant_id", "tenant__slug")
    search_fields = ("name", "rd", "description", "comments")


class AggregateViewSet(InventoryViewSet):
    queryset = Aggregate.objects.select_related("tenant").prefetch_related("tags")
    serializer_class = AggregateSerializer
    filterset_fields = ("prefix", "rir", "date_added", "tenant_id", "tenant__slug")
    search_fields = ("prefix", "description", "comments")


class PrefixViewSet(InventoryViewSet):
    queryset = Prefix.objects.select_related("site", "vrf", "tenant", "vlan").prefetch_related("tags")
    serializer_class = PrefixSerializer
    filterset_fields = (
        "prefix",
        "status",
        "role",
        "is_pool",
        "site_id",
        "site__slug",
        "vrf_id",
        "vlan_id",
        "tenant_id",
        "tenant__slug",
    )
    search_fields = ("prefix", "description", "comments")


class IPAddressViewSet(InventoryViewSet):
    queryset = IPAddress.objects.select_related(
        "vrf", "tenant", "assigned_object_type", "nat_inside"
    ).prefetch_related(
        "tags",
        "nat_outside",
        GenericPrefetch(
            "assigned_object", [Interface.objects.select_related("device"), VirtualMachine.objects.all()]
        ),
    )
    serializer_class = IPAddressSerializer
    filterset_fields = ("address", "status", "role", "dns_name", "vrf_id", "tenant_id", "tenant__slug")
    search_fields = ("address", "dns_name", "description", "comments")


class VLANGroupViewSet(InventoryViewSet):
    queryset = VLANGroup.objects.select_related("site").prefetch_related("tags")
    serializer_class = VLANGroupSerializer
    filterset_fields = ("name", "slug", "site_id", "site__slug")
    search_fields = ("name", "slug", "description")


class VLANViewSet(InventoryViewSet):
    queryset = VLAN.objects.select_related("site", "group", "tenant").prefetch_related("tags")
    serializer_class = VLANSerializer
    filterset_fields = (
        "vid",
        "name",
        "status",
        "role",
        "site_id",
        "site__slug",
        "group_id",
        "group__slug",
        "tenant_id",
        "tenant__slug",
    )
    search_fields = ("name", "vid", "description", "comments")


class ServiceViewSet(InventoryViewSet):
    queryset = Service.objects.select_related("device", "virtual_machine").prefetch_related(
        "tags", "ipaddresses"
    )
    serializer_class = ServiceSerializer
    filterset_fields = ("name", "protocol", "device_id", "virtual_machine_id")
    search_fields = ("name", "description", "comments")
