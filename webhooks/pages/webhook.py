"""What the top of the page of a webhook shows: its alarms and buttons, the figures of 24 hours, the last deliveries."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from webhooks.ground.db.session import index_plans
from webhooks.insight import statistics
from webhooks.insight.alarms import Problem, silent_alarms, webhook_alarms
from webhooks.insight.counts import open_count
from webhooks.insight.silence import read_silences
from webhooks.models import Delivery, Webhook, permissions
from webhooks.models.filters import rows_in_order
from webhooks.operations.kinds import OF_WEBHOOK, RETRY, RUN_KINDS
from webhooks.operations.runs import may_begin
from webhooks.pages.acts import SWITCHES
from webhooks.pages.links import Link, retry_failed

# Deliveries at the top of the page, the newest.
LAST = 5

# The problems that a failed request explains.
OF_REQUESTS = (Problem.PAUSED, Problem.FAILING, Problem.BLOCKED_LANES)


class WebhookPage:
    """A webhook as one user may see it. ``with_counts`` has read the webhook."""

    def __init__(self, webhook: Any, user: Any) -> None:
        now, shown = timezone.now(), webhook.blocking or webhook.last_failed
        alarms = [*silent_alarms(webhook, read_silences([webhook]).get(webhook.pk)), *webhook_alarms(webhook)]
        self.webhook = webhook
        self.alarms = [
            (one, " · ".join(one.facts(now)), shown if one.problem in OF_REQUESTS else None) for one in alarms
        ]
        """Each with facts about it, and the key of the delivery that shows why the attempts fail, or None."""
        self.acts = _acts(webhook) if permissions.may(user, "change", webhook) else []
        """The buttons that make sense now."""
        self.runs = [
            Link(str(RUN_KINDS[kind].link), "webhook", webhook.pk, kind) for kind in OF_WEBHOOK if may_begin(user, kind)
        ]
        """The pages that begin a run of the webhook."""
        self.day = statistics.recent([webhook.pk])[0].day
        self.hours = statistics.by_hour([webhook.pk])
        self.unsent = open_count(webhook)
        self.sees_deliveries = permissions.may_view_deliveries(user)
        self.last = _last(webhook, user) if self.sees_deliveries else []
        """The newest deliveries that the user may view."""
        failed_at, succeeded_at = webhook.last_failure_at, webhook.last_success_at
        self.has_failed_last = failed_at is not None and (succeeded_at is None or failed_at > succeeded_at)
        """Whether its last attempt failed. A user who resumes it clears ``failures_in_a_row``."""
        self.was_tried = bool(self.day.attempted or self.last)
        """Whether a recent attempt or a delivery is known. The row of the webhook was read before them."""
        self.sees_skips = permissions.may_view_skips(user)
        may_retry = bool(webhook.failed) and not RETRY.missing_permissions(user)
        self.retry = retry_failed(_("Retry…"), webhook.name, webhook=webhook.pk) if may_retry else None
        """The button that retries its failed deliveries. None if there are none, or the user may not."""


def _acts(webhook: Webhook) -> list[Link]:
    ping = Link(_("Send a test"), "webhook", webhook.pk, "ping", posts=True, hint=_("Uses the saved settings."))
    if not webhook.enabled:
        return [_switch(webhook, "enable")]
    return [_switch(webhook, "resume"), ping] if webhook.is_paused else [ping, _switch(webhook, "pause")]


def _switch(webhook: Webhook, name: str) -> Link:
    switch = SWITCHES[name]
    return Link(str(switch.button), "webhook", webhook.pk, name, posts=True, hint=str(switch.hint))


def _last(webhook: Any, user: Any) -> list[Delivery]:
    of_webhook = Delivery.objects.filter(webhook=webhook.pk)
    with index_plans(Delivery.objects.db):
        newest = permissions.visible_deliveries(user, of_webhook).order_by("-pk")
        keys = list(newest.values_list("pk", flat=True)[:LAST])
    return rows_in_order(Delivery.objects.all(), keys)
