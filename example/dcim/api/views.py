from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.views import InventoryViewSet
from dcim import audits
from dcim.api.serializers import (
    CableSerializer,
    DeviceSerializer,
    InterfaceSerializer,
    RackGroupSerializer,
    RackSerializer,
    SiteSerializer,
)
from dcim.models import Cable, Device, Interface, Rack, RackGroup, Site


class SiteViewSet(InventoryViewSet):
    queryset = Site.objects.select_related("tenant").prefetch_related("tags")
    serializer_class = SiteSerializer
    filterset_fields = ("name", "slug", "status", "facility", "tenant_id", "tenant__slug")
    search_fields = ("name", "slug", "facility", "description", "physical_address", "comments")


class RackGroupViewSet(InventoryViewSet):
    queryset = RackGroup.objects.select_related("site").prefetch_related("tags")
    serializer_class = RackGroupSerializer
    filterset_fields = ("name", "slug", "site_id", "site__slug")
    search_fields = ("name", "slug", "description")


class RackViewSet(InventoryViewSet):
    queryset = Rack.objects.select_related("site", "group", "tenant").prefetch_related("tags")
    serializer_class = RackSerializer
    filterset_fields = (
        "name",
        "status",
        "role",
        "serial",
        "asset_tag",
        "site_id",
        "site__slug",
        "group_id",
        "group__slug",
        "tenant_id",
        "tenant__slug",
    )
    search_fields = ("name", "facility_id", "serial", "asset_tag", "description", "comments")

    @action(detail=True, methods=["post"])
    def audit(self, request: Request, pk: str) -> Response:
        """Send the event of a rack audit, with a ``note``."""
        return Response(audits.audit(self.get_object(), str(request.data.get("note", ""))))


class DeviceViewSet(InventoryViewSet):
    queryset = Device.objects.select_related(
        "site", "rack", "tenant", "cluster", "primary_ip4", "primary_ip6"
    ).prefetch_related("tags")
    serializer_class = DeviceSerializer
    filterset_fields = (
        "name",
        "status",
        "role",
        "device_type",
        "platform",
        "serial",
        "asset_tag",
        "site_id",
        "site__slug",
        "rack_id",
        "tenant_id",
        "tenant__slug",
        "cluster_id",
    )
    search_fields = ("name", "serial", "asset_tag", "device_type", "description", "comments")


class InterfaceViewSet(InventoryViewSet):
    queryset = Interface.objects.select_related(
        "device", "parent__device", "lag__device", "untagged_vlan", "vrf", "cable"
    ).prefetch_related("tags", "tagged_vlans")
    serializer_class = InterfaceSerializer
    filterset_fields = (
        "name",
        "type",
        "enabled",
        "mgmt_only",
        "mode",
        "mac_address",
        "device_id",
        "device__name",
        "device__site__slug",
        "vrf_id",
    )
    search_fields = ("name", "label", "mac_address", "description")


class CableViewSet(InventoryViewSet):
    queryset = Cable.objects.select_related("tenant").prefetch_related("tags")
    serializer_class = CableSerializer
    filterset_fields = ("type", "status", "label", "tenant_id", "tenant__slug")
    search_fields = ("label", "description", "comments")
