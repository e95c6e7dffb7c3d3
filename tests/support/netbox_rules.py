"""Webhooks and event rules of NetBox, for the tests in it."""

from __future__ import annotations

from typing import Any

from extras.models import EventRule
from extras.models import Webhook as Original

from core.models import ObjectType


def make_original(name: str = "CMDB", **fields: Any) -> Original:
    """A webhook of NetBox."""
    return Original.objects.create(name=name, **{"payload_url": "http://10.0.0.5/hooks", **fields})


def make_rule(original: Any, *labels: str, **fields: Any) -> EventRule:
    """An event rule of NetBox that sends changes of these models by its own action, unless another one is given."""
    given = {
        "name": "Sites",
        "event_types": ["object_created", "object_updated", "object_deleted"],
        "action_type": "webhook",
    }
    rule = EventRule(action_object=original, **given | fields)
    rule.full_clean(exclude=["action_object_type"])
    rule.save()
    found = [ObjectType.objects.get_by_natural_key(*label.split(".")) for label in labels or ("dcim.site",)]
    rule.object_types.set(found)
    return rule
