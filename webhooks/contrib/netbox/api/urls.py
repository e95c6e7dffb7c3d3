"""The URLs of the REST API, below ``/api/plugins/webhooks/``."""

from typing import Any

from django.urls import path
from netbox.api.routers import NetBoxRouter

from webhooks.contrib.netbox.api.views import (
    DeliveryViewSet,
    EventViewSet,
    RunViewSet,
    SkipViewSet,
    StatisticViewSet,
    StatusViewSet,
    WebhooksRootView,
    WebhookViewSet,
    WhyViewSet,
)
from webhooks.operations.kinds import OF_WEBHOOK

REPORTS = {
    "statistics": StatisticViewSet.as_view({"get": "summary"}),
    "status": StatusViewSet.as_view({"get": "current"}),
    "why": WhyViewSet.as_view({"get": "why"}),
}


class Router(NetBoxRouter):
    include_format_suffixes = False
    APIRootView = WebhooksRootView

    def get_api_root_view(self, api_urls: Any = None) -> Any:
        """List the reports as well."""
        lists = {prefix: self.routes[0].name.format(basename=basename) for prefix, _viewset, basename in self.registry}
        return self.APIRootView.as_view(api_root_dict=dict(sorted((lists | {name: name for name in REPORTS}).items())))


router = Router()
router.register("webhooks", WebhookViewSet)
router.register("deliveries", DeliveryViewSet)
router.register("events", EventViewSet)
router.register("skips", SkipViewSet)
router.register("runs", RunViewSet)


def of_webhook(kind: str) -> Any:
    """The address that begins a run of one webhook."""
    view = RunViewSet.as_view({"post": kind})
    return path(f"webhooks/<str:webhook>/{kind}/", view, name=f"webhook-{kind.replace('_', '-')}")


urlpatterns = [
    *router.urls,
    *(path(f"{name}/", view, name=name) for name, view in REPORTS.items()),
    *map(of_webhook, OF_WEBHOOK),
]
