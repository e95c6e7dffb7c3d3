"""The status page, ``/plugins/webhooks/``, with its parts, which a script refreshes."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.translation import gettext as _
from django.views.generic import View
from utilities.views import ContentTypePermissionRequiredMixin

from webhooks.contrib.netbox.pages.display import page
from webhooks.models import Run
from webhooks.pages.links import Link
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
            "runs": [(run, _cancel(run) if shown.may_steer_runs else None) for run in overview.runs],
            "refresh_every": REFRESH_EVERY,
        }
        return page(request, self.template_name, context)


class StatusPartsView(StatusView):
    """The parts that change. A script puts each into the place of the one with the same id."""

    template_name = "rq_webhooks/netbox/status/parts.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        response = super().get(request)
        response["Cache-Control"] = "no-store"
        return response


def _cancel(run: Run) -> Link:
    return Link(
        _("Cancel"),
        "run",
        run.pk,
        "cancel",
        posts=True,
        question=_("Cancel run %(id)s?") % {"id": run.pk},
        detail=_("What it has done stays. You can begin another run for the rest."),
    )


urlpatterns = [
    path("", StatusView.as_view(), name="status"),
    path("status/parts/", StatusPartsView.as_view(), name="status_parts"),
]
