"""The buttons of the status page. Each posts, acts through ``operations``, and returns to the page."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from webhooks import permissions
from webhooks.admin import actions
from webhooks.admin.lists import as_key, as_uuid, start_url
from webhooks.admin.status.problems import NAME
from webhooks.models import Delivery, Run, RunKind, Webhook
from webhooks.models.queue import State
from webhooks.network.error_kinds import KINDS
from webhooks.operations import runs
from webhooks.operations.webhooks import ping


@require_POST
@transaction.non_atomic_requests
def retry(request: HttpRequest) -> HttpResponse:
    """Retry one delivery."""
    _require(permissions.may_view_deliveries(request.user), actions.may(request.user, "retry"))
    pressed = as_uuid(request.POST.get("delivery", ""))
    actions.retry(request, permissions.visible_deliveries(request.user).filter(pk__in=[pressed] if pressed else []))
    return redirect(NAME)


@require_POST
@transaction.non_atomic_requests
def retry_all(request: HttpRequest) -> HttpResponse:
    """Retry failed deliveries, or only one webhook's or with one reason: many by a run, after the page that asks."""
    user = request.user
    _require(permissions.may_view_deliveries(user), actions.may(user, "retry"))
    filters: dict[str, Any] = {"state": [State.FAILED.value]}
    chosen, _colon, kind = request.POST.get("group", request.POST.get("webhook", "")).partition(":")
    if chosen or "all" not in request.POST:  # a webhook that is gone must not mean all of them
        filters["webhook"] = get_object_or_404(permissions.visible_webhooks(user), pk=as_key(chosen)).pk
    if kind in KINDS:
        filters["error_kind"] = kind
    failed = _failed(user, filters)
    if failed[: runs.AT_ONCE + 1].count() <= runs.AT_ONCE:
        actions.retry(request, failed)
        return redirect(NAME)
    # That page asks, with the true number, and needs the permission to begin a run.
    return redirect(start_url(RunKind.RETRY, filters))


def _failed(user: Any, filters: dict[str, Any]) -> QuerySet[Delivery]:
    failed = permissions.visible_deliveries(user, Delivery.objects.failed())
    if "webhook" in filters:
        failed = failed.filter(webhook=filters["webhook"], queued__webhook=filters["webhook"])
    return failed.filter(queued__error_kind=filters["error_kind"]) if "error_kind" in filters else failed


@require_POST
def resume(request: HttpRequest) -> HttpResponse:
    """Resume a paused webhook."""
    actions.resume(request, _changeable(request))
    return redirect(NAME)


@require_POST
def enable(request: HttpRequest) -> HttpResponse:
    """Enable a disabled webhook. What waits is sent."""
    actions.set_enabled(request, _changeable(request), enabled=True)
    return redirect(NAME)


@require_POST
def test(request: HttpRequest) -> HttpResponse:
    """Send a test to a webhook. To a paused one it is a probe."""
    webhook = get_object_or_404(_changeable(request), enabled=True)
    ping(webhook, request.user)
    text = _("A test is on its way to “%(name)s”. Its result is shown here in a few seconds.")
    messages.success(request, text % {"name": webhook.name})
    return redirect(NAME)


@require_POST
def cancel(request: HttpRequest) -> HttpResponse:
    """Cancel a run. Its earlier steps stay."""
    _require(permissions.has_perm(request.user, "webhooks.add_run"))
    visible = permissions.allowed(request.user, "view", Run.objects.all())
    run = get_object_or_404(visible, pk=as_key(request.POST.get("run", "")))
    if runs.cancel(run, request.user):
        messages.success(request, _("Run %(id)s was cancelled. What it has done stays.") % {"id": run.pk})
    else:
        messages.warning(request, _("Run %(id)s had ended before.") % {"id": run.pk})
    return redirect(NAME)


def _changeable(request: HttpRequest) -> Any:
    """The webhook of the pressed button, if the user may change it."""
    user = request.user
    _require(permissions.may_view_deliveries(user), permissions.may_change_webhooks(user))
    changeable = permissions.allowed(user, "change", Webhook.objects.all())
    return changeable.filter(pk=as_key(request.POST.get("webhook", "")))


def _require(*permitted: bool) -> None:
    if not all(permitted):
        raise PermissionDenied
