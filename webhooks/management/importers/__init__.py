"""Import webhooks and event rules from the REST APIs of NetBox and Nautobot.

``source`` reads their responses, and ``translate`` turns them into plans. This module compares the plans with the
stored webhooks, and creates the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import transaction

from webhooks import registry
from webhooks.errors import get_logger
from webhooks.management.importers.source import Responses
from webhooks.management.importers.translate import Plan, Skipped, translate
from webhooks.models import Webhook
from webhooks.registry import label_of

logger = get_logger(__name__)

# Users set these fields; workers keep the others.
SETTINGS = [field.name for field in Webhook._meta.concrete_fields if field.editable and not field.primary_key]


@dataclass
class ImportPreview:
    """The result of an import before it changes anything."""

    new: list[Plan] = field(default_factory=list)
    existing: list[tuple[Plan, list[str]]] = field(default_factory=list)
    """Plans with the name of a stored webhook, and the fields that differ."""
    skipped: list[Skipped] = field(default_factory=list)


def preview(responses: Responses, disabled: bool = False) -> ImportPreview:
    """Translate and validate. ``disabled`` disables all new webhooks."""
    result, registered = ImportPreview(), registry.registered_models()
    origins: dict[str, str] = {}
    for plan in translate(responses, registered):
        if isinstance(plan, Skipped):
            result.skipped.append(plan)
            continue
        plan.fields["enabled"] = plan.fields["enabled"] and not disabled
        if stored := Webhook.objects.filter(name=plan.name).first():
            result.existing.append((plan, _differing_fields(stored, plan)))
        elif problem := f"{origins[plan.name]} has the same name" if plan.name in origins else _problem(plan):
            result.skipped.append(Skipped(plan.origin, problem))
        else:
            origins[plan.name] = plan.origin
            result.new.append(plan)
    return result


def create(plans: Iterable[Plan]) -> None:
    """Create a webhook for each plan, or none. Raises IntegrityError if another user took one of the names."""
    models = registry.registered_models()
    with transaction.atomic(Webhook.objects.db):
        for plan in plans:
            webhook = Webhook.objects.create(**plan.fields)
            types = ContentType.objects.get_for_models(*(models[label] for label in plan.object_types))
            webhook.object_types.set(types.values())
            logger.info("Webhook %s was imported from %s", webhook, plan.origin)


def _problem(plan: Plan) -> str:
    try:
        Webhook(**plan.fields).full_clean()
    except ValidationError as error:
        refused = [f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()]
        return f"refused: {'; '.join(refused)}"
    return ""


def _differing_fields(stored: Webhook, plan: Plan) -> list[str]:
    planned = Webhook(**plan.fields)
    names = [name for name in SETTINGS if getattr(stored, name) != getattr(planned, name)]
    object_types = set(map(label_of, stored.object_types.all()))
    return names + (["object_types"] if object_types != set(plan.object_types) else [])
