"""The admin: webhooks to define, events and deliveries to inspect, and the status page.

webhook            the pages of one webhook: form, test, runs, buttons, deletion
webhook_list       the list of webhooks; enable, disable, pause, resume
webhook_health     the top of the page of a webhook: state, figures, last deliveries
webhook_form       its form, with the fields and widgets that only it has
webhook_fieldsets  the sections of that form
try_it             before the form is saved: the exact request for an object or a custom event, a trial of the filters
why                “Why didn't it fire?”
delivery           the list of deliveries; retry, resend, discard
delivery_page      the page of one delivery: verdict, timeline, lane, and one attempt, also as a command of curl
event              the list of events, the page of one, replay
what_changed       the change on the pages of a delivery and of an event, with the comparison of its snapshots
skip               the list of skipped changes
run                the list of runs, the page of one with its progress; pause, resume, cancel
run_start          the pages that ask before a run begins, Recover and Backfill too
status             /admin/webhook-backend-status/, and the button that retries all
status_problems    its boxes, one for each cause, with their buttons
status_sections    its figures and tables
lists              what the lists of deliveries, events, skips and runs share: base class, columns, look, addresses
filters            the filters above a list
paging             the pages of long lists
display            how states, times, figures, objects, JSON and charts look
"""

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin
from webhooks.admin.run import RunAdmin
from webhooks.admin.skip import SkipAdmin
from webhooks.admin.webhook import WebhookAdmin

__all__ = ["DeliveryAdmin", "EventAdmin", "RunAdmin", "SkipAdmin", "WebhookAdmin"]
