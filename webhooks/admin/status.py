"""The status page, /admin/webhook-backend-status/, with its parts, which a script refreshes, and the page of Why."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from webhooks.admin.base import page
from webhooks.models import permissions
from webhooks.pages.status import StatusPage
from webhooks.pages.why import WhyPage

# Seconds between two refreshes of the parts.
REFRESH_EVERY = 5


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    context = {
        **admin.site.each_context(request),
        **_parts(request),
        "title": _("Webhooks"),
        "has_title_bar": apps.is_installed("unfold"),
        "refresh_every": REFRESH_EVERY,
    }
    return page(request, "rq_webhooks/admin/status/page.html", context)


@require_safe
def parts(request: HttpRequest) -> HttpResponse:
    """The parts that change. A script puts each into the place of the one with the same id."""
    response = page(request, "rq_webhooks/admin/status/parts.html", _parts(request))
    response["Cache-Control"] = "no-store"
    return response


def _parts(request: HttpRequest) -> dict[str, Any]:
    if not permissions.may_view_deliveries(request.user):
        raise PermissionDenied
    shown = StatusPage(request.user)
    return {"shown": shown, "overview": shown.status.overview, "backend": shown.status.backend}


@require_safe
def why(request: HttpRequest) -> HttpResponse:
    """“Why didn't it fire?”: the form, and below it the answer to the question in the address."""
    if not permissions.may_view_webhooks(request.user):
        raise PermissionDenied
    shown = WhyPage(request.GET.dict(), request.user)
    context = {**admin.site.each_context(request), "title": _("Why didn't it fire?"), "shown": shown}
    return page(request, "rq_webhooks/admin/why.html", context)
