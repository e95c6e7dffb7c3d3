"""Events and skips in the REST API."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.generics import get_object_or_404
from rest_framework.mixins import ListModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ReadOnlyModelViewSet

from webhooks.api.base import Conflict, LongListViewSet, once, query_filters, refuse_body, sees_payload
from webhooks.api.fields import ReadOnlySerializer, RuleField, extend_schema, extend_schema_view
from webhooks.ground.text.json_text import replace_half_surrogates
from webhooks.insight.paging import LongList, list_events, list_skips
from webhooks.insight.wording import skip_reason
from webhooks.models import Event, Skip, permissions
from webhooks.models.filters import ACTOR_FILTERS
from webhooks.operations import replays
from webhooks.operations.run_filters import needs_permission


class EventSummarySerializer(ReadOnlySerializer[Event]):
    class Meta:
        model = Event
        fields: tuple[str, ...] = ("id", "timestamp", "action", "object_type", "object_id", "object_repr")


class EventSerializer(ReadOnlySerializer[Event]):
    """``error`` says why the Event failed, mostly as a traceback. A failed Event is not sent."""

    class Meta:
        model = Event
        fields: tuple[str, ...] = (
            *EventSummarySerializer.Meta.fields, "username", "request_id", "depth", "replayed_at", "replay_of",
            "error",
        )  # fmt: skip


class EventDetailSerializer(EventSerializer):
    """The columns of JSON text as JSON, null where they are empty. Without permission to view payloads, all but
    ``changed`` are null."""

    data = serializers.SerializerMethodField()  # type: ignore[assignment]
    snapshots = serializers.SerializerMethodField()
    changed = serializers.SerializerMethodField()
    request = serializers.SerializerMethodField()
    serializers = serializers.SerializerMethodField()  # the last one: it hides the module in this class

    class Meta(EventSerializer.Meta):
        fields = (*EventSerializer.Meta.fields, "data", "snapshots", "changed", "serializers", "request")

    def to_representation(self, instance: Event) -> Any:
        shown = super().to_representation(instance)
        if sees_payload(self, instance):
            return shown
        return shown | dict.fromkeys(("data", "snapshots", "serializers", "request"))

    def get_data(self, event: Event) -> Any:
        return parse_json(event.data)

    def get_snapshots(self, event: Event) -> dict[str, Any] | None:
        return parse_json(event.snapshots)  # type: ignore[no-any-return]

    def get_changed(self, event: Event) -> list[str] | None:
        return parse_json(event.changed)  # type: ignore[no-any-return]

    def get_request(self, event: Event) -> dict[str, Any] | None:
        return parse_json(event.request)  # type: ignore[no-any-return]

    def get_serializers(self, event: Event) -> dict[str, dict[str, Any]] | None:
        """The webhooks and the output of each serializer by its name. The column has JSON text inside JSON."""
        outputs = parse_json(event.serializers)
        for output in (outputs or {}).values():
            output.update({name: parse_json(text) for name, text in output.items() if name != "webhooks"})
        return outputs  # type: ignore[no-any-return]


def parse_json(text: str) -> Any:
    """Parse JSON text. A response cannot hold half of a surrogate pair, which a text from outside may have."""
    return json.loads(replace_half_surrogates(text or "null"))


class SkipSerializer(ReadOnlySerializer[Skip]):
    """``detail`` has the value that the rule wanted, and the value that it found. The
    value that a condition found requires the permission to view payloads."""

    rule = RuleField(read_only=True)
    detail = serializers.SerializerMethodField()
    reason = serializers.SerializerMethodField()

    class Meta:
        model = Skip
        fields: tuple[str, ...] = (
            "id", "timestamp", "action", "object_type", "object_id", "object_repr", "username", "request_id", "rule",
            "detail", "reason",
        )  # fmt: skip

    def _shows_actual(self) -> bool:
        return once(self, "shows_actual", permissions.may_view_payloads)

    def get_detail(self, skip: Skip) -> dict[str, Any]:
        return skip.shown_detail(self._shows_actual())

    def get_reason(self, skip: Skip) -> str:
        return skip_reason(skip, self._shows_actual())


EventFilters = query_filters("events")
SkipFilters = query_filters("skips", "webhook")  # the address has it


def refuse_actor_filters(user: Any, given: Collection[str]) -> None:
    """Raise ValidationError for the filters of deliveries that show who made a change, if the user may not see that."""
    refused = sorted(ACTOR_FILTERS.intersection(given))
    if refused and not permissions.may_view_events(user):
        raise ValidationError({name: [needs_permission(name, "rq_webhooks.view_event")] for name in refused})


@extend_schema_view(list=extend_schema(parameters=[SkipFilters]))
class SkipViewSet(LongListViewSet, ListModelMixin):
    """Changes that a webhook did not want, and why."""

    queryset = Skip.objects.all()
    serializer_class = SkipSerializer
    filters_class = SkipFilters

    def get_queryset(self) -> QuerySet[Skip]:
        webhook: Any = get_object_or_404(permissions.visible_webhooks(self.request.user), pk=self.kwargs["webhook"])
        return permissions.visible_skips(self.request.user).filter(webhook=webhook)

    def long_list(self, filters: dict[str, Any]) -> LongList[Skip]:
        of_webhook = filters | {"webhook": self.kwargs["webhook"]}
        return list_skips(of_webhook, self.request.user, self.get_queryset())


@extend_schema_view(list=extend_schema(parameters=[EventFilters]))
class EventViewSet(LongListViewSet, ReadOnlyModelViewSet[Event]):
    """Events: committed changes of objects, and why some failed; Replay."""

    queryset = Event.objects.all()
    filters_class = EventFilters

    def get_queryset(self) -> QuerySet[Event]:
        events = Event.objects.all() if self.detail else Event.objects.for_list()
        return permissions.visible_events(self.request.user, events)

    def long_list(self, filters: dict[str, Any]) -> LongList[Event]:
        return list_events(filters, self.request.user, self.get_queryset())

    def get_serializer_class(self) -> Any:
        return EventDetailSerializer if self.detail else EventSerializer

    @extend_schema(request=None, responses={201: EventDetailSerializer})
    @action(detail=True, methods=["post"], operation="replay")
    def replay(self, request: Request, pk: str, **kwargs: Any) -> Response:
        """Capture the object of an event again as it is today. Returns the new event."""
        refuse_body(request)
        event = self.get_object()
        if not permissions.may(request.user, "replay", event):
            raise PermissionDenied
        if not Event.objects.replayable().filter(pk=event.pk).exists():
            refusal = _("Event %(id)s is a test, or a failed event that was replayed.")
            raise Conflict(refusal % {"id": event.pk})
        [result] = replays.replay([event], request.user)
        if result.event is None:
            refusal = _("Event %(id)s was not replayed: %(problem)s.")
            raise Conflict(refusal % {"id": event.pk, "problem": result.problem})
        created = Event.objects.get(pk=result.event.pk)
        return Response(self.get_serializer(created).data, status=status.HTTP_201_CREATED)
