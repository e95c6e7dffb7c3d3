"""NetBox's global search finds webhooks by their names, and by the hosts of their receivers.

The path of a URL may have a token in it, so the index has only its scheme, host and port. That is what every user sees
who may view the webhook.
"""

from __future__ import annotations

from typing import Any

from netbox.search import SearchIndex

from webhooks.ground.security import url_policy
from webhooks.models import Webhook, permissions
from webhooks.models.webhook_states import WebhookQuerySet


class WebhookIndex(SearchIndex):
    model = Webhook
    fields = (("name", 100), ("payload_url", 300))

    @staticmethod
    def get_field_value(instance: Any, field_name: str) -> str | None:
        if field_name == "payload_url":
            return url_policy.redacted(instance.payload_url).removesuffix("…").removesuffix("/") or None
        return SearchIndex.get_field_value(instance, field_name)


def _restrict(webhooks: Any, user: Any, action: str = "view") -> Any:
    """The search asks the querysets of all models for the rows that a user may view."""
    return (
        permissions.visible_webhooks(user, webhooks)
        if action == "view"
        else permissions.allowed(user, action, webhooks)
    )


WebhookQuerySet.restrict = _restrict

indexes = [WebhookIndex]
