"""The admin: webhooks to define, events and deliveries to look into, and the status page.

webhook, delivery, event          one model each
status                            /admin/webhook-backend-status/: read in ``situation``, judged in ``findings``
operations, replaying, switches   retry and discard; replay; enable, disable and resume
forms, fields, trial              editing a webhook, what its form is made of, trying it on past Events
described, consequences           a webhook that is read and not edited; what its deletion takes along
lane                              who waits behind whom
display, readonly                 how things look; the pages that are only read
filters, lookup, paging           how things are found, however many there are
tallies, counting                 how they are counted, no further than a cap
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "WebhookAdmin"]
