"""The URLs of the REST API: ``path("api/webhooks/", include("webhooks.api.urls"))``."""

from django.urls import path
from rest_framework.routers import DefaultRouter

from webhooks.api.deliveries import DeliveryViewSet
from webhooks.api.events import EventViewSet, SkipViewSet
from webhooks.api.reports import StatisticViewSet, StatusViewSet, WhyViewSet
from webhooks.api.runs import RunViewSet
from webhooks.api.webhooks import WebhookViewSet

app_name = "webhooks-api"

router = DefaultRouter()
router.include_format_suffixes = False
router.register("webhooks", WebhookViewSet)
router.register(r"webhooks/(?P<webhook>[^/.]+)/skips", SkipViewSet)
router.register("deliveries", DeliveryViewSet)
router.register("events", EventViewSet)
router.register("runs", RunViewSet)

statistics = StatisticViewSet.as_view({"get": "summary"})
status = StatusViewSet.as_view({"get": "current"})
why = WhyViewSet.as_view({"get": "why"})

recover, backfill, recover_skipped = (
    RunViewSet.as_view({"post": name}) for name in ("recover", "backfill", "recover_skipped")
)

urlpatterns = [
    *router.urls,
    path("statistics/", statistics, name="statistics"),
    path("status/", status, name="status"),
    path("why/", why, name="why"),
    path("webhooks/<str:webhook>/recover/", recover, name="webhook-recover"),
    path("webhooks/<str:webhook>/backfill/", backfill, name="webhook-backfill"),
    path("webhooks/<str:webhook>/recover_skipped/", recover_skipped, name="webhook-recover-skipped"),
]
