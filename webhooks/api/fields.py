"""What a webhook and an event have that no field of REST framework writes: labels, secrets, JSON text."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.contenttypes.models import ContentType
from rest_framework import serializers

from webhooks import registry
from webhooks.registry import label_of
from webhooks.security.encryption import Secret

NOT_REGISTERED = (
    "No webhook can be sent for {refused}: not registered. These are: {registered}. For another one, name it in "
    'the setting WEBHOOKS["MODELS"] or call webhooks.register() for it.'
)


class ObjectTypesField(serializers.ListField):
    """Content types as labels: ``["dcim.site"]``. Only those of registered models are accepted."""

    child = serializers.CharField()
    default_error_messages = {
        "not_a_list": 'Must be a list of labels, such as ["dcim.site"].',
        "not_registered": NOT_REGISTERED,
    }

    def to_internal_value(self, data: Any) -> list[ContentType]:
        labels = {label.lower() for label in super().to_internal_value(data)}
        registered = {item.label: item.model for item in registry.registrations()}
        if refused := sorted(labels - set(registered)):
            self.fail("not_registered", refused=", ".join(refused), registered=", ".join(registered) or "none")
        return list(ContentType.objects.get_for_models(*(registered[label] for label in labels)).values())

    def to_representation(self, data: Any) -> list[str]:
        return sorted(map(label_of, data.all()))


class TextsField(serializers.ListField):
    """A list of texts. The model's own rules judge each of them."""

    child = serializers.CharField()

    def run_child_validation(self, data: Any) -> Any:
        return data


class NamedChoiceField(serializers.ChoiceField):
    """A choice with a name for API schemas."""

    def __init__(self, choices: Any, *, schema_name: str, **kwargs: Any) -> None:
        self.schema_name = schema_name
        super().__init__(choices, **kwargs)


class SecretField(serializers.CharField):
    """Goes in and never comes out: where it is left out it stays, and ``""`` clears it."""

    def __init__(self, **kwargs: Any) -> None:
        style = {"input_type": "password"}
        super().__init__(required=False, allow_blank=True, write_only=True, style=style, **kwargs)

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return Secret(super().run_validation(data.reveal() if isinstance(data, Secret) else data))


class _JSONText(serializers.Field[Any, Any, Any, Any]):
    """JSON text of a column, as what it says; null where there is none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, allow_null=True, **kwargs)

    def to_representation(self, value: str) -> Any:
        return json.loads(value) if value else None


class JSONTextField(_JSONText, serializers.JSONField):
    pass


class JSONTextDictField(_JSONText, serializers.DictField):
    pass


class JSONTextListField(_JSONText, serializers.ListField):  # type: ignore[misc]
    pass


class VariantsField(_JSONText, serializers.DictField):
    """What each serializer gave, by its name. The column has JSON texts within JSON."""

    child = serializers.DictField()

    def to_representation(self, value: str) -> Any:
        variants = super().to_representation(value)
        return variants and {name: {key: _parsed(text) for key, text in one.items()} for name, one in variants.items()}


def _parsed(text: Any) -> Any:
    return (json.loads(text) if text else None) if isinstance(text, str) else text
