"""Serializer fields that give each kind of value the shape that NetBox gives it."""

from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.urls import reverse
from rest_framework import serializers
from rest_framework.reverse import reverse as reverse_for_request


class ObjectURLField(serializers.Field):
    """Where the object is in this API: absolute with a request in the context, otherwise only the path."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "source": "*", "read_only": True})

    def to_representation(self, value: models.Model) -> str:
        view = f"{value._meta.app_label}-api:{value._meta.model_name}-detail"
        return reverse_for_request(view, args=[value.pk], request=self.context.get("request"))


class DisplayURLField(ObjectURLField):
    """The page of the object for people, in the admin."""

    def to_representation(self, value: models.Model) -> str:
        path = reverse(f"admin:{value._meta.app_label}_{value._meta.model_name}_change", args=[value.pk])
        request = self.context.get("request")
        return request.build_absolute_uri(path) if request else path


class ChoiceField(serializers.ChoiceField):
    """Reads as ``{"value": "active", "label": "Active"}`` or null; takes the value or that dict."""

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
    """Text that is null where there is none; the column holds an empty text."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "required": False, "allow_blank": True})

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        return super().validate_empty_values("" if data is None else data)

    def to_representation(self, value: Any) -> str | None:
        return super().to_representation(value) or None


class FamilyField(serializers.Field):
    """``{"value": 4, "label": "IPv4"}`` of a model with a property `family`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "read_only": True})

    def to_representation(self, value: Any) -> dict[str, Any]:
        return {"value": value.value, "label": value.label}


class NetworkField(serializers.CharField):
    """Text here; the model's field parses and validates it."""

    def to_representation(self, value: Any) -> str:
        return str(value)


class CustomFieldsField(serializers.DictField):
    """A partial update changes the keys that it names and keeps the others."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "source": "custom_field_data", "required": False})

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        given = super().to_internal_value(data)
        instance = getattr(self.parent, "instance", None)
        return {**instance.custom_field_data, **given} if instance and self.parent.partial else given


class ContentTypeField(serializers.RelatedField):
    """A model as ``dcim.interface``."""

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
    """How many objects the relation of each row has; several of these do not multiply each other's rows."""
    counted = model._default_manager.filter(pk=models.OuterRef("pk")).order_by().values("pk")
    return models.Subquery(counted.annotate(count=models.Count(relation)).values("count"))


class RelatedCountField(serializers.IntegerField):
    """The size of a relation: from the annotation of that name if there is one, else with one query."""

    def __init__(self, relation: str, **kwargs: Any) -> None:
        self.relation = relation
        super().__init__(**{**kwargs, "read_only": True})

    def get_attribute(self, instance: models.Model) -> int:
        if self.field_name in instance.__dict__:
            return instance.__dict__[self.field_name]
        return getattr(instance, self.relation).count()
