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

from webhooks.admin.filters import first_id
from webhooks.managers import State

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
    """``lookups`` says what each parameter is compared with; where it is silent, the field of that name."""

    lookups: ClassVar[dict[str, str]] = {}

    def __init__(self, request: Request) -> None:
        # Partial: what is not given is not looked at, while what is given must have a value.
        super().__init__(data=request.query_params, partial=True)

    def condition(self) -> Q:
        """Raises ValidationError, which REST framework answers as a 400."""
        self.is_valid(raise_exception=True)
        return Q(**{self.lookups.get(name, name): value for name, value in self.validated_data.items()})


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
    action = serializers.CharField()
    failed = serializers.BooleanField(help_text="Whether no payload could be made.")
    request_id = serializers.CharField()

    def condition(self) -> Q:
        self.is_valid(raise_exception=True)
        given = dict(self.validated_data)
        failed = given.pop("failed", None)
        wanted = Q(**given)
        return wanted if failed is None else wanted & (~Q(error="") if failed else Q(error=""))


class DeliveryFilters(ObjectFilters):
    """``state`` may be given several times."""

    state = serializers.MultipleChoiceField(choices=State.choices)
    webhook = serializers.IntegerField(min_value=1, max_value=BIGGEST_KEY)
    created_after = FirstIdField()
    created_before = FirstIdField()

    lookups: ClassVar = {
        "state": "state__in",
        "object_type": "event__object_type",
        "object_id": "event__object_id",
        "created_after": "pk__gte",
        "created_before": "pk__lt",
    }


class QueryParameters(BaseFilterBackend):
    """Filters a list by the view's ``filters_class``."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        return queryset if view.detail else queryset.filter(view.filters_class(request).condition())
