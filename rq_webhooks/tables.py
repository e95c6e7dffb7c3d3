"""The tables of lists, where NetBox looks for the one of a saved configuration of columns."""

from webhooks.contrib.netbox.pages.webhooks import WebhookTable

__all__ = ["WebhookTable"]
