from core.api.views import InventoryViewSet
from tenancy.api.serializers import TenantGroupSerializer, TenantSerializer
from tenancy.models import Tenant, TenantGroup


class TenantGroupViewSet(InventoryViewSet):
    queryset = TenantGroup.objects.select_related("parent").prefetch_related("tags")
    serializer_class = TenantGroupSerializer
    filterset_fields = ("name", "slug", "parent_id", "parent__slug")
    search_fields = ("name", "slug", "description")


class TenantViewSet(InventoryViewSet):
    queryset = Tenant.objects.select_related("group").prefetch_related("tags")
    serializer_class = TenantSerializer
    filterset_fields = ("name", "slug", "group_id", "group__slug")
    search_fields = ("name", "slug", "description", "comments")
