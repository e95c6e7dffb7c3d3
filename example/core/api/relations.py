"""Related objects in serializers, found by convention, so that apps need not import each other."""

from typing import Any

from django.db import models
from django.utils.module_loading import import_string
from rest_framework import serializers


def get_serializer_class(model: type[models.Model]) -> type[serializers.ModelSerializer]:
    """``<app>.api.serializers.<Model>Serializer``."""
    return import_string(f"{model._meta.app_config.name}.api.serializers.{model.__name__}Serializer")


class NestedObjectField(serializers.RelatedField):
    """Gives the brief form of the related object.

    Accepts a primary key, a dict of attributes that match exactly one object ({"name": "R1", "site": 1}), a
    slug or a name.
    """

    default_error_messages = {
        "does_not_exist": "No object matches {value!r}.",
        "multiple": "More than one object matches {value!r}.",
        "invalid": "Expected a primary key, a dict of attributes, a slug or a name, not {value!r}.",
    }

    def __init__(self, **kwargs: Any) -> None:
        self._brief_serializers: dict[type[models.Model], serializers.BaseSerializer] = {}
        super().__init__(**kwargs)

    def to_representation(self, value: models.Model) -> dict[str, Any]:
        model = type(value)
        if model not in self._brief_serializers:
            self._brief_serializers[model] = get_serializer_class(model)(nested=True, context=self.context)
        return self._brief_serializers[model].to_representation(value)

    def to_internal_value(self, data: Any) -> models.Model:
        queryset = self.get_queryset()
        try:
            return queryset.get(self.lookup(queryset.model, data))
        except queryset.model.DoesNotExist:
            self.fail("does_not_exist", value=data)
        except queryset.model.MultipleObjectsReturned:
            self.fail("multiple", value=data)
        except (TypeError, ValueError):
            self.fail("invalid", value=data)

    def lookup(self, model: type[models.Model], data: Any) -> models.Q:
        if isinstance(data, dict) and "id" in data:
            data = data["id"]
        names = {field.name for field in model._meta.concrete_fields}
        if isinstance(data, dict) and data and names.issuperset(data):
            return models.Q(**data)
        if type(data) is int or (isinstance(data, str) and data.isdecimal()):
            return models.Q(pk=data)
        if isinstance(data, str) and "name" in names:
            return models.Q(name=data) | models.Q(slug=data) if "slug" in names else models.Q(name=data)
        raise TypeError(f"nothing to look up with: {data!r}")

    def get_choices(self, cutoff: int | None = None) -> dict[Any, str]:
        objects = self.get_queryset()[:cutoff] if self.queryset is not None else []
        return {instance.pk: str(instance) for instance in objects}
