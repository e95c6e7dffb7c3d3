"""Which of the plans can be made, and making them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from webhooks import registry
from webhooks.capture import recording
from webhooks.importers.source import Answers
from webhooks.importers.translate import Plan, Skipped, plans
from webhooks.logs import get_logger
from webhooks.models import Webhook
from webhooks.registry import label_of

logger = get_logger(__name__)

# What people choose; the rest is kept by workers.
CHOSEN = [field.name for field in Webhook._meta.concrete_fields if field.editable and not field.primary_key]


class MadeMeanwhile(Exception):
    """Webhooks came to be while these plans were looked at, which stand in the way of making them."""


@dataclass
class Judged:
    """``present`` are webhooks of that name that are there already, each with the fields that differ."""

    to_make: list[Plan] = field(default_factory=list)
    present: list[tuple[Plan, list[str]]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def judge(answers: Answers, disabled: bool = False) -> Judged:
    """What would be made, and what not; all of it ``disabled``, if wanted. Changes nothing."""
    judged, registered = Judged(), {item.label for item in registry.registrations()}
    taken: dict[str, str] = {}
    for plan in plans(answers, registered):
        if isinstance(plan, Skipped):
            judged.skipped.append(plan)
            continue
        plan.fields["enabled"] = plan.fields["enabled"] and not disabled
        if existing := Webhook.objects.filter(name=plan.name).first():
            judged.present.append((plan, _differences(existing, plan)))
        elif reason := _objection(plan, taken):
            judged.skipped.append(Skipped(plan.origin, reason))
        else:
            taken[plan.name] = plan.origin
            judged.to_make.append(plan)
    return judged


def make(wanted: Iterable[Plan]) -> None:
    """Make all of them, or none. Raises MadeMeanwhile."""
    try:
        with transaction.atomic(recording.database()):
            for plan in wanted:
                _make(plan)
    except IntegrityError as error:
        raise MadeMeanwhile(str(error)) from error


def _make(plan: Plan) -> None:
    webhook = Webhook.objects.create(**plan.fields)
    webhook.object_types.set(_content_types(plan))
    logger.info("Webhook %s was imported from %s", webhook, plan.origin)


def _content_types(plan: Plan) -> list[ContentType]:
    models = [item.model for item in registry.registrations() if item.label in plan.object_types]
    return list(ContentType.objects.get_for_models(*models).values())


def _objection(plan: Plan, taken: dict[str, str]) -> str:
    if plan.name in taken:
        return f"{taken[plan.name]} has the same name"
    try:
        Webhook(**plan.fields).full_clean()
    except ValidationError as error:
        refused = [f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()]
        return f"refused: {'; '.join(refused)}"
    return ""


def _differences(existing: Webhook, plan: Plan) -> list[str]:
    wanted = Webhook(**plan.fields)  # with the defaults of what no plan sets
    names = [name for name in CHOSEN if getattr(existing, name) != getattr(wanted, name)]
    object_types = set(map(label_of, existing.object_types.all()))
    return names + (["object_types"] if object_types != set(plan.object_types) else [])
