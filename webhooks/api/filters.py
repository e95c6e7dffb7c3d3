"""Query parameters that narrow lists. A value that means nothing is refused, never passed over: the same
parameters choose what a bulk retry sends again."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.request import Request

from webhooks.ids import first_id
from webhooks.models.querysets import State

BIGGEST_KEY = 2**63 - 1


class FirstIdField(serializers.DateTimeField):
    """A moment, as the smallest id that a delivery made from then on has: ids have an index, times have none."""

    def to_internal_value(self, value: Any) -> uuid.UUID:  # type: ignore[override]
        moment: datetime = super().to_internal_value(value)
        try:
            return first_id(moment)
        except (ValueError, OverflowError) as error:
            raise ValidationError("Must be a time after 1970.") from error


class Filters(serializers.Serializer[Any]):
    """``lookups`` says what each parameter is compared with."""

    lookups: ClassVar[dict[str, str]] = {}

    def __init__(self, request: Request) -> None:
        # Partial: what is not given is not looked at, while what is given must have a value.
        super().__init__(data=request.query_params, partial=True)

    def narrow(self, queryset: Any) -> Any:
        """Raises ValidationError, which REST framework answers as a 400."""
        self.is_valid(raise_exception=True)
        given = {name: value for name, value in self.validated_data.items() if name in self.lookups}
        return queryset.filter(**{self.lookups[name]: value for name, value in given.items()})


class ObjectFilters(Filters):
    object_type = serializers.CharField()
    object_id = serializers.CharField()

    def validate_object_type(self, value: str) -> str:
        return value.lower()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "object_id" in attrs and "object_type" not in attrs:
            raise ValidationError({"object_id": "Give object_type as well: ids of different models are the same."})
        return attrs


class EventFilters(ObjectFilters):
    """``failed=true``: those of which nothing was sent, and that were not replayed since."""

    failed = serializers.BooleanField()

    lookups = {"object_type": "object_type", "object_id": "object_id"}

    def narrow(self, queryset: Any) -> Any:
        events = super().narrow(queryset)
        if "failed" not in self.validated_data:
            return events
        return events.failed() if self.validated_data["failed"] else events.filter(error="")


class DeliveryFilters(ObjectFilters):
    """``state`` may be given several times."""

    state = serializers.MultipleChoiceField(choices=State.choices)
    webhook = serializers.IntegerField(min_value=1, max_value=BIGGEST_KEY)
    created_after = FirstIdField()
    created_before = FirstIdField()

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
        return queryset if view.detail else view.filters_class(request).narrow(queryset)
