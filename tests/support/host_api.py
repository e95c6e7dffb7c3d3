"""The URLs of a host with its own Webhook, Event and choices, and the document of its whole API."""

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView
from rest_framework import routers, serializers, viewsets

from tests.testapp.models import Thing


class WebhookSerializer(serializers.ModelSerializer):
    state = serializers.ChoiceField(["on", "off"])
    http_method = serializers.ChoiceField(["GET", "TRACE"])

    class Meta:
        model = Thing
        fields = ("id", "state", "http_method")


class EventSerializer(WebhookSerializer):
    pass


class DeliverySerializer(WebhookSerializer):
    pass


class WebhookViewSet(viewsets.ModelViewSet):
    queryset = Thing.objects.all()
    serializer_class = WebhookSerializer


class EventViewSet(WebhookViewSet):
    serializer_class = EventSerializer


class DeliveryViewSet(WebhookViewSet):
    serializer_class = DeliverySerializer


router = routers.SimpleRouter()
router.register("webhooks", WebhookViewSet)
router.register("events", EventViewSet, basename="event")
router.register("deliveries", DeliveryViewSet, basename="delivery")

urlpatterns = [
    path("api/host/", include(router.urls)),
    path("api/webhooks/", include("webhooks.api.urls")),
    path("schema/", SpectacularAPIView.as_view(authentication_classes=[], permission_classes=[])),
]
