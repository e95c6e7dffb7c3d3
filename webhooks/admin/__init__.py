"""The admin: webhooks to define, events and deliveries to inspect, and the status page.

webhook             the pages of one webhook: form, test, runs, deletion
webhook_list        the list of webhooks
health              the top of the page of a webhook: state, figures, last deliveries
try_it              the exact request for an object or a custom event, before the form is saved
recover             Recover and Backfill, with a dry run first
why                 “Why didn't it fire?”
delivery, event     the lists of deliveries and events, their actions and buttons
delivery_page       the page of one delivery: verdict and lane
attempts            its timeline, and one attempt at a time, also as a command of curl
change_context      the change as the pages of a delivery and of an event show it, with the comparison of its snapshots
skip                the list of skipped changes
run, run_start      runs: list, progress, pause, resume, cancel; the page that asks before one begins
status              /admin/webhook-backend-status/: problems, figures, tables, and their buttons
actions             retry, discard, enable, disable, pause, resume, and the preview of a deletion
forms, form_fields  the form of a webhook, and its own kinds of fields and widgets
fieldsets           the sections of that form
condition_preview   tries the filters of the form on stored events
lists               the lists of deliveries, events, skips and runs: base class, shared columns, look, addresses
filters, finding    the filters above a list, and the rows that match them
paging              the pages of long lists
charts              SVG charts: the attempts of a day, stacked bars, sparklines
highlight           JSON and headers as highlighted blocks
display             how states, times, figures and objects look
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.run import RunAdmin
from webhooks.admin.skip import SkipAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "RunAdmin", "SkipAdmin", "WebhookAdmin"]
