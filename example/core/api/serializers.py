"""The base of every serializer, and the serializer of tags."""

import copy
from typing import Any

from django.db import models
from rest_framework import serializers

from core.api.fields import (
    ChoiceField,
    CustomFieldsField,
    DisplayURLField,
    NetworkField,
    ObjectURLField,
)
from core.api.relations import NestedObjectField
from core.fields import AddressField, PrefixField
from core.models import Tag

IDENTITY = ("id", "url", "display_url", "display")
BOOKKEEPING = ("tags", "custom_fields", "created", "last_updated")


class ValidatedModelSerializer(serializers.ModelSerializer):
    """Validates with the model's `full_clean`, so that the API and the admin accept the same data."""

    def get_uniqueness_extra_kwargs(self, field_names, declared_fields, extra_kwargs):
        """Do not make a field required because it belongs to a unique constraint."""
        return extra_kwargs, {}

    def get_validators(self) -> list[Any]:
        return []

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        many_to_many = {field.name for field in self.Meta.model._meta.many_to_many}
        candidate = copy.copy(self.instance) if self.instance else self.Meta.model()
        for name, value in attrs.items():
            if name not in many_to_many:
                setattr(candidate, name, value)
        candidate.full_clean()
        return attrs


class InventorySerializer(ValidatedModelSerializer):
    """Gives fields the shapes of NetBox. ``nested=True`` keeps only the identity and `Meta.brief_fields`."""

    serializer_related_field = NestedObjectField
    serializer_choice_field = ChoiceField
    serializer_field_mapping = {
        **serializers.ModelSerializer.serializer_field_mapping,
        AddressField: NetworkField,
        PrefixField: NetworkField,
    }

    url = ObjectURLField()
    display_url = DisplayURLField()
    display = serializers.CharField(source="__str__", read_only=True)

    def __init__(self, instance: models.Model | None = None, *, nested: bool = False, **kwargs: Any) -> None:
        self.nested = nested
        super().__init__(instance, **kwargs)

    def get_field_names(self, declared_fields: Any, info: Any) -> list[str]:
        names = super().get_field_names(declared_fields, info)
        brief = {"id", "url", "display", *self.Meta.brief_fields}
        return [name for name in names if not self.nested or name in brief]


class TaggedSerializer(InventorySerializer):
    """For subclasses of `core.models.InventoryModel`."""

    custom_fields = CustomFieldsField()


class BriefSerializer(InventorySerializer):
    """Mixed into the serializer of a model, gives its brief form."""

    def __init__(self, instance: models.Model | None = None, **kwargs: Any) -> None:
        super().__init__(instance, **{**kwargs, "nested": True})


class TagSerializer(InventorySerializer):
    class Meta:
        model = Tag
        fields = (*IDENTITY, "name", "slug", "color", "description", "created", "last_updated")
        brief_fields = ("display_url", "name", "slug", "color")
