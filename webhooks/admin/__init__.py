"""The admin: webhooks to define, events and deliveries to look into, and the status page.

webhook, delivery, event          one model each
status                            /admin/webhook-backend-status/: read in ``situation``, judged in ``findings``
operations, replaying, switches   retry and discard; replay; enable, disable and resume
forms, trial, consequences        editing a webhook, trying it on past Events, what its deletion takes along
lane                              who waits behind whom
display, readonly                 how things look; the pages that are only read
filters, lookup, paging, tallies  how things are found and counted quickly
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "WebhookAdmin"]
