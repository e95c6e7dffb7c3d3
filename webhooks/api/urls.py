"""The URLs of the REST API: ``path("api/webhooks/", include("webhooks.api.urls"))``."""

from rest_framework.routers import DefaultRouter

from webhooks.api import views

app_name = "webhooks-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("webhooks", views.WebhookViewSet)
router.register("deliveries", views.DeliveryViewSet)
router.register("events", views.EventViewSet)

urlpatterns = router.urls
