"""Silence: enabled webhooks that send nothing, although nothing fails.

If a model or a custom event is not registered any more, nothing is captured: there is neither a delivery nor a skip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.db.models import CharField, Value
from django.db.models.functions import Concat

from webhooks import registry
from webhooks.models import Webhook


@dataclass(frozen=True)
class Silence:
    """Why an enabled webhook sends nothing of some changes."""

    models: tuple[str, ...] = ()
    """The labels of its models that are not registered."""
    events: tuple[str, ...] = ()
    """The names of its custom events that are not registered."""


def read_silences(webhooks: Collection[Any]) -> dict[int, Silence]:
    """The silences of these webhooks by id, of the enabled ones that have any."""
    enabled = [webhook for webhook in webhooks if webhook.enabled]
    if not enabled:
        return {}
    models, known = _unregistered_models([webhook.pk for webhook in enabled]), registry.custom_events()
    events = {webhook.pk: tuple(one for one in webhook.custom_events if one not in known) for webhook in enabled}
    found = {pk: Silence(tuple(models.get(pk, ())), events[pk]) for pk in events}
    return {pk: silence for pk, silence in found.items() if silence != Silence()}


def _unregistered_models(webhooks: Collection[int]) -> dict[int, list[str]]:
    """The labels of the models of these webhooks that are not registered, by webhook."""
    label = Concat("contenttype__app_label", Value("."), "contenttype__model", output_field=CharField())
    chosen: Any = Webhook.object_types.through.objects.using(Webhook.objects.db).filter(webhook__in=webhooks)
    # Not as objects: all webhooks together may have thousands of models.
    missing = chosen.annotate(label=label)
    missing = missing.exclude(label__in=list(registry.registered_models())).order_by("label")
    found = defaultdict[int, list[str]](list)
    for pk, one in missing.values_list("webhook_id", "label"):
        found[pk].append(one)
    return dict(found)
