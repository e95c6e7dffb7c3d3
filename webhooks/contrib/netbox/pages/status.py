"""The status page, ``/plugins/webhooks/``, with its parts, which a script refreshes."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.generic import View
from utilities.views import ContentTypePermissionRequiredMixin

from webhooks.contrib.netbox.pages.display import page
from webhooks.contrib.netbox.pages.links import page_url
from webhooks.pages import run
from webhooks.pages.status import StatusPage

# Seconds between two refreshes of the parts.
REFRESH_EVERY = 5


class StatusView(ContentTypePermissionRequiredMixin, View):
    """The whole page."""

    template_name = "rq_webhooks/netbox/status/page.html"

    def get_required_permission(self) -> str:
        return "rq_webhooks.view_delivery"

    def get(self, request: HttpRequest) -> HttpResponse:
        shown = StatusPage(request.user)
        overview = shown.status.overview
        context: dict[str, Any] = {
            "shown": shown,
            "overview": overview,
            "backend": shown.status.backend,
            "runs": [(shown_run, run.acts_on(shown_run, request.user)) for shown_run in overview.runs],
            "refresh_every": REFRESH_EVERY,
            "return_url": page_url("status"),
        }
        return page(request, self.template_name, context)


class StatusPartsView(StatusView):
    """The parts that change. A script puts each into the place of the one with the same id."""

    template_name = "rq_webhooks/netbox/status/parts.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        response = super().get(request)
        response["Cache-Control"] = "no-store"
        return response


urlpatterns = [
    path("", StatusView.as_view(), name="status"),
    # For the menu: NetBox marks each entry whose address is the beginning of the page's.
    path("status/", StatusView.as_view(), name="status_entry"),
    path("status/parts/", StatusPartsView.as_view(), name="status_parts"),
]
