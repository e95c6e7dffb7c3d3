"""Filters of the lists: their choices come from the registry and the settings, never from a scan of the rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from webhooks import permissions, registry
from webhooks.admin.search import as_key
from webhooks.db import first_id
from webhooks.models import Action
from webhooks.models.delivery import OPEN_STATES, State
from webhooks.models.event import PING
from webhooks.text import clean

Choices = list[tuple[str, str]]


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [("open", "not ended"), *((state.value, str(state.label)) for state in State)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "open":
            return queryset.filter(state__in=OPEN_STATES)
        return queryset.filter(state=self.value()) if self.value() in State.values else queryset


class WebhookFilter(admin.SimpleListFilter):
    """By the webhook: one that the user may view."""

    title = "webhook"
    parameter_name = "webhook__id__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        named = permissions.visible_webhooks(request.user).order_by("name").values_list("pk", "name")
        return [(str(pk), name) for pk, name in named]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(webhook=as_key(self.value() or "")) if self.value() else queryset


def _with(rows: QuerySet[Any], column: str, value: str | None) -> QuerySet[Any]:
    """Those that have this value, which may be one that is offered no more, but none that no database has."""
    return rows.filter(**{column: value}) if value == clean(str(value)) else rows.none()


class TypeFilter(admin.SimpleListFilter):
    """By the model of the object: one of those registered."""

    title = "model"
    parameter_name = "model"
    column = "object_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [(registration.label, registration.label) for registration in registry.registrations()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _with(queryset, self.column, self.value()) if self.value() else queryset


class ActionFilter(admin.SimpleListFilter):
    title = "action"
    parameter_name = "event_action"  # "action" is the admin's own name for what to do with the chosen rows
    column = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        known = [(action.value, str(action.label)) for action in Action]
        return [*known, *((name, name) for name in registry.custom_events()), (PING, PING)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return _with(queryset, self.column, self.value()) if self.value() else queryset


class EventTypeFilter(TypeFilter):
    column = "event__object_type"


class EventActionFilter(ActionFilter):
    column = "event__action"


class EventStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        return [("failed", "failed"), ("replayed", "failed and replayed"), ("made", "made")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "failed":
            return queryset.failed()
        if self.value() == "replayed":
            return queryset.replayed()
        return queryset.filter(error="") if self.value() == "made" else queryset


def deliveries_url(**filters: Any) -> str:
    """The address of the list of deliveries that these choose."""
    return f"{reverse('admin:webhooks_delivery_changelist')}?{urlencode(filters)}"


class AgeFilter(admin.SimpleListFilter):
    """By when a delivery was made. Its id tells, and has an index where the time has none."""

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
