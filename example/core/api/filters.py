"""The filters of all views: by tag, by time, and by several values of a choice."""

from typing import Any

import django_filters
from django.db import models
from django_filters.rest_framework import DjangoFilterBackend, FilterSet

from core.fields import AddressField, NetworkFormField, PrefixField, parse_interface
from core.models import Tag


class NetworkFilter(django_filters.Filter):
    field_class = NetworkFormField


class InventoryFilterSet(FilterSet):
    FILTER_DEFAULTS = {
        **FilterSet.FILTER_DEFAULTS,
        PrefixField: {"filter_class": NetworkFilter},
        AddressField: {"filter_class": NetworkFilter, "extra": lambda field: {"parse": parse_interface}},
    }

    tag = django_filters.ModelMultipleChoiceFilter(
        field_name="tags__slug", to_field_name="slug", queryset=Tag.objects.all(), conjoined=True
    )
    created_after = django_filters.IsoDateTimeFilter("created", "gte")
    last_updated_after = django_filters.IsoDateTimeFilter("last_updated", "gte")

    @classmethod
    def filter_for_lookup(cls, field: models.Field, lookup_type: str) -> tuple[Any, dict[str, Any]]:
        if lookup_type == "exact" and field.choices:
            return django_filters.MultipleChoiceFilter, {"choices": field.choices}
        return super().filter_for_lookup(field, lookup_type)


class InventoryFilterBackend(DjangoFilterBackend):
    filterset_base = InventoryFilterSet
