"""/admin/webhook-backend-status/: why did nothing arrive?"""

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
from django.utils.safestring import SafeString
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from webhooks import permissions
from webhooks.admin import actions, counting, counts, diagnostics, overview, switches
from webhooks.admin.actions import RETRY
from webhooks.admin.display import count_of, exactly, number, short, undisguised, webhook_state, when
from webhooks.admin.filters import deliveries_url
from webhooks.admin.overview import Situation, Standing
from webhooks.admin.pagination import CappedPaginator
from webhooks.admin.search import as_key, as_uuid
from webhooks.conf import conf
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.delivery import State
from webhooks.redaction import Redaction
from webhooks.text import last_line
from webhooks.workers.redis import read_backend

PER_PAGE = 25

MOST_EVENTS = 10

# Where django-rq's pages may be mounted, by the name of their first one.
RQ_PAGES = ("django_rq:home", "admin:django_rq_home", "rq_home")

COUNTED = {
    State.PENDING: "due now or at its next attempt",
    State.WAITING: "behind an earlier one of its object",
    State.SENDING: "claimed by a worker",
    State.FAILED: "given up, until you retry",
    State.SUCCEEDED: "on file",
    State.DISCARDED: "on file",
}


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    _demand_view(request)
    now, seen, redis = timezone.now(), overview.read(request.user), read_backend()
    context = {
        **_chrome(request, "Webhook status"),
        "findings": diagnostics.judge(seen, redis, conf.enabled, now),
        "as_of": exactly(now),
        "is_enabled": conf.enabled,
        "is_partial": permissions.is_partial(request.user),
        "hidden": " and ".join(seen.hidden),
        "to_see_them": " and ".join(f"webhooks.view_{what[:-1]}" for what in seen.hidden),
        "backend": redis,
        "wake_ups": count_of(redis.wake_ups, "wake-up"),
        "workers": [{"row": worker, "heartbeat": when(worker.last_heartbeat)} for worker in redis.workers],
        "rq_url": _rq_url(),
        "tiles": _tiles(seen),
        "undispatched": number(seen.undispatched, counting.ALL),
        "undispatched_since": when(seen.undispatched_since),
        "webhooks": [_webhook(standing) for standing in seen.webhooks],
        "has_more_webhooks": seen.has_more_webhooks,
        "failed": _failed(request),
        "failed_count": number(seen.counts[State.FAILED], counting.ALL),
        "failed_events": _failed_events(request),
        "failed_event_count": number(seen.failed_events, counting.ALL),
    }
    return undisguised(TemplateResponse(request, "webhooks/admin/status.html", context))


@require_POST
@transaction.non_atomic_requests
def retry(request: HttpRequest) -> HttpResponse:
    """Retry the deliveries that were ticked, or the one whose button was pressed."""
    _demand_retry(request)
    pressed = request.POST.getlist("only") or request.POST.getlist("delivery")
    chosen = [pk for pk in map(as_uuid, pressed) if pk]
    if chosen:
        actions.perform(RETRY, request, permissions.visible_deliveries(request.user).filter(pk__in=chosen))
    else:
        messages.warning(request, "No delivery was selected: nothing is retried.")
    return redirect("webhooks_backend_status")


@require_http_methods(["GET", "HEAD", "POST"])
@transaction.non_atomic_requests
def retry_all(request: HttpRequest) -> HttpResponse:
    """Ask, and then retry all that failed; of one webhook, where the address names one."""
    _demand_retry(request)
    webhook = _webhook_named(request)
    chosen = permissions.allowed(
        request.user, "retry", permissions.visible_deliveries(request.user, Delivery.objects.failed())
    )
    if webhook:
        chosen = chosen.filter(webhook=webhook)
    if request.method == "POST":
        actions.perform(RETRY, request, chosen)
        return redirect("webhooks_backend_status")
    count = chosen.count()
    context = {
        **_chrome(request, "Retry all failed deliveries"),
        "count": number(count),
        "is_one": count == 1,
        "webhook": webhook,
    }
    return undisguised(TemplateResponse(request, "webhooks/admin/retry_all.html", context))


@require_POST
def resume(request: HttpRequest) -> HttpResponse:
    """Send to a paused webhook again at once."""
    _demand_view(request)
    if not permissions.may_change_webhooks(request.user):
        raise PermissionDenied
    chosen = permissions.allowed(request.user, "change", Webhook.objects.all())
    switches.resume(request, chosen.filter(pk=as_key(request.POST.get("webhook", ""))))
    return redirect("webhooks_backend_status")


def _demand_view(request: HttpRequest) -> None:
    if not permissions.may_view_deliveries(request.user):
        raise PermissionDenied


def _demand_retry(request: HttpRequest) -> None:
    _demand_view(request)
    if not RETRY.allowed(request):
        raise PermissionDenied


def _chrome(request: HttpRequest, title: str) -> dict[str, Any]:
    user = request.user
    return {
        **admin.site.each_context(request),
        "title": title,
        "opts": Delivery._meta,
        "may_retry": RETRY.allowed(request),
        "may_change_webhooks": permissions.may_change_webhooks(user),
        "may_see_webhooks": permissions.may_view_webhooks(user),
    }


def _rq_url() -> str:
    for name in RQ_PAGES:
        try:
            return reverse(name)
        except NoReverseMatch:
            continue
    return ""


def _webhook_named(request: HttpRequest) -> Webhook | None:
    """The webhook of ``?webhook=``. Raises Http404 where there is none of that id, or the user may not view it: it must
    not mean all."""
    if "webhook" not in request.GET:
        return None
    return get_object_or_404(permissions.visible_webhooks(request.user), pk=as_key(request.GET["webhook"]))


def _tiles(seen: Situation) -> list[dict[str, Any]]:
    return [
        {
            "state": state,
            "number": number(seen.counts[state], counting.ALL),
            "is_zero": not seen.counts[state],
            "meaning": meaning,
            "url": deliveries_url(state=state),
        }
        for state, meaning in COUNTED.items()
    ]


def _webhook(standing: Standing) -> dict[str, Any]:
    numbers = [(state, getattr(standing, state)) for state in counts.TALLIED]
    return {
        "row": standing,
        "state": webhook_state(standing),
        "counts": [
            {
                "number": number(count, counting.EACH) if count else "",
                "url": deliveries_url(state=state, webhook__id__exact=standing.pk),
            }
            for state, count in numbers
        ],
        "succeeded_at": when(standing.last_success_at),
        "failed_at": when(standing.last_failure_at),
        "reason": short(standing.last_failure, 70),
        "probe": _probe(standing),
    }


def _probe(standing: Standing) -> SafeString | str:
    if not standing.is_paused or standing.probe_at is None:
        return ""
    return when(standing.probe_at) if standing.probe_at > timezone.now() else "due"


def _failed(request: HttpRequest) -> Any:
    """A page of the failed deliveries, the newest first."""
    failed = permissions.visible_deliveries(request.user, Delivery.objects.failed().for_list())
    page = CappedPaginator(failed.order_by("-finished_at"), PER_PAGE).get_page(request.GET.get("page"))
    redacted = Redaction(request.user)
    rows = [
        {
            "row": delivery,
            "failed_at": when(delivery.finished_at),
            "reason": short(redacted.error(delivery.webhook_id, delivery.reason), 90),
        }
        for delivery in page
    ]
    return {"page": page, "rows": rows}


def _failed_events(request: HttpRequest) -> list[dict[str, Any]]:
    events = permissions.visible_events(request.user, Event.objects.failed().for_list()).order_by("-timestamp")[
        :MOST_EVENTS
    ]
    return [
        {"row": event, "at": when(event.timestamp), "error": short(last_line(event.error), 120)} for event in events
    ]
