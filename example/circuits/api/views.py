from circuits.api.serializers import CircuitSerializer, ProviderSerializer
from circuits.models import Circuit, Provider
from core.api.views import InventoryViewSet


class ProviderViewSet(InventoryViewSet):
    queryset = Provider.objects.prefetch_related("tags")
    serializer_class = ProviderSerializer
    filterset_fields = ("name", "slug", "asn")
    search_fields = ("name", "slug", "account", "description", "comments")


class CircuitViewSet(InventoryViewSet):
    queryset = Circuit.objects.select_related(
        "provider", "tenant", "termination_a", "termination_z"
    ).prefetch_related("tags")
    serializer_class = CircuitSerializer
    filterset_fields = (
        "cid",
        "type",
        "status",
        "install_date",
        "termination_date",
        "provider_id",
        "provider__slug",
        "tenant_id",
        "tenant__slug",
        "termination_a__slug",
        "termination_z__slug",
    )
    search_fields = ("cid", "description", "comments")
