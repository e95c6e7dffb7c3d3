"""The list of deliveries, the page of one, and its actions: retry, resend, discard."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.admin.base import Act, ReadOnlyAdmin, column, object_url, show
from webhooks.admin.run_start import start_page
from webhooks.ground.text import as_key
from webhooks.insight.paging import LongList, search_deliveries
from webhooks.insight.wording import number
from webhooks.models import Delivery, permissions
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.event import label_of_action
from webhooks.models.permissions import redaction
from webhooks.operations.kinds import OF_DELIVERIES, RETRY
from webhooks.operations.retries import DeliveryKind
from webhooks.pages.acts import change_deliveries
from webhooks.pages.delivery import DeliveryPage
from webhooks.pages.forms.filters import DeliveryFilterForm
from webhooks.pages.run import ask_about
from webhooks.pages.run_start import list_context
from webhooks.templatetags.webhooks_display import delivery_state, next_attempt, object_name, when

# Retry, resend, discard and what else changes deliveries


def perform(kind: DeliveryKind, request: HttpRequest, chosen: QuerySet[Delivery]) -> HttpResponse | None:
    """Do it to the chosen deliveries. The list asks before a dangerous act; the button of one delivery asks by
    itself."""
    is_of_list = "action" in request.POST
    if is_of_list and kind.is_dangerous and "confirmed" not in request.POST:
        return _confirm(request, kind, permissions.allowed(request.user, kind.operation, chosen))
    show(request, *change_deliveries(kind, chosen, request.user, leaves_superseded=is_of_list))
    return None


def _confirm(request: HttpRequest, kind: DeliveryKind, permitted: Any) -> HttpResponse:
    rows = list(kind.choose(permitted))
    context = list_context(ask_about(kind, rows), request.GET) | {
        "rows": rows,
        "action_name": f"{kind.name}_chosen",
        "skipped": len(request.POST.getlist("_selected_action")) - len(rows),
        "list_url": request.get_full_path(),
    }
    return start_page(request, "start", context)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("state_pill", "object", "action", "to", "result", "created_ago", "retry_button")
    list_display_links = ("object",)
    filter_form = DeliveryFilterForm
    noun = "delivery"
    change_form_template = "rq_webhooks/admin/delivery/page.html"
    actions = tuple(
        Act(kind.name, kind.action_label, partial(perform, kind), kind.operation, run_kind=kind.name)
        for kind in OF_DELIVERIES.values()
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        deliveries: DeliveryQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return permissions.visible_deliveries(request.user, deliveries.for_detail())

    # The list

    def long_list(self, request: HttpRequest, filters: dict[str, Any]) -> LongList[Delivery]:
        return search_deliveries(filters, request.user, self.get_queryset(request))

    state_pill = column(gettext_lazy("state"), lambda one: delivery_state(one.state, one.superseded))
    object = column(gettext_lazy("object"), lambda one: object_name(one.event))
    action = column(gettext_lazy("action"), lambda one: label_of_action(one.event.action))
    to = column(gettext_lazy("webhook"), lambda one: format_html('<span title="{0}">{0}</span>', one.webhook.name))
    created_ago = column(gettext_lazy("created"), lambda one: when(one.created))

    @admin.display(description=gettext_lazy("attempts"))
    def result(self, delivery: Delivery) -> SafeString:
        error = redaction.label_of_kind(delivery.error_kind)
        parts = [error, next_attempt(delivery)]
        texts = format_html_join("", '<span class="wh-part">{}</span>', ((part,) for part in parts if part))
        count = number(delivery.attempt_count)
        # The title is for a column that is too narrow for the error, the label for small screens without columns.
        return format_html(
            '<span title="{}"><span class="wh-count" data-wh-label="{}">{}</span>{}</span>',
            error, _("Attempts:"), count, texts,
        )  # fmt: skip

    @admin.display(description="", empty_value="")
    def retry_button(self, delivery: Any) -> SafeString | str:
        if delivery.next_page is None or not delivery.is_retriable:
            return ""
        label = RETRY.button_in(delivery.state)
        return format_html(
            '<button class="wh-row-act" formaction="{}" name="next" value="{}" aria-label="{}: {}">{}</button>',
            f"{delivery.pk}/retry/",  # relative to the list: ``reverse`` is slow
            delivery.next_page, label, delivery, label,
        )  # fmt: skip

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        may_retry = permissions.has_perm(request.user, "rq_webhooks.retry_delivery")
        next_page = request.get_full_path() if may_retry else None
        for row in rows:
            row.next_page = next_page

    # One delivery

    def page_context(self, request: HttpRequest, obj: Delivery) -> dict[str, Any]:
        shown = DeliveryPage(obj, request.user, as_key(request.GET.get("attempt", "")))
        return {"shown": shown, "object_url": object_url(obj.event, request.user)}
