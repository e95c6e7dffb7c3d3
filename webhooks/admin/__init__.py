"""The admin: webhooks to define, events and deliveries to inspect, and the status page.

webhook    the list of webhooks, the page of one with its form and “Try it”
delivery   the list of deliveries, the page of one; retry, resend, discard
event      the lists of events and of skipped changes, the page of one event; replay
run        the list of runs, the page of one; pause, resume, cancel
run_start  the pages that ask before a run begins; Recover and Backfill
status     the status page, and “Why didn't it fire?”
base       the base classes of the lists, pages without invisible characters, and addresses

``insight`` decides what a page shows, as dataclasses. The filters of ``templatetags`` make text and HTML of them.
"""

from django.contrib import admin

from webhooks.admin.delivery import DeliveryAdmin
from webhooks.admin.event import EventAdmin, SkipAdmin
from webhooks.admin.run import RunAdmin
from webhooks.admin.webhook import WebhookAdmin

if admin.site.index_template is None:  # else the host's own index decides
    # Not by a template of the same name alone: a theme of the admin has one, too.
    admin.site.index_template = "rq_webhooks/admin/index.html"

__all__ = ["DeliveryAdmin", "EventAdmin", "RunAdmin", "SkipAdmin", "WebhookAdmin"]
