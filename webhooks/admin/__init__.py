"""The admin: webhooks to define, events and deliveries to look into, and the status page.

webhook, delivery, event   one model each
status                     /admin/webhook-backend-status/: read in ``situation``, judged in ``findings``
deeds, replaying, switches Retry and Discard; replay; enable, disable and resume
forms, deletion            editing and deleting a webhook
lane                       who waits behind whom
display, filters, lookup, paging, tallies   how things look, and how they are found and counted quickly
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "WebhookAdmin"]
