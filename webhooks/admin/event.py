"""Events: what changed, and what became of it. To be read only."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from webhooks import payloads, permissions
from webhooks.admin import filters, search
from webhooks.admin.actions import RETRY
from webhooks.admin.display import EMPTY, indented, named, pill, short, when
from webhooks.admin.readonly import ReadOnlyAdmin
from webhooks.admin.replaying import replay
from webhooks.models import Event
from webhooks.models.event import EventQuerySet
from webhooks.redaction import Redaction

# In the list, of those that failed.
FAILURES = {"cut": "cut", "undecided": "undecided", "unmade": "could not be made"}

# So many of an event's deliveries are shown.
MOST_DELIVERIES = 100


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("object", "action", "time", "user", "state")
    list_filter = (filters.EventStateFilter, filters.TypeFilter, filters.ActionFilter)
    change_form_template = "webhooks/admin/event.html"
    actions = ("replay_chosen",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        events: EventQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return permissions.visible_events(request.user, events.for_list())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        return queryset.filter(pk__in=search.event_ids(term, permissions.visible_events(request.user))), False

    @admin.display(description="object")
    def object(self, event: Event) -> SafeString:
        return named(event)

    @admin.display(description="time")
    def time(self, event: Event) -> SafeString | str:
        return when(event.timestamp)

    @admin.display(description="by")
    def user(self, event: Event) -> str:
        return event.username or EMPTY

    @admin.display(description="state")
    def state(self, event: Event) -> SafeString:
        if not event.error:
            return pill("made")
        return pill("failed", FAILURES[event.failure]) if event.dispatched_at is None else pill("waiting", "replayed")

    # Replay

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return RETRY.allowed(request)

    @admin.action(description="Replay the selected failed events", permissions=["retry"])
    def replay_chosen(self, request: HttpRequest, chosen: QuerySet[Event]) -> None:
        replay(request, chosen)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self._replay))
        return [path("<path:object_id>/replay/", view, name="webhooks_event_replay"), *super().get_urls()]

    def _replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_retry_permission(request) or not self.has_view_permission(request):
            raise PermissionDenied
        event = self.get_object(request, object_id)
        if event is None:
            raise Http404(f"There is no event {object_id}.")
        replay(request, Event.objects.filter(pk=event.pk))
        return redirect("admin:webhooks_event_change", event.pk)

    # One event

    def in_full(self) -> QuerySet[Event]:
        return Event.objects.all()

    def detail(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        deliveries = permissions.visible_deliveries(request.user, obj.deliveries.for_list()).order_by("pk")
        redacted = Redaction(request.user)
        replay = _replay_of(obj)
        return {
            "event": obj,
            "is_replayed": replay is not None,
            "replayed_as": _if_visible(request.user, replay.pk if replay else None),
            "replay_of": _if_visible(request.user, obj.replay_of),
            "may_see_deliveries": permissions.may_view_deliveries(request.user),
            "may_replay": RETRY.allowed(request) and obj.failure and obj.dispatched_at is None,
            "changed": when(obj.timestamp),
            "fields": ", ".join(json.loads(obj.changed)) or "nothing" if obj.changed else "",
            "dispatched": when(obj.dispatched_at),
            "data": indented(obj.data),
            "serializers": _data_by_serializer(obj),
            "snapshots": indented(obj.snapshots),
            "request_shown": indented(obj.request),
            "deliveries": [
                {
                    "row": one,
                    "pill": pill(one.state),
                    "reason": short(redacted.error(one.webhook_id, one.reason), 80),
                    "made": when(one.created),
                }
                for one in deliveries[:MOST_DELIVERIES]
            ],
        }

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}


def _data_by_serializer(event: Event) -> list[dict[str, str]]:
    """The output of each serializer, if webhooks had chosen others than the default one."""
    if not event.serializers:
        return []
    chosen = payloads.webhooks_by_serializer(event)
    return [
        {"serializer": name or "default", "data": indented(payloads.as_serialized_by(event, name).data)}
        for name in chosen
    ]


def _if_visible(user: Any, pk: int | None) -> int | None:
    """The id of an event that the user may view; where a host decides, they may not view all of an object."""
    return pk if pk and permissions.visible_events(user, Event.objects.filter(pk=pk)).exists() else None


def _replay_of(failed: Event) -> Event | None:
    """The event that was made for one that had failed."""
    if not failed.error:
        return None
    same_object = Event.objects.filter(object_type=failed.object_type, object_id=failed.object_id)
    return same_object.filter(pk__gt=failed.pk, replay_of=failed.pk).first()
