"""The page, and the parts of it that a script refreshes."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from webhooks import permissions
from webhooks.admin import actions
from webhooks.admin.display import page
from webhooks.admin.status import figures, problems, tables
from webhooks.models import Delivery
from webhooks.operations.status import read_status
from webhooks.operations.wording import exact_time

# Seconds between two refreshes of the parts.
REFRESH_EVERY = 5


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The whole page."""
    context = {
        **admin.site.each_context(request),
        **_parts(request),
        "title": _("Webhooks"),
        "opts": Delivery._meta,
        "refresh_every": REFRESH_EVERY,
    }
    return page(request, "webhooks/admin/status/page.html", context)


@require_safe
def parts(request: HttpRequest) -> HttpResponse:
    """The parts that change. htmx puts each into the place of the one with the same id."""
    response = page(request, "webhooks/admin/status/parts.html", _parts(request))
    response["Cache-Control"] = "no-store"
    return response


def _parts(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    if not permissions.may_view_deliveries(user):
        raise PermissionDenied
    status = read_status(user)
    overview, hidden = status.overview, status.overview.hidden
    return {
        "as_of": exact_time(status.as_of),
        "is_partial": permissions.is_partial(user),
        "hides_webhooks": "webhooks" in hidden,
        "hides_events": "events" in hidden,
        "may_ask_why": permissions.may_view_webhooks(user),
        "may_retry": actions.may(user, "retry"),
        "may_add_webhooks": permissions.has_perm(user, "webhooks.add_webhook"),
        "alarms": status.alarms,
        "problem_count": len(status.problems),
        "worst": status.level.value,
        **problems.boxes(status, user),
        **figures.context(overview, status.as_of),
        **tables.webhooks(status),
        **tables.failed(overview, user),
        **tables.runs(overview, user),
        **tables.workers(status.backend),
        **tables.database(overview.vacuum),
    }
