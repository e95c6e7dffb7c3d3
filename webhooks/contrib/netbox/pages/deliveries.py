"""The list of deliveries, the page of one, and its acts: retry, resend, discard."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from netbox.tables import BaseTable
from netbox.views import generic
from utilities.views import register_model_view

from webhooks.contrib.netbox import PLUGIN
from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import page, refreshing_page
from webhooks.contrib.netbox.pages.links import object_url, page_url
from webhooks.contrib.netbox.pages.long_lists import (
    Act,
    ActView,
    LongListView,
    LongTable,
    ShownColumn,
    paths_of,
    redirect_back,
    register_acts,
)
from webhooks.ground.text import as_key
from webhooks.insight.paging import LongList, search_deliveries
from webhooks.insight.wording import number
from webhooks.models import Delivery, permissions
from webhooks.models.event import label_of_action
from webhooks.models.permissions import redaction
from webhooks.operations.kinds import OF_DELIVERIES, RETRY
from webhooks.pages.acts import Message, change_deliveries
from webhooks.pages.delivery import DeliveryPage
from webhooks.pages.forms.filters import DeliveryFilterForm
from webhooks.pages.run import ask_about
from webhooks.pages.run_start import list_context
from webhooks.templatetags.webhooks_display import delivery_state, next_attempt, object_name, when

ACTS = {
    kind.name: Act(kind.name, kind.action_label, kind.permissions[0], kind.name, kind.is_dangerous)
    for kind in OF_DELIVERIES.values()
}


# The list


def _object(delivery: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', delivery.page_url, object_name(delivery.event))


def _result(delivery: Delivery) -> SafeString:
    parts = [redaction.label_of_kind(delivery.error_kind), next_attempt(delivery)]
    shown = format_html_join("", ' <span class="wh-part">{}</span>', ((part,) for part in parts if part))
    return format_html('<span class="wh-part">{}</span>{}', number(delivery.attempt_count), shown)


def _retry(delivery: Any) -> SafeString | str:
    if not (delivery.may_retry and delivery.is_retriable):
        return ""
    label = RETRY.button_in(delivery.state)
    return format_html(
        '<button type="submit" class="btn btn-sm" formaction="{}retry/" aria-label="{}: {}">{}</button>',
        delivery.page_url, label, delivery, label,
    )  # fmt: skip


class WebhookDeliveryTable(LongTable):
    state = ShownColumn(lambda row: delivery_state(row.state, row.superseded), gettext_lazy("state"))
    object = ShownColumn(_object, gettext_lazy("object"))
    action = ShownColumn(lambda row: label_of_action(row.event.action), gettext_lazy("action"))
    webhook = ShownColumn(lambda row: row.webhook.name, gettext_lazy("webhook"))
    result = ShownColumn(_result, gettext_lazy("attempts"))
    created = ShownColumn(
        lambda row: when(row.created), gettext_lazy("created"), value=lambda row: row.created.isoformat()
    )
    delivery_id = ShownColumn(lambda row: row.pk, gettext_lazy("id"))
    actions = ShownColumn(_retry, "", exclude_from_export=True, attrs={"td": {"class": "text-end text-nowrap"}})

    class Meta(BaseTable.Meta):
        model = Delivery
        fields = ("pk", "state", "object", "action", "webhook", "result", "created", "delivery_id", "actions")
        default_columns = ("state", "object", "action", "webhook", "result", "created")


@register_model_view(Delivery, "list", path="", detail=False)
class DeliveryListView(LongListView):
    queryset = Delivery.objects.all()
    table = WebhookDeliveryTable
    filter_form = DeliveryFilterForm
    acts = tuple(ACTS.values())
    noun = "delivery"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return Delivery.objects.for_list()

    def long_list(self, filters: dict[str, Any]) -> LongList[Delivery]:
        return search_deliveries(filters, self.request.user, self.queryset)

    def prepare(self, rows: list[Any]) -> None:
        may_retry = permissions.has_perm(self.request.user, ACTS[RETRY.name].permission)
        folder = reverse(f"plugins:{PLUGIN}:delivery_list")  # ``reverse`` for each row is slow
        for row in rows:
            row.page_url, row.may_retry = f"{folder}{row.pk}/", may_retry


# Acts


@register_acts
class DeliveryActView(ActView):
    queryset = Delivery.objects.all()
    acts = ACTS
    filter_form = DeliveryFilterForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return Delivery.objects.for_detail()

    def perform(self, act: Act, rows: QuerySet[Delivery], is_of_list: bool) -> list[Message] | HttpResponse:
        kind, user = OF_DELIVERIES[act.name], self.request.user
        if is_of_list and kind.is_dangerous and "_confirm" not in self.request.POST:
            return self._confirm(act, permissions.allowed(user, kind.operation, rows))
        return change_deliveries(kind, rows, user, leaves_superseded=is_of_list)

    def _confirm(self, act: Act, permitted: Any) -> HttpResponse:
        """A page that asks first."""
        kind = OF_DELIVERIES[act.name]
        rows = list(kind.choose(permitted))
        back = redirect_back(self.request, page_url("delivery_list"))["Location"]
        context = list_context(ask_about(kind, rows), self.request.GET) | {
            "rows": rows,
            "skipped": len(self.request.POST.getlist("pk")) - len(rows),
            "list_url": back,
        }
        return page(self.request, "rq_webhooks/netbox/run/start.html", context)


# One delivery


@register_model_view(Delivery)
class DeliveryView(PermittedRows, generic.ObjectView):
    queryset = Delivery.objects.all()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        return Delivery.objects.for_detail()

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        delivery = self.get_object(**kwargs)
        shown = DeliveryPage(delivery, request.user, as_key(request.GET.get("attempt", "")))
        context = {"object": delivery, "shown": shown, "object_url": object_url(delivery.event, request.user)}
        template, goes_on = "rq_webhooks/netbox/delivery/page.html", shown.refresh_after is not None
        return refreshing_page(request, template, context, goes_on=goes_on)


urlpatterns = paths_of(Delivery, "deliveries", "uuid")
