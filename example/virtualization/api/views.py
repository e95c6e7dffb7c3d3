from core.api.views import InventoryViewSet
from virtualization.api.serializers import (
    ClusterGroupSerializer,
    ClusterSerializer,
    VirtualMachineSerializer,
)
from virtualization.models import Cluster, ClusterGroup, VirtualMachine


class ClusterGroupViewSet(InventoryViewSet):
    queryset = ClusterGroup.objects.prefetch_related("tags")
    serializer_class = ClusterGroupSerializer
    filterset_fields = ("name", "slug")
    search_fields = ("name", "slug", "description")


class ClusterViewSet(InventoryViewSet):
    queryset = Cluster.objects.select_related("group", "tenant", "site").prefetch_related("tags")
    serializer_class = ClusterSerializer
    filterset_fields = (
        "name",
        "type",
        "status",
        "group_id",
        "group__slug",
        "site_id",
        "site__slug",
        "tenant_id",
        "tenant__slug",
    )
    search_fields = ("name", "description", "comments")


class VirtualMachineViewSet(InventoryViewSet):
    queryset = VirtualMachine.objects.select_related(
        "site", "cluster", "device", "tenant", "primary_ip4", "primary_ip6"
    ).prefetch_related("tags")
    serializer_class = VirtualMachineSerializer
    filterset_fields = (
        "name",
        "status",
        "role",
        "platform",
        "site_id",
        "site__slug",
        "cluster_id",
        "cluster__name",
        "device_id",
        "tenant_id",
        "tenant__slug",
    )
    search_fields = ("name", "serial", "description", "comments")
