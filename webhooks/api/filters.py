"""Query parameters that narrow lists. A value that means nothing is refused, never passed over: the same
parameters choose what a bulk retry sends again."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.db.models import Q, QuerySet
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from webhooks.db import first_id
from webhooks.models.delivery import State
from webhooks.models.webhook import ACTION_FIELDS

BIGGEST_KEY = 2**63 - 1

# How OpenAPI writes the value of each kind of parameter.
SCHEMAS: dict[type[serializers.Field[Any, Any, Any, Any]], dict[str, Any]] = {
    serializers.BooleanField: {"type": "boolean"},
    serializers.CharField: {"type": "string"},
    serializers.ChoiceField: {"type": "string"},
    serializers.DateTimeField: {"type": "string", "format": "date-time"},
    serializers.IntegerField: {"type": "integer"},
}


class FirstIdField(serializers.DateTimeField):
    """A moment, as the smallest id that a delivery made from then on has: ids have an index, times have none."""

    def to_internal_value(self, value: Any) -> uuid.UUID:  # type: ignore[override]
        try:
            moment: datetime = super().to_internal_value(value)
            return first_id(moment)
        except (ValueError, OverflowError) as error:
            raise ValidationError("Must be a time from 1970 to 9999.") from error


class Filters(serializers.Serializer[Any]):
    """``lookups`` says what each parameter is compared with."""

    lookups: ClassVar[dict[str, str]] = {}

    def __init__(self, parameters: Any = None) -> None:
        # Partial: what is not given is not looked at, while what is given must have a value.
        super().__init__(data=parameters or {}, partial=True)

    def narrow(self, queryset: Any) -> Any:
        """Raises ValidationError, which REST framework answers as a 400."""
        self.is_valid(raise_exception=True)
        given = {name: value for name, value in self.validated_data.items() if name in self.lookups}
        return queryset.filter(**{self.lookups[name]: value for name, value in given.items()})


class WebhookFilters(Filters):
    name = serializers.CharField(help_text="The whole name.")
    q = serializers.CharField(help_text="A part of the name, in capital or small letters.")
    enabled = serializers.BooleanField(help_text="Whether it is enabled.")
    paused = serializers.BooleanField(help_text="Whether it is paused because its receiver failed.")
    failing = serializers.BooleanField(help_text="Whether its last attempt failed.")
    object_type = serializers.CharField(help_text="The label of a model that it sends, such as dcim.site.")
    action = serializers.ChoiceField(list(ACTION_FIELDS.values()), help_text="An action that it sends.")

    lookups = {"name": "name", "q": "name__icontains", "enabled": "enabled"}

    def narrow(self, queryset: Any) -> Any:
        webhooks = super().narrow(queryset)
        given = self.validated_data
        if "paused" in given:
            paused = Q(enabled=True, probe_at__isnull=False)
            webhooks = webhooks.filter(paused if given["paused"] else ~paused)
        if "failing" in given:
            webhooks = webhooks.filter(**{"failures_in_a_row__gt" if given["failing"] else "failures_in_a_row": 0})
        if "object_type" in given:
            app_label, _, model = given["object_type"].lower().partition(".")
            webhooks = webhooks.filter(object_types__app_label=app_label, object_types__model=model)
        if "action" in given:
            [field] = [name for name, action in ACTION_FIELDS.items() if action == given["action"]]
            webhooks = webhooks.filter(**{field: True})
        return webhooks


class ObjectFilters(Filters):
    object_type = serializers.CharField(help_text="The label of a model, such as dcim.site.")
    object_id = serializers.CharField(help_text="The key of an object. Give object_type as well.")

    def validate_object_type(self, value: str) -> str:
        return value.lower()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "object_id" in attrs and "object_type" not in attrs:
            raise ValidationError({"object_id": "Give object_type as well: ids of different models are the same."})
        return attrs


class EventFilters(ObjectFilters):
    """``failed=true``: those of which nothing was sent, and that were not replayed since."""

    failed = serializers.BooleanField(help_text="Whether nothing was sent of it, and it was not replayed since.")

    lookups = {"object_type": "object_type", "object_id": "object_id"}

    def narrow(self, queryset: Any) -> Any:
        events = super().narrow(queryset)
        if "failed" not in self.validated_data:
            return events
        return events.failed() if self.validated_data["failed"] else events.filter(error="")


class DeliveryFilters(ObjectFilters):
    """``state`` may be given several times."""

    state = serializers.MultipleChoiceField(choices=State.choices, help_text="May be given several times.")
    webhook = serializers.IntegerField(min_value=1, max_value=BIGGEST_KEY, help_text="The id of a webhook.")
    created_after = FirstIdField(help_text="The first time that is chosen.")
    created_before = FirstIdField(help_text="The first time that is not chosen any more.")

    lookups = {
        "state": "state__in",
        "webhook": "webhook",
        "object_type": "event__object_type",
        "object_id": "event__object_id",
        "created_after": "pk__gte",
        "created_before": "pk__lt",
    }


class QueryParameters(BaseFilterBackend):
    """Filters a list by the view's ``filters_class``."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        return queryset if view.detail else view.filters_class(request.query_params).narrow(queryset)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [_described(name, field) for name, field in view.filters_class().fields.items()]


def _described(name: str, field: serializers.Field[Any, Any, Any, Any]) -> dict[str, Any]:
    """A query parameter as OpenAPI has it."""
    [schema, *_] = [SCHEMAS[kind] for kind in type(field).__mro__ if kind in SCHEMAS]
    limits = {"minimum": getattr(field, "min_value", None), "maximum": getattr(field, "max_value", None)}
    schema = schema | {limit: value for limit, value in limits.items() if value is not None}
    if isinstance(field, serializers.ChoiceField):
        schema = schema | {"enum": list(field.choices)}
    if isinstance(field, serializers.MultipleChoiceField):
        schema = {"type": "array", "items": schema}
    return {"name": name, "in": "query", "required": False, "description": str(field.help_text), "schema": schema}
