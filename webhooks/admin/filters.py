"""Filters and search of the lists. Choices come from the registry, and search uses indexes or has bounds."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from webhooks import permissions, registry
from webhooks.db import first_id
from webhooks.models import Action, Event
from webhooks.models.delivery import OPEN_STATES, State
from webhooks.models.event import PING
from webhooks.text import clean

# Names have no index: search looks at this many of the newest events.
NEWEST = 100_000

# Search returns at most this many events for each meaning of the term.
MAX_FOUND = 1000

SEARCH_HELP = (
    "An object's id or “dcim.site:12”, a delivery's or a request's id, or part of an object's name "
    f"(in the newest {NEWEST:,} events)."
)

Choices = list[tuple[str, str]]


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [("open", "not finished"), *((state.value, str(state.label)) for state in State)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "open":
            return queryset.filter(state__in=OPEN_STATES)
        return queryset.filter(state=self.value()) if self.value() in State.values else queryset


class EventStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [("failed", "failed"), ("replayed", "failed and replayed"), ("created", "payload created")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "failed":
                return queryset.failed()
            case "replayed":
                return queryset.replayed()
            case "created":
                return queryset.filter(error="")
        return queryset


class WebhookFilter(admin.SimpleListFilter):
    """Offers the webhooks that the user may view."""

    title = "webhook"
    parameter_name = "webhook__id__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        webhooks = permissions.visible_webhooks(request.user).order_by("name")
        return [(str(pk), name) for pk, name in webhooks.values_list("pk", "name")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(webhook=as_key(self.value() or "")) if self.value() else queryset


class EventColumnFilter(admin.SimpleListFilter):
    """Filters events, or deliveries by their event. Accepts values that are no longer offered."""

    column: ClassVar[str]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        column = self.column if queryset.model is Event else f"event__{self.column}"
        # PostgreSQL rejects NUL and lone surrogates.
        return queryset.filter(**{column: value}) if value == clean(value) else queryset.none()


class TypeFilter(EventColumnFilter):
    title = "model"
    parameter_name = "model"
    column = "object_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(registration.label, registration.label) for registration in registry.registrations()]


class ActionFilter(EventColumnFilter):
    title = "action"
    parameter_name = "event_action"  # the admin uses "action" for its own form
    column = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        actions = [(action.value, str(action.label)) for action in Action]
        return [*actions, *((name, name) for name in registry.custom_events()), (PING, PING)]


class AgeFilter(admin.SimpleListFilter):
    """Filters deliveries by creation time, through their ids: these have an index."""

    title = "time"
    parameter_name = "within"
    spans: ClassVar[dict[str, tuple[str, timedelta]]] = {
        "hour": ("the last hour", timedelta(hours=1)),
        "day": ("the last 24 hours", timedelta(days=1)),
        "week": ("the last 7 days", timedelta(days=7)),
        "month": ("the last 30 days", timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(key, label) for key, (label, _) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in self.spans:
            return queryset
        _, age = self.spans[str(self.value())]
        return queryset.filter(pk__gte=first_id(timezone.now() - age))


def deliveries_url(**filters: Any) -> str:
    """The address of the list of deliveries, filtered."""
    return f"{reverse('admin:webhooks_delivery_changelist')}?{urlencode(filters)}"


def as_uuid(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


def as_key(term: str) -> int:
    """The primary key in a request. Returns 0, which no row has, if it is not a number that the database accepts."""
    return int(term) if term.isdecimal() and len(term) < 19 else 0


def search_events(term: str, events: QuerySet[Event]) -> list[int]:
    """The ids of the newest of these events that match a search term."""
    label, colon, key = term.partition(":")
    if colon and registry.registration_by_label(label):
        queries = [Q(object_type=label.lower(), object_id=key.strip())]
    else:
        # The index is on object_type and object_id.
        labels = [registration.label for registration in registry.registrations()]
        queries = [Q(object_type__in=labels, object_id=term), Q(request_id=term)]
        if not as_uuid(term):
            newest = Event.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
            queries.append(Q(pk__gt=newest - NEWEST, object_repr__icontains=term))
    return [
        pk for query in queries for pk in events.filter(query).order_by("-pk").values_list("pk", flat=True)[:MAX_FOUND]
    ]
