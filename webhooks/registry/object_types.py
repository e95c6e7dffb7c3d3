"""The models of a webhook as Django's content types: their labels, and which of them may be chosen."""

from __future__ import annotations

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from webhooks import registry


def label_of(content_type: ContentType) -> str:
    """Such as "dcim.site": what registrations, Events and payloads call the model."""
    return f"{content_type.app_label}.{content_type.model}"


def registered_object_types() -> QuerySet[ContentType]:
    """The content types of the registered models: what an admin can pick."""
    found = ContentType.objects.get_for_models(*(item.model for item in registry.registrations()))
    pks = [content_type.pk for content_type in found.values()]
    return ContentType.objects.filter(pk__in=pks).order_by("app_label", "model")


def _is_registered(label: str) -> bool:
    # A proxy's registration is its concrete model's, whose label its changes go by.
    registration = registry.registration_by_label(label)
    return registration is not None and registration.label == label


def refuse_unregistered(pks: set[int]) -> None:
    """Raise ValidationError, naming them, when some of these content types are of models that nobody registered."""
    refused = [label for label in map(label_of, ContentType.objects.filter(pk__in=pks)) if not _is_registered(label)]
    if refused:
        raise ValidationError(
            f"No webhook can be sent for {', '.join(sorted(refused))}: not registered. Name it in the setting "
            'WEBHOOKS["MODELS"] or call webhooks.register() for it.'
        )
