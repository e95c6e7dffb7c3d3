"""Serializer fields in the shapes of NetBox."""

from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.urls import reverse
from rest_framework import serializers
from rest_framework.reverse import reverse as reverse_for_request


class ObjectURLField(serializers.Field):
    """The API URL of the object: absolute if the context has a request, else only the path."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "source": "*", "read_only": True})

    def to_representation(self, value: models.Model) -> str:
        view = f"{value._meta.app_label}-api:{value._meta.model_name}-detail"
        return reverse_for_request(view, args=[value.pk], request=self.context.get("request"))


class DisplayURLField(ObjectURLField):
    """The URL of the object's admin page."""

    def to_representation(self, value: models.Model) -> str:
        path = reverse(f"admin:{value._meta.app_label}_{value._meta.model_name}_change", args=[value.pk])
        request = self.context.get("request")
        return request.build_absolute_uri(path) if request else path


class ChoiceField(serializers.ChoiceField):
    """Reads as ``{"value": "active", "label": "Active"}`` or null. Accepts the value or that dict."""

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        if isinstance(data, dict):
            data = data.get("value")
        if data is None and self.allow_blank:
            return True, ""
        return super().validate_empty_values(data)

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(data.get("value") if isinstance(data, dict) else data)

    def to_representation(self, value: Any) -> dict[str, Any] | None:
        if value in ("", None):
            return None
        return {"value": getattr(value, "value", value), "label": str(self.choices.get(value, value))}


class TextOrNullField(serializers.CharField):
    """Text that is null in the API and empty in the database."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "required": False, "allow_blank": True})

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        return super().validate_empty_values("" if data is None else data)

    def to_representation(self, value: Any) -> str | None:
        return super().to_representation(value) or None


class FamilyField(serializers.Field):
    """``{"value": 4, "label": "IPv4"}`` for a model with a property `family`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "read_only": True})

    def to_representation(self, value: Any) -> dict[str, Any]:
        return {"value": value.value, "label": value.label}


class NetworkField(serializers.CharField):
    """Text that the model field parses and validates."""

    def to_representation(self, value: Any) -> str:
        return str(value)


class CustomFieldsField(serializers.DictField):
    """A dict. A partial update keeps the keys that it does not contain."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "source": "custom_field_data", "required": False})

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        values = super().to_internal_value(data)
        instance = getattr(self.parent, "instance", None)
        return {**instance.custom_field_data, **values} if instance and self.parent.partial else values


class ContentTypeField(serializers.RelatedField):
    """A model as text, like ``dcim.interface``."""

    default_error_messages = {"invalid": "Not an allowed object type: {value!r}."}

    def to_representation(self, value: ContentType) -> str:
        return f"{value.app_label}.{value.model}"

    def to_internal_value(self, data: Any) -> ContentType:
        app_label, _, model = str(data).partition(".")
        try:
            return self.get_queryset().get(app_label=app_label, model=model)
        except ContentType.DoesNotExist:
            self.fail("invalid", value=data)


def related_count(model: type[models.Model], relation: str) -> models.Subquery:
    """A subquery that counts related objects. A query can have several of them and still counts correctly."""
    counted = model._default_manager.filter(pk=models.OuterRef("pk")).order_by().values("pk")
    return models.Subquery(counted.annotate(count=models.Count(relation)).values("count"))


class RelatedCountField(serializers.IntegerField):
    """The number of related objects: from the annotation of that name if it exists, else with one query."""

    def __init__(self, relation: str, **kwargs: Any) -> None:
        self.relation = relation
        super().__init__(**{**kwargs, "read_only": True})

    def get_attribute(self, instance: models.Model) -> int:
        if self.field_name in instance.__dict__:
            return instance.__dict__[self.field_name]
        return getattr(instance, self.relation).count()


def with_counts(queryset: models.QuerySet, serializer_class: type[serializers.Serializer]) -> models.QuerySet:
    """Add the serializer's counts to the queryset, so that each object does not need its own queries."""
    return queryset.annotate(
        **{
            name: related_count(queryset.model, field.relation)
            for name, field in serializer_class._declared_fields.items()
            if isinstance(field, RelatedCountField)
        }
    )
