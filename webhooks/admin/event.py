"""The pages of events: list, one event, and replay of failed events."""

from __future__ import annotations

import json
import time
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from webhooks import payloads, permissions
from webhooks.admin.actions import RETRY
from webhooks.admin.counts import TOTAL_CAP
from webhooks.admin.display import EMPTY, count_of, indented, object_name, pill, short, when
from webhooks.admin.filters import ActionFilter, EventStateFilter, TypeFilter, search_events
from webhooks.admin.readonly import ReadOnlyAdmin
from webhooks.models import Event
from webhooks.models.event import EventQuerySet
from webhooks.operations import retries
from webhooks.redaction import Redaction

# The labels of failed events, by kind of failure.
FAILURES = {"cut": "loop protection", "undecided": "filters failed", "unmade": "payload failed"}

# The page of an event shows this many deliveries.
MAX_DELIVERIES = 100

# Replay checks the time after each chunk. The result names this many events that could not be replayed.
CHUNK, MAX_NAMED = 10, 5


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("object", "action", "time", "user", "state")
    list_filter = (EventStateFilter, TypeFilter, ActionFilter)
    change_form_template = "webhooks/admin/event.html"
    actions = ("replay_chosen",)
    buttons = ("replay",)

    class Media:
        css: ClassVar = {"all": ["webhooks/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Event]:
        events: EventQuerySet = super().get_queryset(request)  # type: ignore[assignment]
        return permissions.visible_events(request.user, events.for_list())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        return queryset.filter(pk__in=search_events(term, permissions.visible_events(request.user))), False

    @admin.display(description="object")
    def object(self, event: Event) -> SafeString:
        return object_name(event)

    @admin.display(description="time")
    def time(self, event: Event) -> SafeString | str:
        return when(event.timestamp)

    @admin.display(description="by")
    def user(self, event: Event) -> str:
        return event.username or EMPTY

    @admin.display(description="state")
    def state(self, event: Event) -> SafeString:
        if not event.error:
            return pill("created")
        return pill("failed", FAILURES[event.failure]) if event.dispatched_at is None else pill("waiting", "replayed")

    # Replay

    def has_replay_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        return RETRY.has_permission(request.user)

    @admin.action(description="Replay the selected failed events", permissions=["replay"])
    def replay_chosen(self, request: HttpRequest, chosen: QuerySet[Event]) -> None:
        replay(request, chosen)

    # One event

    def full_queryset(self) -> QuerySet[Event]:
        return Event.objects.all()

    def page_context(self, request: HttpRequest, obj: Event) -> dict[str, Any]:
        user = request.user
        redacted = Redaction(user)
        deliveries = permissions.visible_deliveries(user, obj.deliveries.for_list()).order_by("pk")[:MAX_DELIVERIES]
        same_object = Event.objects.filter(object_type=obj.object_type, object_id=obj.object_id)
        replay = same_object.filter(pk__gt=obj.pk, replay_of=obj.pk).first() if obj.error else None

        def visible_id(pk: int | None) -> int | None:
            return pk if pk and permissions.visible_events(user, Event.objects.filter(pk=pk)).exists() else None

        return {
            "event": obj,
            "failure_label": FAILURES.get(obj.failure, ""),
            "is_replayed": replay is not None,
            "replayed_as": visible_id(replay.pk if replay else None),
            "replay_of": visible_id(obj.replay_of),
            "may_see_deliveries": permissions.may_view_deliveries(user),
            "may_replay": self.has_replay_permission(request) and obj.failure and obj.dispatched_at is None,
            "changed": when(obj.timestamp),
            "fields": ", ".join(json.loads(obj.changed)) or "nothing" if obj.changed else "",
            "dispatched": when(obj.dispatched_at),
            "data": indented(obj.data),
            "serializer_outputs": _serializer_outputs(obj),
            "snapshots": indented(obj.snapshots),
            "request_shown": indented(obj.request),
            "deliveries": [
                {
                    "row": one,
                    "pill": pill(one.state),
                    "reason": short(redacted.error(one.webhook_id, one.reason), 80),
                    "created": when(one.created),
                }
                for one in deliveries
            ],
        }


def _serializer_outputs(event: Event) -> list[dict[str, str]]:
    """The data for each serializer, if webhooks chose other serializers than the default one."""
    names = payloads.webhooks_by_serializer(event) if event.serializers else []
    return [
        {"name": name or "default", "data": indented(payloads.as_serialized_by(event, name).data)} for name in names
    ]


def replay(request: HttpRequest, chosen: QuerySet[Event]) -> None:
    """Replay failed events, oldest first, and show the result. Stops when the request has taken long enough."""
    failed: EventQuerySet = chosen.failed()  # type: ignore[attr-defined]
    ids = list(failed.order_by("pk").values_list("pk", flat=True)[: TOTAL_CAP + 1])
    replayed, problems = 0, list[str]()
    end = time.monotonic() + retries.REQUEST_SECONDS
    for start in range(0, min(len(ids), TOTAL_CAP), CHUNK):
        chunk = ids[start : min(start + CHUNK, TOTAL_CAP)]
        for one in retries.replay(Event.objects.filter(pk__in=chunk).order_by("pk"), request.user):
            if one.event:
                replayed += 1
            else:
                name = one.failed.object_repr or f"{one.failed.object_type} {one.failed.object_id}"
                problems.append(f"“{name}” was not replayed: {one.problem}.")
        if time.monotonic() > end:
            break
    if replayed:
        messages.success(request, f"{count_of(replayed, 'event')} replayed.")
    for problem in problems[:MAX_NAMED]:
        messages.error(request, problem)
    if more := len(problems[MAX_NAMED:]):
        messages.error(request, f"{count_of(more, 'more event')} could not be replayed.")
    if not replayed and not problems:
        messages.warning(request, "Nothing to replay: none of these events failed.")
    if left := len(ids) - replayed - len(problems):
        more_left = f"{left:,}{' or more' if len(ids) > TOTAL_CAP else ''} left"
        messages.warning(request, f"There were too many for one request, {more_left}. Repeat the action for the rest.")
