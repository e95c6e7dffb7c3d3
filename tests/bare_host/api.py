from django.urls import include, path
from rest_framework import permissions, routers, serializers, viewsets

from tests.bare_host.models import Note


class NoteSerializer(serializers.ModelSerializer):
    class Meta:
        model = Note
        fields = "__all__"


class NoteViewSet(viewsets.ModelViewSet):
    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer
    permission_classes = (permissions.IsAuthenticated,)


router = routers.SimpleRouter()
router.register("notes", NoteViewSet)
urlpatterns = [*router.urls, path("webhooks/", include("webhooks.api.urls"))]
