"""Serializer fields that REST framework does not have: model labels and secrets. Also a check for unknown names."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from django.contrib.contenttypes.models import ContentType
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from webhooks import registry
from webhooks.registry import label_of
from webhooks.security.encryption import Secret

MAX_UNKNOWN_NAMES = 10  # that one response explains


def refuse_unknown(given: Collection[str], known: Collection[str], kind: str) -> None:
    """Raise ValidationError for unknown names, so that no misspelt name is ignored. ``kind`` is "field" or similar."""
    problems = {}
    for name in sorted(set(given) - set(known))[:MAX_UNKNOWN_NAMES]:
        nearest = get_close_matches(name, known, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else f"Known are: {', '.join(known) or 'none'}."
        problems[name] = [f"There is no {kind} of this name. {hint}"]
    if problems:
        raise ValidationError(problems)


class ObjectTypesField(serializers.ListField):
    """Content types as labels, such as ``["dcim.site"]``. It accepts only registered models."""

    child = serializers.CharField()
    default_error_messages = {
        "not_a_list": 'Must be a list of labels, such as ["dcim.site"].',
        "not_registered": "Not registered: {refused}. Choose from: {registered}. To send another model, add it to the "
        'setting WEBHOOKS["MODELS"] or call webhooks.register() for it.',
    }

    def to_internal_value(self, data: Any) -> list[ContentType]:
        labels = {label.lower() for label in super().to_internal_value(data)}
        registered = {item.label: item.model for item in registry.registrations()}
        if refused := sorted(labels - set(registered)):
            self.fail("not_registered", refused=", ".join(refused), registered=", ".join(registered) or "none")
        return list(ContentType.objects.get_for_models(*(registered[label] for label in labels)).values())

    def to_representation(self, data: Any) -> list[str]:
        return sorted(map(label_of, data.all()))


class TextListField(serializers.ListField):
    """A list of texts. The model validates each of them."""

    child = serializers.CharField()

    def run_child_validation(self, data: Any) -> Any:
        return data


class SecretField(serializers.CharField):
    """Write-only. If it is missing, the stored secret stays; ``""`` clears it."""

    def __init__(self, **kwargs: Any) -> None:
        style = {"input_type": "password"}
        super().__init__(required=False, allow_blank=True, write_only=True, style=style, **kwargs)

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return Secret(super().run_validation(data.reveal() if isinstance(data, Secret) else data))


class NamedChoiceField(serializers.ChoiceField):
    """A choice with a name for the OpenAPI document: drf-spectacular's own may be the name of a host's choices."""

    def __init__(self, choices: Any, *, schema_name: str, **kwargs: Any) -> None:
        self.schema_name = schema_name
        super().__init__(choices, **kwargs)


try:
    from drf_spectacular.extensions import OpenApiSerializerFieldExtension
except ImportError:
    pass  # optional
else:

    class NamedChoices(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
        target_class = NamedChoiceField

        def get_name(self) -> str:
            return str(self.target.schema_name)

        def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
            return {"type": "string", "enum": list(self.target.choices)}
