from typing import Any

from django.db.models import ProtectedError, QuerySet, RestrictedError
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework import status
from rest_framework.filters import OrderingFilter, SearchFilter
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView
from rest_framework.viewsets import ModelViewSet

from core.api.fields import with_counts
from core.api.serializers import TagSerializer
from core.models import Tag


class InventoryViewSet(ModelViewSet):
    def get_queryset(self) -> QuerySet:
        return with_counts(super().get_queryset(), self.serializer_class)

    def perform_update(self, serializer: BaseSerializer) -> None:
        """Drop relations that were loaded before the change."""
        serializer.save().refresh_from_db()

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        try:
            return super().destroy(request, *args, **kwargs)
        except (ProtectedError, RestrictedError) as error:
            objects = getattr(error, "protected_objects", None) or error.restricted_objects
            needed_by = ", ".join(f"{item._meta.verbose_name} {item}" for item in list(objects)[:5])
            return Response(
                {"detail": f"Cannot be deleted: needed by {len(objects)} other objects ({needed_by})."},
                status=status.HTTP_409_CONFLICT,
            )


class TagViewSet(InventoryViewSet):
    queryset = Tag.objects.all()
    serializer_class = TagSerializer
    filter_backends = (DjangoFilterBackend, SearchFilter, OrderingFilter)
    filterset_fields = ("name", "slug", "color")
    search_fields = ("name", "slug", "description")


class RootView(APIView):
    """The root of this API."""

    permission_classes = (IsAuthenticated,)
    parts = ("circuits", "dcim", "extras", "ipam", "tenancy", "virtualization", "webhooks")

    def get(self, request: Request) -> Response:
        return Response({part: reverse("api-root", request=request) + f"{part}/" for part in self.parts})
