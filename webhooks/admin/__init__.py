"""The admin: webhooks to define, events and deliveries to inspect, and the status page.

webhook             list, form, test and deletion of webhooks
delivery, event     the pages of deliveries and events
status              /admin/webhook-backend-status/
diagnostics         why nothing arrived: problem and way out, for the status page and the form
actions             retry, discard, enable, disable, resume, and the preview of a deletion
forms, fields       the form of a webhook, and its form fields
condition_preview   tries the filters of the form on stored events
columns             the columns of the list of webhooks, and their read-only fields
readonly            the base of the pages of deliveries and events
counts              capped counts and pagination for long tables
filters             filters and search of the lists
display             how states, times, counts and JSON look
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "WebhookAdmin"]
