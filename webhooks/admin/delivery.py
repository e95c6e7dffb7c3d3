"""Deliveries: to look into, to retry and to discard; never to edit."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from webhooks import payloads, permissions, redaction
from webhooks.admin import actions, filters, search
from webhooks.admin.actions import DISCARD, RETRY, Operation
from webhooks.admin.display import count_of, indented, named, number, pill, short, when
from webhooks.admin.lane import lane_of
from webhooks.admin.pagination import CappedPaginator
from webhooks.admin.readonly import ReadOnlyAdmin
from webhooks.delivery import request
from webhooks.models import Attempt, Delivery
from webhooks.models.delivery import DeliveryQuerySet, State
from webhooks.network.outcome import Refused, error_kind
from webhooks.payloads import Bodies
from webhooks.payloads.templates import Renderer
from webhooks.redaction import Redaction

# So many attempts are shown, the newest.
MOST_ATTEMPTS = 50


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("state_pill", "object", "to", "result", "made")
    list_display_links = ("state_pill", "object")
    change_form_template = "webhooks/admin/delivery.html"
    actions = ("retry_chosen", "discard_chosen")

    def get_list_filter(self, request: HttpRequest) -> Any:
        # Its choices are the names of all webhooks, whether there is a delivery to be seen or not.
        webhook = (filters.WebhookFilter,) if permissions.may_view_webhooks(request.user) else ()
        of_event = (filters.EventTypeFilter, filters.EventActionFilter)
        return (filters.StateFilter, *webhook, *of_event, filters.AgeFilter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        deliveries: DeliveryQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return permissions.visible_deliveries(request.user, deliveries.for_list())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Delivery], search_term: str
    ) -> tuple[QuerySet[Delivery], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if (pk := search.as_uuid(term)) and Delivery.objects.filter(pk=pk).exists():
            return queryset.filter(pk=pk), False
        found = search.event_ids(term, permissions.of_viewable_objects(request.user))
        return queryset.filter(event__in=found), False

    # The list

    @admin.display(description="state")
    def state_pill(self, delivery: Delivery) -> SafeString:
        return pill(delivery.state)

    @admin.display(description="object")
    def object(self, delivery: Delivery) -> SafeString:
        return named(delivery.event, delivery.event.action)

    @admin.display(description="webhook")
    def to(self, delivery: Delivery) -> SafeString | str:
        return short(delivery.webhook.name, 32)

    @admin.display(description="attempts")
    def result(self, delivery: Delivery) -> SafeString:
        reason = error_kind(delivery.reason)
        why = format_html('<span class="wh-below">{}</span>', short(reason, 48)) if reason else ""
        below = format_html('<span class="wh-quiet wh-below">{}</span>', _next(delivery))
        return format_html("{}{}{}", number(delivery.attempt_count), why, below)

    @admin.display(description="created")
    def made(self, delivery: Delivery) -> SafeString | str:
        return when(delivery.created)

    # Retry and Discard

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return RETRY.allowed(request)

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return DISCARD.allowed(request)

    @admin.action(description="Retry the selected deliveries", permissions=["retry"])
    def retry_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        actions.perform(RETRY, request, _as_counted(request, chosen))

    @admin.action(description="Discard the selected deliveries", permissions=["discard"])
    def discard_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        actions.perform(DISCARD, request, _as_counted(request, chosen))

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                f"<path:object_id>/{operation.name}/",
                self.admin_site.admin_view(require_POST(self._doing(operation))),
                name=f"webhooks_delivery_{operation.name}",
            )
            for operation in (RETRY, DISCARD)
        ]
        return [*own, *super().get_urls()]

    def _doing(self, operation: Operation) -> Any:
        def view(request: HttpRequest, object_id: str) -> HttpResponse:
            if not operation.allowed(request) or not self.has_view_permission(request):
                raise PermissionDenied
            delivery = self.get_object(request, object_id)
            if delivery is None:
                raise Http404(f"There is no delivery {object_id}.")
            if not permissions.may(request.user, operation.name, delivery):
                raise PermissionDenied
            actions.perform(operation, request, Delivery.objects.filter(pk=delivery.pk))
            return redirect("admin:webhooks_delivery_change", delivery.pk)

        return view

    # One delivery

    def in_full(self) -> QuerySet[Delivery]:
        return Delivery.objects.for_detail()

    def detail(self, request: HttpRequest, obj: Delivery) -> dict[str, Any]:
        attempts = list(obj.attempts.order_by("-pk")[:MOST_ATTEMPTS])
        redacted = Redaction(request.user)
        sees_all = redacted.sees_all(obj.webhook_id)
        body, refusal = body_of(obj)
        lane = lane_of(obj, permissions.visible_deliveries(request.user))
        return {
            "delivery": obj,
            "event": obj.event,
            "webhook": obj.webhook,
            "may_see_webhook": permissions.may_view_webhooks(request.user),
            "may_see_event": permissions.may_view_events(request.user),
            "url": redacted.url(obj.webhook_id, obj.webhook.payload_url),
            "reason": redacted.error(obj.webhook_id, obj.reason),
            "lane": lane,
            "head_reason": redacted.error(obj.webhook_id, lane.head.reason) if lane.head else "",
            "attempts": [_attempt(one, obj.webhook_id, redacted) for one in attempts],
            "sees_all": sees_all,
            "who_sees_all": redaction.WHO_SEES_ALL,
            "is_capped": len(attempts) < obj.attempts.count(),
            "is_form": obj.webhook.is_form and not obj.webhook.body_template,
            "shows_body": sees_all or not obj.webhook.body_template,
            "body": body.decode(),
            "body_size": count_of(len(body), "byte"),
            "refusal": f"Nothing is sent: {redacted.error(obj.webhook_id, refusal)}." if refusal else "",
            "payload": indented(_bodies_of(obj).body(as_form=False).decode()),
            "may_retry": RETRY.is_offered(request.user, obj),
            "may_discard": DISCARD.is_offered(request.user, obj),
            "made": when(obj.created),
            "changed": when(obj.event.timestamp),
            "finished": when(obj.finished_at),
            "is_due": _is_due(obj),
            "next_attempt": when(obj.next_attempt_at),
            "state_pill": pill(obj.state),
        }

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}


def _next(delivery: Delivery) -> SafeString | str:
    if delivery.state != State.PENDING:
        return ""
    if not delivery.webhook.enabled:
        return "next when enabled"
    if delivery.webhook.is_paused:
        return "next when resumed"
    return "due now" if _is_due(delivery) else format_html("next {}", when(delivery.next_attempt_at))


def _is_due(delivery: Delivery) -> bool:
    return delivery.next_attempt_at <= timezone.now()


def _attempt(attempt: Attempt, webhook_id: int, redacted: Redaction) -> dict[str, Any]:
    sees_all = redacted.sees_all(webhook_id)
    return {
        "row": attempt,
        "url": redacted.url(webhook_id, attempt.url),
        "reason": redacted.error(webhook_id, attempt.reason),
        "headers": attempt.response_headers if sees_all else {},
        "body": attempt.response_body if sees_all else "",
    }


def body_of(delivery: Delivery) -> tuple[bytes, str]:
    """The body that the next attempt would send, to the byte; or, in words, why there is none."""
    try:
        with Renderer() as renderer:
            return request.body_of(delivery.webhook, _bodies_of(delivery), renderer), ""
    except Refused as error:
        return b"", str(error)


def _bodies_of(delivery: Delivery) -> Bodies:
    return Bodies(payloads.as_sent_to(delivery.event, delivery.webhook_id))


def _as_counted(request: HttpRequest, chosen: QuerySet[Delivery]) -> QuerySet[Delivery]:
    """What "select all" promised: the admin counted no further than its paginator does."""
    if request.POST.get("select_across") != "1":
        return chosen
    return Delivery.objects.filter(pk__in=list(chosen.values_list("pk", flat=True)[: CappedPaginator.most]))
