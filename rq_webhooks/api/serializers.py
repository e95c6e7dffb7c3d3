"""The serializers, where NetBox looks for them."""

from webhooks.contrib.netbox.api.serializers import (
    DeliverySerializer,
    EventSerializer,
    RunSerializer,
    SkipSerializer,
    WebhookSerializer,
)

__all__ = ["DeliverySerializer", "EventSerializer", "RunSerializer", "SkipSerializer", "WebhookSerializer"]
