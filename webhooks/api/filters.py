"""Query parameters that filter lists, and their pagination.

An invalid value is refused, never ignored: the same parameters choose what a bulk retry sends again. Pages need no
count and no offset, so they stay fast on long tables.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.core.exceptions import ValidationError as ModelValidationError
from django.db.models import Q, QuerySet
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from webhooks.db import first_id
from webhooks.models.delivery import State
from webhooks.models.webhook import ACTION_FIELDS

MAX_KEY = 2**63 - 1

# The OpenAPI schema for each kind of parameter.
SCHEMAS: dict[type[serializers.Field[Any, Any, Any, Any]], dict[str, Any]] = {
    serializers.BooleanField: {"type": "boolean"},
    serializers.CharField: {"type": "string"},
    serializers.ChoiceField: {"type": "string"},
    serializers.DateTimeField: {"type": "string", "format": "date-time"},
    serializers.IntegerField: {"type": "integer"},
}


class FirstIdField(serializers.DateTimeField):
    """A time, as the smallest id of a delivery created from then on: ids have an index, times have none."""

    def to_internal_value(self, value: Any) -> uuid.UUID:  # type: ignore[override]
        try:
            moment: datetime = super().to_internal_value(value)
            return first_id(moment)
        except (ValueError, OverflowError) as error:
            raise ValidationError("Must be a time from 1970 to 9999.") from error


class Filters(serializers.Serializer[Any]):
    """The filters of one list. ``lookups`` maps a parameter to the field lookup that it sets."""

    lookups: ClassVar[dict[str, str]] = {}

    def __init__(self, parameters: Any = None) -> None:
        super().__init__(data=parameters or {}, partial=True)

    def narrow(self, queryset: Any) -> Any:
        """Raises ValidationError, which REST framework answers with a 400."""
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
    failed = serializers.BooleanField(help_text="Whether it failed, so that nothing was sent, and was not replayed.")

    lookups = {"object_type": "object_type", "object_id": "object_id"}

    def narrow(self, queryset: Any) -> Any:
        events = super().narrow(queryset)
        if "failed" not in self.validated_data:
            return events
        return events.failed() if self.validated_data["failed"] else events.filter(error="")


class DeliveryFilters(ObjectFilters):
    state = serializers.MultipleChoiceField(choices=State.choices, help_text="May be given several times.")
    webhook = serializers.IntegerField(min_value=1, max_value=MAX_KEY, help_text="The id of a webhook.")
    created_after = FirstIdField(help_text="The first time that is included.")
    created_before = FirstIdField(help_text="The first time that is not included any more.")

    lookups = {
        "state": "state__in",
        "webhook": "webhook",
        "object_type": "event__object_type",
        "object_id": "event__object_id",
        "created_after": "pk__gte",
        "created_before": "pk__lt",
    }


class FilterBackend(BaseFilterBackend):
    """Filters a list by the view's ``filters_class``."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        return queryset if view.detail else view.filters_class(request.query_params).narrow(queryset)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [_openapi(name, field) for name, field in view.filters_class().fields.items()]


def _openapi(name: str, field: serializers.Field[Any, Any, Any, Any]) -> dict[str, Any]:
    [schema, *_] = [SCHEMAS[kind] for kind in type(field).__mro__ if kind in SCHEMAS]
    limits = {"minimum": getattr(field, "min_value", None), "maximum": getattr(field, "max_value", None)}
    schema = schema | {limit: value for limit, value in limits.items() if value is not None}
    if isinstance(field, serializers.ChoiceField):
        schema = schema | {"enum": list(field.choices)}
    if isinstance(field, serializers.MultipleChoiceField):
        schema = {"type": "array", "items": schema}
    return {"name": name, "in": "query", "required": False, "description": str(field.help_text), "schema": schema}


class NewestFirst(CursorPagination):
    """Pages by descending key, which is the order of time. ``?limit=`` sets the length of a page."""

    ordering = "-pk"
    page_size = 50
    page_size_query_param = "limit"
    page_size_query_description = "Number of results to return per page, 1 to 500."
    max_page_size = 500
    parameters = (CursorPagination.cursor_query_param, page_size_query_param)

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ModelValidationError, ValueError) as error:  # an invented cursor, or one of another list
            raise NotFound(self.invalid_cursor_message) from error

    def get_page_size(self, request: Request) -> int:
        given = request.query_params.get(self.page_size_query_param)
        if given is None:
            return self.page_size
        try:
            return int(serializers.IntegerField(min_value=1, max_value=self.max_page_size).run_validation(given))
        except ValidationError:
            problem = f"Must be a whole number from 1 to {self.max_page_size}."
            raise ValidationError({self.page_size_query_param: [problem]}) from None

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for one in parameters:
            if one["name"] == self.page_size_query_param:
                one["schema"] |= {"minimum": 1, "maximum": self.max_page_size}
        return parameters
