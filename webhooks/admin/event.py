"""The lists of events and of skipped changes, the page of one event, and replay."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models
from django.db.models import QuerySet, Value
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from webhooks.admin.base import Act, ReadOnlyAdmin, address, column, object_url, show
from webhooks.insight.paging import LongList, list_events, list_skips
from webhooks.insight.wording import skip_reason
from webhooks.models import Event, Skip, permissions
from webhooks.models.event import label_of_action
from webhooks.pages import acts
from webhooks.pages.event import EventPage, count_outcomes
from webhooks.pages.forms.filters import EventFilterForm, SkipFilterForm
from webhooks.pages.links import recover_skipped
from webhooks.templatetags.webhooks_display import event_state, object_name, short, when


class ChangeColumns:
    """The columns that lists of events and of skips share."""

    object = column(gettext_lazy("object"), object_name)
    # "action" would be the stored value.
    action_word = column(gettext_lazy("action"), lambda row: label_of_action(row.action))
    user = column(gettext_lazy("user"), lambda row: row.username and short(row.username, 24), empty_value="")
    time = column(gettext_lazy("time"), lambda row: when(row.timestamp))


def replay(request: HttpRequest, chosen: QuerySet[Event]) -> None:
    """Replay events, and show the result."""
    show(request, *acts.replay(chosen, request.user, request.POST.get("opened_at", "")))


@admin.register(Event)
class EventAdmin(ChangeColumns, ReadOnlyAdmin):
    list_display = ("object", "action_word", "state", "user", "request_shown", "time")
    list_display_links = ("object",)
    filter_form = EventFilterForm
    noun = "event"
    change_form_template = "rq_webhooks/admin/event.html"
    actions = (Act("replay", gettext_lazy("Replay the selected events with current data"), replay, run_kind="replay"),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        return permissions.visible_events(request.user, super().get_queryset(request))

    # The list

    def long_list(self, request: HttpRequest, filters: dict[str, Any]) -> LongList[Event]:
        rows: Any = self.get_queryset(request)
        return list_events(filters, request.user, rows.for_list())

    def prepare(self, request: HttpRequest, rows: list[Event]) -> None:
        outcomes = count_outcomes(rows, request.user)
        for event in rows:
            event.outcomes = outcomes[event.pk]  # type: ignore[attr-defined]

    request_shown = column(
        gettext_lazy("request"), lambda row: row.request_id and short(row.request_id, 9), empty_value=""
    )
    state = column(gettext_lazy("state"), lambda event: event_state(event, event.outcomes))

    def may_act(self, request: HttpRequest, act: Act, row: models.Model | None = None) -> bool:
        # Failed events are replayed once, so nothing can be done with a list of replayed ones.
        return request.GET.get("state") != "replayed" and super().may_act(request, act, row)

    # One event

    def page_context(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        return {"shown": EventPage(obj, request.user), "object_url": object_url(obj, request.user)}


# Skips


@admin.register(Skip)
class SkipAdmin(ChangeColumns, ReadOnlyAdmin):
    list_display = ("object", "action_word", "webhook_name", "reason", "user", "time")
    list_display_links = None
    filter_form = SkipFilterForm
    noun = "skipped change"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Skip]:
        skips = permissions.visible_skips(request.user, super().get_queryset(request)).select_related("webhook")
        return skips.annotate(shows_actual=Value(permissions.may_view_payloads(request.user)))

    def long_list(self, request: HttpRequest, filters: dict[str, Any]) -> LongList[Skip]:
        return list_skips(filters, request.user, self.get_queryset(request))

    def describe_list(self, request: HttpRequest, context: dict[str, Any]) -> None:
        """Also link to the page that recovers the skipped changes of the webhook in the filters."""
        super().describe_list(request, context)
        form = context["cl"].form
        context["recover"] = recover_skipped(form.chosen, request.user) if form.is_valid() else None
        context["address_of"] = address

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> None:
        """The list shows all of a skip, so it has no page."""

    def prepare(self, request: HttpRequest, rows: list[Any]) -> None:
        # ``reverse`` for each row is slow.
        webhooks = (
            reverse("admin:rq_webhooks_webhook_changelist") if permissions.may_view_webhooks(request.user) else ""
        )
        for row in rows:
            row.webhook_url = webhooks and f"{webhooks}{row.webhook_id}/change/"

    @admin.display(description=gettext_lazy("webhook"))
    def webhook_name(self, skip: Any) -> SafeString | str:
        name = short(skip.webhook.name, 32)
        return format_html('<a href="{}">{}</a>', skip.webhook_url, name) if skip.webhook_url else name

    @admin.display(description=gettext_lazy("why it was not sent"))
    def reason(self, skip: Any) -> SafeString:
        return format_html('<span title="{0}">{0}</span>', skip_reason(skip, skip.shows_actual))
