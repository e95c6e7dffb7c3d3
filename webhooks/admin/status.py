"""The status page, /admin/webhook-backend-status/, with its buttons: retry and resume."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webhooks import permissions
from webhooks.admin import actions
from webhooks.admin.actions import RETRY
from webhooks.admin.counts import COUNTED_STATES, EACH_CAP, TOTAL_CAP, CappedPaginator, Overview, read_overview
from webhooks.admin.diagnostics import diagnose
from webhooks.admin.display import count_of, escape_invisible, exact_time, number, short, webhook_state, when
from webhooks.admin.filters import as_key, as_uuid, deliveries_url
from webhooks.conf import conf
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.delivery import State
from webhooks.redaction import Redaction
from webhooks.text import last_line
from webhooks.workers.redis import read_backend

FAILED_PER_PAGE = 25
MAX_FAILED_EVENTS = 10

# django-rq's first page has one of these names, depending on how the site includes it.
RQ_PAGES = ("django_rq:home", "admin:django_rq_home", "rq_home")

STATES = {
    State.PENDING: "due now or at its next attempt",
    State.WAITING: "behind an earlier one of its object",
    State.SENDING: "claimed by a worker",
    State.FAILED: "not sent until you retry it",
    State.SUCCEEDED: "stored",
    State.DISCARDED: "stored",
}


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The status page."""
    _require_view(request)
    now, overview, backend = timezone.now(), read_overview(request.user), read_backend()
    context = {
        **_base_context(request, "Webhook status"),
        "problems": diagnose(overview, backend, conf.enabled, now),
        "as_of": exact_time(now),
        "is_enabled": conf.enabled,
        "is_partial": permissions.is_partial(request.user),
        "hidden": " and ".join(overview.hidden),
        "needed_permissions": " and ".join(f"webhooks.view_{what[:-1]}" for what in overview.hidden),
        "backend": backend,
        "wake_ups": count_of(backend.wake_ups, "wake-up"),
        "workers": [{"row": worker, "heartbeat": when(worker.last_heartbeat)} for worker in backend.workers],
        "rq_url": _rq_url(),
        "tiles": _tiles(overview),
        "undispatched": number(overview.undispatched, TOTAL_CAP),
        "undispatched_since": when(overview.undispatched_since),
        "webhooks": [_webhook_row(webhook, now) for webhook in overview.webhooks],
        "has_more_webhooks": overview.has_more_webhooks,
        "failed_count": number(overview.counts[State.FAILED], TOTAL_CAP),
        "failed_event_count": number(overview.failed_events, TOTAL_CAP),
        **_failed_deliveries(request),
        **_failed_events(request),
    }
    return escape_invisible(TemplateResponse(request, "webhooks/admin/status.html", context))  # type: ignore[no-any-return]


@require_POST
@transaction.non_atomic_requests
def retry(request: HttpRequest) -> HttpResponse:
    """Retry the selected deliveries, or the one with the pressed button."""
    _require_retry(request)
    pressed = request.POST.getlist("only") or request.POST.getlist("delivery")
    chosen = [pk for pk in map(as_uuid, pressed) if pk]
    if chosen:
        RETRY.perform(request, permissions.visible_deliveries(request.user).filter(pk__in=chosen))
    else:
        messages.warning(request, "No delivery was selected: nothing is retried.")
    return redirect("webhooks_backend_status")


@require_http_methods(["GET", "HEAD", "POST"])
@transaction.non_atomic_requests
def retry_all(request: HttpRequest) -> HttpResponse:
    """Ask for confirmation, then retry all failed deliveries. ``?webhook=`` selects one webhook."""
    _require_retry(request)
    failed = permissions.visible_deliveries(request.user, Delivery.objects.failed())
    chosen = permissions.allowed(request.user, "retry", failed)
    webhook = None
    if "webhook" in request.GET:  # a webhook that is gone must not mean all of them
        webhook = get_object_or_404(permissions.visible_webhooks(request.user), pk=as_key(request.GET["webhook"]))
        chosen = chosen.filter(webhook=webhook)
    if request.method == "POST":
        RETRY.perform(request, chosen)
        return redirect("webhooks_backend_status")
    total = chosen.count()
    context = {
        **_base_context(request, "Retry all failed deliveries"),
        "total": total,
        "count": number(total),
        "webhook": webhook,
    }
    return escape_invisible(TemplateResponse(request, "webhooks/admin/retry_all.html", context))  # type: ignore[no-any-return]


@require_POST
def resume(request: HttpRequest) -> HttpResponse:
    """Resume a paused webhook."""
    _require_view(request)
    if not permissions.may_change_webhooks(request.user):
        raise PermissionDenied
    changeable = permissions.allowed(request.user, "change", Webhook.objects.all())
    actions.resume(request, changeable.filter(pk=as_key(request.POST.get("webhook", ""))))
    return redirect("webhooks_backend_status")


def _require_view(request: HttpRequest) -> None:
    if not permissions.may_view_deliveries(request.user):
        raise PermissionDenied


def _require_retry(request: HttpRequest) -> None:
    _require_view(request)
    if not RETRY.has_permission(request.user):
        raise PermissionDenied


def _base_context(request: HttpRequest, title: str) -> dict[str, Any]:
    return {
        **admin.site.each_context(request),
        "title": title,
        "opts": Delivery._meta,
        "may_retry": RETRY.has_permission(request.user),
        "may_change_webhooks": permissions.may_change_webhooks(request.user),
        "may_see_webhooks": permissions.may_view_webhooks(request.user),
    }


def _rq_url() -> str:
    for name in RQ_PAGES:
        try:
            return reverse(name)
        except NoReverseMatch:
            continue
    return ""


def _tiles(overview: Overview) -> list[dict[str, Any]]:
    return [
        {
            "state": state,
            "number": number(overview.counts[state], TOTAL_CAP),
            "is_zero": not overview.counts[state],
            "meaning": meaning,
            "url": deliveries_url(state=state),
        }
        for state, meaning in STATES.items()
    ]


def _webhook_row(webhook: Any, now: Any) -> dict[str, Any]:
    probe: Any = ""
    if webhook.is_paused:
        probe = when(webhook.probe_at) if webhook.probe_at > now else "due"
    counts = [(state, getattr(webhook, state)) for state in COUNTED_STATES]
    return {
        "row": webhook,
        "state": webhook_state(webhook),
        "counts": [
            {
                "number": number(count, EACH_CAP) if count else "",
                "url": deliveries_url(state=state, webhook__id__exact=webhook.pk),
            }
            for state, count in counts
        ],
        "succeeded_at": when(webhook.last_success_at),
        "failed_at": when(webhook.last_failure_at),
        "reason": short(webhook.last_failure, 70),
        "probe": probe,
    }


def _failed_deliveries(request: HttpRequest) -> dict[str, Any]:
    """A page of the failed deliveries, the newest first."""
    failed = permissions.visible_deliveries(request.user, Delivery.objects.failed().for_list()).order_by("-finished_at")
    page = CappedPaginator(failed, FAILED_PER_PAGE).get_page(request.GET.get("page"))
    redacted = Redaction(request.user)
    rows = [
        {
            "row": delivery,
            "failed_at": when(delivery.finished_at),
            "reason": short(redacted.error(delivery.webhook_id, delivery.reason), 90),
        }
        for delivery in page
    ]
    return {"failed_page": page, "failed": rows}


def _failed_events(request: HttpRequest) -> dict[str, Any]:
    failed = permissions.visible_events(request.user, Event.objects.failed().for_list()).order_by("-timestamp")
    return {
        "failed_events": [
            {"row": event, "at": when(event.timestamp), "error": short(last_line(event.error), 120)}
            for event in failed[:MAX_FAILED_EVENTS]
        ]
    }
