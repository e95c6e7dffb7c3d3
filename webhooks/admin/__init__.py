"""The admin: webhooks to define, events and deliveries to inspect, and the status page.

webhook            the list of webhooks, the page of one with its form and “Try it”
delivery           the list of deliveries, the page of one; retry, resend, discard
delivery_sections  the sections of that page: verdict, timeline, lane, one attempt
event              the lists of events and of skipped changes, the page of one event; replay
run                the list of runs, the page of one; pause, resume, cancel
run_start          the pages that ask before a run begins; Recover and Backfill
status             the status page, and its boxes: problems with their remedies
status_sections    the figures and tables of that page
why                “Why didn't it fire?”
what_changed       the change on the pages of a delivery and of an event, with the comparison of its snapshots
lists              the base class of the lists of deliveries, events, skips and runs; addresses of pages
filters            the filters above a list
display            how states, times, figures, objects, JSON and charts look
"""

from django.contrib import admin

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin, SkipAdmin
from webhooks.admin.run import RunAdmin
from webhooks.admin.webhook.page import WebhookAdmin

if admin.site.index_template is None:  # else the host's own index decides
    # Not by a template of the same name alone: a theme of the admin has one, too.
    admin.site.index_template = "rq_webhooks/admin/index.html"

__all__ = ["DeliveryAdmin", "EventAdmin", "RunAdmin", "SkipAdmin", "WebhookAdmin"]
