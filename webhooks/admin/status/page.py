"""The status page, /admin/webhook-backend-status/: problems with their remedies, figures and tables.

It has the page, the parts of it that a script refreshes, and the button that retries all failed deliveries. Its other
buttons are those of the pages of deliveries, webhooks and runs, and return to this page.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from webhooks import permissions
from webhooks.admin.delivery.list import act
from webhooks.admin.display import page
from webhooks.admin.lists import as_key, start_url
from webhooks.admin.status import problems, sections
from webhooks.error_kinds import KINDS
from webhooks.models import Delivery, RunKind
from webhooks.models.queue import State
from webhooks.operations import runs
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
        "may_retry": permissions.has_perm(user, "webhooks.retry_delivery"),
        "may_add_webhooks": permissions.has_perm(user, "webhooks.add_webhook"),
        "alarms": status.alarms,
        "problem_count": len(status.problems),
        "worst": status.level.value,
        **problems.boxes(status, user),
        **sections.figures(overview, status.as_of),
        **sections.webhooks(status),
        **sections.failed(overview, user),
        **sections.runs(overview, user),
        **sections.workers(status.backend),
        **sections.database(overview.vacuum),
    }


@require_POST
@transaction.non_atomic_requests
def retry_all(request: HttpRequest) -> HttpResponse:
    """Retry the failed deliveries, with ``?webhook=`` and ``&error_kind=`` only some. If there are many, ask first."""
    user = request.user
    if not (permissions.may_view_deliveries(user) and permissions.has_perm(user, "webhooks.retry_delivery")):
        raise PermissionDenied
    filters: dict[str, Any] = {"state": State.FAILED.value}
    failed = permissions.visible_deliveries(user, Delivery.objects.failed())
    if "webhook" in request.GET:
        chosen = permissions.visible_webhooks(user).filter(pk=as_key(request.GET["webhook"]))
        pk = filters["webhook"] = get_object_or_404(chosen).pk
        failed = failed.filter(webhook=pk, queued__webhook=pk)
    if (kind := request.GET.get("error_kind")) is not None:
        if kind not in KINDS:
            raise Http404("There is no such kind of error.")
        filters["error_kind"] = kind
        failed = failed.filter(queued__error_kind=kind)
    if failed[: runs.AT_ONCE + 1].count() <= runs.AT_ONCE:
        act(request, "retry", failed)
        return redirect("webhooks_backend_status")
    # That page asks, with the true number, and needs the permission to begin a run.
    return redirect(start_url(RunKind.RETRY, **filters))
