"""The admin: webhooks to define, events and deliveries to look into, and the status page.

webhook, delivery, event   one model each
status                     /admin/webhook-backend-status/: what it shows is read in ``situation``, judged in ``findings``
deeds                      Retry and Discard, for one delivery or for 90,000
forms, deletion            editing and deleting a webhook
display, filters, lookup, paging, tallies   how things look, and how they are found and counted quickly
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "WebhookAdmin"]
