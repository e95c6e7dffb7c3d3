"""The URLs of the REST API: ``path("api/webhooks/", include("webhooks.api.urls"))``."""

from typing import Any

from django.urls import path
from rest_framework.routers import DefaultRouter

from webhooks.api.deliveries import DeliveryViewSet
from webhooks.api.events import EventViewSet, SkipViewSet
from webhooks.api.reports import StatisticViewSet, StatusViewSet, WhyViewSet
from webhooks.api.runs import RunViewSet
from webhooks.api.webhooks import WebhookViewSet
from webhooks.operations.kinds import OF_WEBHOOK

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


def of_webhook(kind: str) -> Any:
    """The address that begins a run of one webhook."""
    view = RunViewSet.as_view({"post": kind})
    return path(f"webhooks/<str:webhook>/{kind}/", view, name=f"webhook-{kind.replace('_', '-')}")


urlpatterns = [
    *router.urls,
    path("statistics/", statistics, name="statistics"),
    path("status/", status, name="status"),
    path("why/", why, name="why"),
    *map(of_webhook, OF_WEBHOOK),
]
