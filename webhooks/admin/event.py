"""Events: what changed, and what became of it. To be read only."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from webhooks.admin import filters, lookup
from webhooks.admin.delivery import named
from webhooks.admin.display import EMPTY, indented, pill, short, when
from webhooks.admin.readonly import ReadOnlyAdmin
from webhooks.models import Event

# So many of an event's deliveries are shown.
MOST_DELIVERIES = 100


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("object", "action", "time", "user", "payload")
    list_filter = (filters.FailedEventFilter, filters.TypeFilter, filters.ActionFilter)
    change_form_template = "webhooks/admin/event.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        return super().get_queryset(request).defer("data", "snapshots", "request", "webhook_ids")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        term = search_term.strip()
        return queryset.filter(pk__in=lookup.event_ids(term)) if term else queryset, False

    @admin.display(description="object")
    def object(self, event: Event) -> SafeString:
        return named(event)

    @admin.display(description="time")
    def time(self, event: Event) -> SafeString | str:
        return when(event.timestamp)

    @admin.display(description="by")
    def user(self, event: Event) -> str:
        return event.username or EMPTY

    @admin.display(description="payload")
    def payload(self, event: Event) -> SafeString:
        return pill("failed", "could not be made") if event.error else pill("made")

    def detail(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        deliveries = obj.deliveries.select_related("webhook").defer("webhook__secret").order_by("pk")
        return {
            "event": obj,
            "changed": when(obj.timestamp),
            "dispatched": when(obj.dispatched_at),
            "data": indented(obj.data),
            "snapshots": indented(obj.snapshots),
            "request_shown": indented(obj.request),
            "deliveries": [
                {"row": one, "pill": pill(one.state), "reason": short(one.reason, 80), "made": when(one.created)}
                for one in deliveries[:MOST_DELIVERIES]
            ],
        }

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}
