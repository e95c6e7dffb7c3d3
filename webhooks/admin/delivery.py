"""The list of deliveries, the page of one, and its actions: retry, resend, discard."""

from __future__ import annotations

from functools import partialmethod
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks import payloads, permissions
from webhooks.admin import delivery_sections as sections
from webhooks.admin.display import page
from webhooks.admin.filters import DeliveryFilterForm
from webhooks.admin.lists import ReadOnlyAdmin, as_uuid, show_result
from webhooks.admin.run_start import DONE, question_context
from webhooks.admin.what_changed import change_context
from webhooks.db import index_plans
from webhooks.insight.paging import Found, find_deliveries
from webhooks.insight.wording import number
from webhooks.models import Delivery, Event, RunKind
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.event import label_of_action
from webhooks.models.queue import OPEN_STATES, State
from webhooks.operations import retries, runs
from webhooks.permissions import redaction
from webhooks.permissions.redaction import Redaction, explain
from webhooks.templatetags.webhooks_display import delivery_state, object_name, when

# The timeline shows this many attempts, the newest.
MAX_ATTEMPTS = 50

# To find the delivery before and after, the page reads this many events of the object each way.
NEIGHBOURS = 100

# The operation of each action, and why it skips some deliveries.
OPERATIONS = {"retry": retries.retry, "resend": retries.resend, "discard": retries.discard}
WHY_SKIPPED = {
    "retry": gettext_lazy("only failed, discarded or pending deliveries can be retried, and none of a deleted webhook"),
    "resend": gettext_lazy("only finished deliveries can be resent, and none of a deleted webhook"),
    "discard": gettext_lazy("finished deliveries, and deliveries that a worker is sending, cannot be discarded"),
}


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("state_pill", "object", "action", "to", "result", "created_ago", "retry_button")
    list_display_links = ("object",)
    filter_form = DeliveryFilterForm
    noun = "delivery"
    change_form_template = "rq_webhooks/admin/delivery/page.html"
    actions = ("retry_chosen", "resend_chosen", "discard_chosen")
    buttons = ("retry", "resend", "discard")
    run_kinds = {
        "retry_chosen": RunKind.RETRY,
        "resend_chosen": RunKind.RESEND,
        "discard_chosen": RunKind.DISCARD,
    }

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        deliveries: DeliveryQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return permissions.visible_deliveries(request.user, deliveries.for_detail())

    # The list

    def find(self, request: HttpRequest, filters: dict[str, Any], before: str) -> Found:
        term = filters.get("name", filters.get("request_id", ""))
        if (pk := as_uuid(term)) and self.get_queryset(request).filter(pk=pk).exists():
            return Found([pk], count=1)
        return find_deliveries(filters, request.user, before, self.list_per_page)

    @admin.display(description=gettext_lazy("state"))
    def state_pill(self, delivery: Delivery) -> SafeString:
        return delivery_state(delivery.state, delivery.superseded)

    @admin.display(description=gettext_lazy("object"))
    def object(self, delivery: Delivery) -> SafeString:
        return object_name(delivery.event)

    @admin.display(description=gettext_lazy("action"))
    def action(self, delivery: Delivery) -> str:
        return label_of_action(delivery.event.action)

    @admin.display(description=gettext_lazy("webhook"))
    def to(self, delivery: Delivery) -> SafeString | str:
        return format_html('<span title="{0}">{0}</span>', delivery.webhook.name)

    @admin.display(description=gettext_lazy("attempts"))
    def result(self, delivery: Delivery) -> SafeString:
        error = redaction.label_of_kind(delivery.error_kind)
        parts = [error, sections.next_attempt(delivery)]
        texts = format_html_join("", '<span class="wh-part">{}</span>', ((part,) for part in parts if part))
        count = number(delivery.attempt_count)
        # The title is for a column that is too narrow for the error, the label for small screens without columns.
        return format_html(
            '<span title="{}"><span class="wh-count" data-wh-label="{}">{}</span>{}</span>',
            error, _("Attempts:"), count, texts,
        )  # fmt: skip

    @admin.display(description=gettext_lazy("created"))
    def created_ago(self, delivery: Delivery) -> SafeString | str:
        return when(delivery.created)

    @admin.display(description="", empty_value="")
    def retry_button(self, delivery: Any) -> SafeString | str:
        if delivery.next_page is None or delivery.state not in (State.FAILED, State.DISCARDED):
            return ""
        return format_html(
            '<button class="wh-row-act" formaction="{}" name="next" value="{}" aria-label="{}">{}</button>',
            f"{delivery.pk}/retry/",  # relative to the list: ``reverse`` is slow
            delivery.next_page,
            _("Retry %(delivery)s") % {"delivery": delivery},
            _("Retry"),
        )

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        next_page = request.get_full_path() if self.has_retry_permission(request) else None
        for row in rows:
            row.next_page = next_page

    # Retry, resend and discard

    has_retry_permission = partialmethod(ReadOnlyAdmin.has_act_permission, "retry")
    has_resend_permission = partialmethod(ReadOnlyAdmin.has_act_permission, "resend")
    has_discard_permission = partialmethod(ReadOnlyAdmin.has_act_permission, "discard")

    @admin.action(description=gettext_lazy("Retry the selected deliveries"), permissions=["retry"])
    def retry_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        act(request, "retry", chosen)

    @admin.action(description=gettext_lazy("Resend the selected deliveries"), permissions=["resend"])
    def resend_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> None:
        act(request, "resend", chosen)

    @admin.action(description=gettext_lazy("Discard the selected deliveries"), permissions=["discard"])
    def discard_chosen(self, request: HttpRequest, chosen: QuerySet[Delivery]) -> HttpResponse | None:
        """From the list, ask first. The button of one delivery asks by itself."""
        if "action" in request.POST and "confirmed" not in request.POST:
            return self._confirm_discard(request, permissions.allowed(request.user, "discard", chosen))
        act(request, "discard", chosen)
        return None

    def _confirm_discard(self, request: HttpRequest, chosen: Any) -> HttpResponse:
        rows = list(chosen.discardable())
        sample = [runs.Named(row.pk, str(row)) for row in rows]
        preview = runs.Preview(len(rows), sample=sample, webhooks={row.webhook_id for row in rows})
        context = question_context(self, request, RunKind.DISCARD, preview) | {
            "rows": rows,
            "skipped": len(request.POST.getlist("_selected_action")) - len(rows),
            "list_url": request.get_full_path(),
        }
        return page(request, "rq_webhooks/admin/run/start.html", context)

    # One delivery

    def page_context(self, request: HttpRequest, obj: Delivery) -> dict[str, Any]:
        return delivery_context(obj, request.user, request.GET.get("attempt", ""))


def act(request: HttpRequest, name: str, chosen: QuerySet[Delivery]) -> None:
    """Retry, resend or discard the chosen deliveries that the user may change, oldest first, and show the result."""
    permitted: Any = permissions.allowed(request.user, name, chosen)
    count, superseded = permitted.count(), 0
    if "action" in request.POST and name != "discard":  # from the list: the button of one delivery sends it on demand
        superseded = permitted.superseded().count()
        permitted = permitted.not_superseded()
    changed = OPERATIONS[name](permitted, request.user)
    if count - superseded or not superseded:
        show_result(request, DONE[RunKind(name)], changed, count - superseded - changed, WHY_SKIPPED[name])
    if superseded:
        messages.warning(request, runs.superseded_note(superseded))


# The page of one delivery


def delivery_context(delivery: Delivery, user: Any, number_asked: str) -> dict[str, Any]:
    """The context of the template. ``number_asked`` is the number of the attempt to show; default: the last one."""
    webhook, redacted = delivery.webhook, Redaction(user)
    sees_payload = permissions.may_view_payloads(user, delivery.event)
    visible = permissions.visible_deliveries(user)
    row = Delivery.objects.filter(pk=delivery.pk)
    attempts = list(delivery.attempts.order_by("-pk").defer("response_body", "response_headers")[: MAX_ATTEMPTS + 1])
    shown = sections.shown_attempt(delivery, number_asked) if attempts else None
    return {
        "delivery": delivery,
        "event": delivery.event,
        "webhook": webhook,
        "state_pill": delivery_state(delivery.state, delivery.superseded),
        "verdict": sections.state_sentence(delivery, redacted.error(webhook.pk, delivery.reason, delivery.error_kind)),
        "explanation": explain(sections.explained_kind(delivery), webhook.payload_url),
        "answer": sections.failed_answer(attempts) if sees_payload and redacted.may_change(webhook.pk) else "",
        "may_see_webhook": permissions.may_view_webhooks(user),
        "waits_for_webhook": delivery.state in OPEN_STATES and not webhook.is_sendable,
        "refresh_after": sections.refresh_after(delivery),
        "may_see_event": permissions.may(user, "view", delivery.event),
        "url": redacted.url(webhook.pk, webhook.payload_url),
        "sees_all": redacted.may_change(webhook.pk),
        "who_sees_all": redaction.WHO_SEES_ALL,
        "sees_payload": sees_payload,
        "who_sees_payloads": redaction.WHO_SEES_PAYLOADS,
        "may_retry": permissions.may(user, "retry", delivery) and row.retriable().exists(),
        "may_resend": permissions.may(user, "resend", delivery) and row.resendable().exists(),
        "may_discard": permissions.may(user, "discard", delivery) and row.discardable().exists(),
        "created": when(delivery.created),
        "lane": sections.lane_context(delivery, visible, redacted),
        "timeline": sections.timeline(delivery, attempts[:MAX_ATTEMPTS], shown),
        "has_more_attempts": len(attempts) > MAX_ATTEMPTS,
        "attempt": sections.attempt_context(delivery, shown, redacted, sees_payload) if shown else None,
        "payload_use": sections.payload_use(delivery),
        "payload": sections.payload(delivery) if sees_payload and not shown else "",
        **_neighbours(delivery, visible),
        **change_context(delivery.event, user, payloads.as_sent_to(delivery.event, webhook.pk), sees_payload),
    }


def _neighbours(delivery: Delivery, visible: QuerySet[Delivery]) -> dict[str, UUID | None]:
    """The ids of the deliveries of the events before and after, of the same object to the same webhook."""
    event = delivery.event
    if not event.object_type:
        return {"previous": None, "following": None}
    same = Event.objects.filter(object_type=event.object_type, object_id=event.object_id)
    earlier, later = same.filter(pk__lt=event.pk).order_by("-pk"), same.filter(pk__gt=event.pk).order_by("pk")
    found: dict[str, UUID | None] = {}
    with index_plans(Event.objects.db):
        for name, events in (("previous", earlier), ("following", later)):
            keys = list(events.values_list("pk", flat=True)[:NEIGHBOURS])
            rows = visible.filter(event__in=keys, webhook=delivery.webhook_id).order_by().values_list("event_id", "pk")
            _, found[name] = min(rows, key=lambda row: abs(row[0] - event.pk), default=(None, None))
    return found
