"""NetBox's own webhooks and event rules: how ``webhooks.management.imports`` reads them, and how to disable them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import uuid4

from core.choices import ObjectChangeActionChoices
from extras.models import EventRule
from extras.models import Webhook as Original

from webhooks.management.imports import OPERATOR, Item, LocalSource, Responses, request_fields

RULE = ("id", "name", "description", "enabled", "event_types", "conditions", "action_type", "action_object_id",
        "action_data")  # fmt: skip
WEBHOOK = (
    "id", "name", "description", "payload_url", "http_method", "http_content_type", "additional_headers",
    "body_template", "secret", "ssl_verification", "ca_file_path", "timeout",
)  # fmt: skip


def settings_of(original: Original) -> dict[str, Any]:
    """The settings that a webhook of NetBox determines. Reads no row."""
    return request_fields(Item({name: getattr(original, name) for name in WEBHOOK}), [])


def webhook_item(original: Original) -> Item:
    """A webhook of NetBox, as its REST API writes it."""
    return _item(original, WEBHOOK)


def rule_item(rule: EventRule) -> Item:
    """An event rule, as the REST API writes it, and with its static data."""
    labels = [f"{object_type.app_label}.{object_type.model}" for object_type in rule.object_types.all()]
    return _item(rule, RULE, object_types=labels)


def _item(row: Any, names: Collection[str], **more: Any) -> Item:
    shown = {"owner": str(row.owner or ""), "tags": list(row.tags.names()), "custom_fields": row.custom_field_data}
    # NetBox 4.6 has no timeout of a webhook.
    return Item({name: getattr(row, name, None) for name in names} | shown | more)


def read() -> Responses:
    """All event rules, and all webhooks. A webhook that no rule uses is among them."""
    responses = Responses()
    responses.add(
        [webhook_item(original) for original in Original.objects.order_by("name")], "NetBox's table of webhooks"
    )
    rules = EventRule.objects.order_by("name").prefetch_related("object_types")
    responses.add([rule_item(rule) for rule in rules], "NetBox's table of event rules")
    return responses


def disable(ids: Collection[Any]) -> list[str]:
    """Disable the event rules with these ids, with an entry each in NetBox's changelog. Returns their names."""
    request_id, disabled = uuid4(), []
    for rule in EventRule.objects.select_for_update().filter(pk__in=ids, enabled=True).order_by("name"):
        rule.snapshot()
        rule.enabled = False
        rule.save()
        change = rule.to_objectchange(ObjectChangeActionChoices.ACTION_UPDATE)
        change.user_name, change.request_id, change.message = str(OPERATOR), request_id, "Imported as a webhook."
        change.save()
        disabled.append(rule.name)
    return disabled


SOURCE = LocalSource(
    option="--from-this-netbox",
    help="Read the event rules and webhooks of NetBox itself from its database, their secrets included.",
    read=read,
    disable=disable,
)
