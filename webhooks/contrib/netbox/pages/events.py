"""The list of events, the page of one, and replay."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from netbox.tables import BaseTable
from netbox.views import generic
from utilities.views import register_model_view

from webhooks.contrib.netbox import PLUGIN
from webhooks.contrib.netbox.pages.base import PermittedRows
from webhooks.contrib.netbox.pages.display import page
from webhooks.contrib.netbox.pages.links import object_url
from webhooks.contrib.netbox.pages.long_lists import (
    Act,
    ActView,
    LongListView,
    LongTable,
    ShownColumn,
    paths_of,
    register_acts,
)
from webhooks.insight.paging import LongList, list_events
from webhooks.models import Event
from webhooks.models.event import label_of_action
from webhooks.pages.acts import Message, replay
from webhooks.pages.event import EventPage, count_outcomes
from webhooks.pages.forms.filters import EventFilterForm
from webhooks.templatetags.webhooks_display import event_state, object_name, short, when

REPLAY = Act(
    "replay",
    gettext_lazy("Replay the selected events with current data"),
    "rq_webhooks.replay_event",
    run_kind="replay",
)


# The list


def _object(event: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', event.page_url, object_name(event))


class WebhookEventTable(LongTable):
    object = ShownColumn(_object, gettext_lazy("object"))
    action = ShownColumn(lambda row: label_of_action(row.action), gettext_lazy("action"))
    state = ShownColumn(lambda row: event_state(row, row.outcomes), gettext_lazy("state"))
    user = ShownColumn(lambda row: short(row.username, 24), gettext_lazy("user"), value=lambda row: row.username)
    request = ShownColumn(
        lambda row: short(row.request_id, 9), gettext_lazy("request"), value=lambda row: row.request_id
    )
    time = ShownColumn(
        lambda row: when(row.timestamp), gettext_lazy("time"), value=lambda row: row.timestamp.isoformat()
    )
    sequence = ShownColumn(lambda row: row.pk, gettext_lazy("sequence"))

    class Meta(BaseTable.Meta):
        model = Event
        fields = ("pk", "object", "action", "state", "user", "request", "time", "sequence")
        default_columns = ("object", "action", "state", "user", "request", "time")


@register_model_view(Event, "list", path="", detail=False)
class EventListView(LongListView):
    queryset = Event.objects.all()
    table = WebhookEventTable
    filter_form = EventFilterForm
    acts = (REPLAY,)
    noun = "event"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        return Event.objects.for_list()

    def long_list(self, filters: dict[str, Any]) -> LongList[Event]:
        return list_events(filters, self.request.user, self.queryset)

    def permitted_acts(self) -> list[Act]:
        # Failed events are replayed once, so nothing can be done with a list of replayed ones.
        return [] if self.request.GET.get("state") == "replayed" else super().permitted_acts()

    def prepare(self, rows: list[Any]) -> None:
        outcomes = count_outcomes(rows, self.request.user)
        folder = reverse(f"plugins:{PLUGIN}:event_list")  # ``reverse`` for each row is slow
        for row in rows:
            row.outcomes, row.page_url = outcomes[row.pk], f"{folder}{row.pk}/"


# Replay


@register_acts
class EventActView(ActView):
    queryset = Event.objects.all()
    acts = {REPLAY.name: REPLAY}
    filter_form = EventFilterForm

    def perform(self, act: Act, rows: QuerySet[Event], is_of_list: bool) -> list[Message]:
        return replay(rows, self.request.user, self.request.POST.get("opened_at", ""))


# One event


@register_model_view(Event)
class EventView(PermittedRows, generic.ObjectView):
    queryset = Event.objects.all()

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        event = self.get_object(**kwargs)
        shown = EventPage(event, request.user)
        context = {"object": event, "shown": shown, "object_url": object_url(event, request.user)}
        return page(request, "rq_webhooks/netbox/event.html", context)


urlpatterns = paths_of(Event, "events", "int")
