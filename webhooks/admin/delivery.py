"""The pages of deliveries: list, one delivery, retry and discard."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks import payloads, permissions, redaction
from webhooks.admin.actions import DISCARD, RETRY
from webhooks.admin.counts import EACH_CAP, CappedPaginator, capped
from webhooks.admin.display import count_of, indented, number, object_name, pill, short, when
from webhooks.admin.filters import (
    ActionFilter,
    AgeFilter,
    StateFilter,
    TypeFilter,
    WebhookFilter,
    as_uuid,
    search_events,
)
from webhooks.admin.readonly import ReadOnlyAdmin
from webhooks.delivery import request as delivery_request
from webhooks.models import Delivery
from webhooks.models.delivery import HEAD_STATES, DeliveryQuerySet, State
from webhooks.network.outcome import Refused, error_kind
from webhooks.payloads import Bodies
from webhooks.payloads.templates import Renderer
from webhooks.redaction import Redaction

# The page of a delivery shows this many attempts, the newest.
MAX_ATTEMPTS = 50


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("state_pill", "object", "to", "result", "created_ago")
    list_display_links = ("state_pill", "object")
    change_form_template = "webhooks/admin/delivery.html"
    actions = ("retry_chosen", "discard_chosen")
    buttons = ("retry", "discard")

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}

    def get_list_filter(self, request: HttpRequest) -> Any:
        webhook = (WebhookFilter,) if permissions.may_view_webhooks(request.user) else ()
        return (StateFilter, *webhook, TypeFilter, ActionFilter, AgeFilter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        deliveries: DeliveryQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return permissions.visible_deliveries(request.user, deliveries.for_list())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Delivery], search_term: str
    ) -> tuple[QuerySet[Delivery], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if (pk := as_uuid(term)) and Delivery.objects.filter(pk=pk).exists():
            return queryset.filter(pk=pk), False
        events = search_events(term, permissions.of_viewable_objects(request.user))
        return queryset.filter(event__in=events), False

    @admin.display(description="state")
    def state_pill(self, delivery: Delivery) -> SafeString:
        return pill(delivery.state)

    @admin.display(description="object")
    def object(self, delivery: Delivery) -> SafeString:
        return object_name(delivery.event, delivery.event.action)

    @admin.display(description="webhook")
    def to(self, delivery: Delivery) -> SafeString | str:
        return short(delivery.webhook.name, 32)

    @admin.display(description="attempts")
    def result(self, delivery: Delivery) -> SafeString:
        reason = error_kind(delivery.reason)
        why = format_html('<span class="wh-below">{}</span>', short(reason, 48)) if reason else ""
        below = format_html('<span class="wh-quiet wh-below">{}</span>', _next_attempt(delivery))
        return format_html("{}{}{}", number(delivery.attempt_count), why, below)

    @admin.display(description="created")
    def created_ago(self, delivery: Delivery) -> SafeString | str:
        return when(delivery.created)

    # Retry and discard

    def has_retry_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:
        return RETRY.has_permission(request.user, obj)

    def has_discard_permission(self, request: HttpRequest, obj: Delivery | None = None) -> bool:
        return DISCARD.has_permission(request.user, obj)

    @admin.action(description="Retry the selected deliveries", permissions=["retry"])
    def retry_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        RETRY.perform(request, _within_cap(request, chosen))

    @admin.action(description="Discard the selected deliveries", permissions=["discard"])
    def discard_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        DISCARD.perform(request, _within_cap(request, chosen))

    # One delivery

    def full_queryset(self) -> QuerySet[Delivery]:
        return Delivery.objects.for_detail()

    def page_context(self, request: HttpRequest, obj: Delivery) -> dict[str, Any]:
        user, webhook = request.user, obj.webhook
        redacted = Redaction(user)
        sees_all = redacted.sees_all(webhook.pk)
        body, error = render_body(obj)
        lane = lane_context(obj, permissions.visible_deliveries(user))
        attempts = list(obj.attempts.order_by("-pk")[:MAX_ATTEMPTS])
        return {
            "delivery": obj,
            "event": obj.event,
            "webhook": webhook,
            "may_see_webhook": permissions.may_view_webhooks(user),
            "may_see_event": permissions.may_view_events(user),
            "url": redacted.url(webhook.pk, webhook.payload_url),
            "reason": redacted.error(webhook.pk, obj.reason),
            "lane": lane,
            "head_reason": redacted.error(webhook.pk, lane["head"].reason) if lane["head"] else "",
            "attempts": [
                {
                    "row": attempt,
                    "url": redacted.url(webhook.pk, attempt.url),
                    "reason": redacted.error(webhook.pk, attempt.reason),
                    "headers": attempt.response_headers if sees_all else {},
                    "body": attempt.response_body if sees_all else "",
                }
                for attempt in attempts
            ],
            "sees_all": sees_all,
            "who_sees_all": redaction.WHO_SEES_ALL,
            "has_more_attempts": len(attempts) < obj.attempts.count(),
            "is_form": webhook.is_form and not webhook.body_template,
            "shows_body": sees_all or not webhook.body_template,
            "body": body.decode(),
            "body_size": count_of(len(body), "byte"),
            "body_error": redacted.error(webhook.pk, error),
            "payload": indented(_bodies(obj).body(as_form=False).decode()),
            "may_retry": RETRY.is_offered(user, obj),
            "may_discard": DISCARD.is_offered(user, obj),
            "created": when(obj.created),
            "changed": when(obj.event.timestamp),
            "finished": when(obj.finished_at),
            "is_due": obj.next_attempt_at <= timezone.now(),
            "next_attempt": when(obj.next_attempt_at),
            "state_pill": pill(obj.state),
        }


def lane_context(delivery: Delivery, deliveries: QuerySet[Delivery]) -> dict[str, Any]:
    """The place of a delivery in its lane, for the template. Three queries, however long the lane is.

    ``head`` is the delivery that is sent now, ``next`` the one after ``delivery``. The numbers are capped.
    """
    lane = deliveries.filter(webhook=delivery.webhook_id, lane=delivery.lane)
    waiting = lane.filter(state=State.WAITING).order_by("event_id")
    head = lane.filter(state__in=HEAD_STATES, in_lane=True).first()
    is_head = head is not None and head.pk == delivery.pk
    position, following, behind = 0, None, 0
    if delivery.in_lane and delivery.state in (State.WAITING, *HEAD_STATES):
        if head and not is_head:
            position = capped(waiting.filter(event_id__lt=delivery.event_id), EACH_CAP).count() + 2
        after = waiting.filter(event_id__gt=delivery.event_id)
        following, behind = after.first(), capped(after, EACH_CAP).count()
    return {
        "head": head,
        "is_head": is_head,
        "position": number(position, EACH_CAP) if position else "",
        "next": following,
        # A worker may claim the only one between the two queries.
        "behind": max(behind, 1),
        "behind_number": number(max(behind, 1), EACH_CAP),
    }


def render_body(delivery: Delivery) -> tuple[bytes, str]:
    """The body that the next attempt would send, or an empty body and the error."""
    try:
        with Renderer() as renderer:
            return delivery_request.body_of(delivery.webhook, _bodies(delivery), renderer), ""
    except Refused as error:
        return b"", str(error)


def _bodies(delivery: Delivery) -> Bodies:
    return Bodies(payloads.as_sent_to(delivery.event, delivery.webhook_id))


def _next_attempt(delivery: Delivery) -> SafeString | str:
    if delivery.state != State.PENDING:
        return ""
    if not delivery.webhook.enabled:
        return "next when enabled"
    if delivery.webhook.is_paused:
        return "next when resumed"
    if delivery.next_attempt_at <= timezone.now():
        return "due now"
    return format_html("next {}", when(delivery.next_attempt_at))


def _within_cap(request: HttpRequest, chosen: QuerySet[Delivery]) -> QuerySet[Delivery]:
    """For "select all": only as many rows as the page counted."""
    if request.POST.get("select_across") != "1":
        return chosen
    return Delivery.objects.filter(pk__in=list(chosen.values_list("pk", flat=True)[: CappedPaginator.cap]))
