"""Retry, resend and discard deliveries, and how to send the ones that need no retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import permissions
from webhooks.insight import history
from webhooks.insight.wording import number
from webhooks.models import Delivery, QueuedDelivery, Webhook
from webhooks.models.columns import USERNAME_LENGTH
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.queue import OPEN_STATES
from webhooks.text import clean, username_of
from webhooks.workers import jobs

# Deliveries that one call changes at most, more than a page shows: workers wait for these rows. Runs change more.
MAX_CHANGED = 1000

# Deliveries of a webhook that are counted at most, to say how many it holds back.
MOST_COUNTED = 10_000

# Who asked, if no user did: a command or other code.
PROGRAM = "a program"


def retry(deliveries: DeliveryQuerySet, user: Any = None) -> int:
    """Send failed and discarded deliveries again, in their lanes. Pending ones get their next attempt now.

    A paused webhook is probed at once. A ``user`` gets entries in the history. Returns the number of deliveries, at
    most ``MAX_CHANGED``.
    """
    return _change(deliveries.retriable(), lambda chosen: chosen.retry(name_of(user)), user, "Retried.", probes=True)


def resend(deliveries: DeliveryQuerySet, user: Any = None) -> int:
    """Send finished deliveries again, including succeeded ones, in their lanes. Otherwise as ``retry``."""
    return _change(deliveries.resendable(), lambda chosen: chosen.resend(name_of(user)), user, "Resent.", probes=True)


def discard(deliveries: DeliveryQuerySet, user: Any = None) -> int:
    """End deliveries without sending them, unless they are being sent. ``user`` and the result are as for ``retry``."""
    return _change(deliveries.discardable(), DeliveryQuerySet.discard, user, "Discarded.", probes=False)


def name_of(user: Any) -> str:
    """The name of a user for ``Attempt.requested_by``. Never empty: it marks deliveries sent again by hand."""
    return clean(username_of(user), USERNAME_LENGTH) or PROGRAM


def _change(
    deliveries: DeliveryQuerySet, change: Callable[[DeliveryQuerySet], int], user: Any, done: str, probes: bool
) -> int:
    """The first ones of each lane come first, if there are too many."""
    webhooks = dict(deliveries.order_by("event_id", "pk").values_list("pk", "webhook")[:MAX_CHANGED])
    chosen = Delivery.objects.filter(pk__in=webhooks.keys())
    changed = change(chosen)
    if probes:
        Webhook.objects.filter(pk__in=set(webhooks.values())).probe()
    if user is not None and changed:
        history.record(user, list(Delivery.objects.for_list().filter(pk__in=webhooks.keys())), history.CHANGE, done)
    jobs.wake_on_commit()
    return changed


def held_back(webhook_id: Any, user: Any) -> str:
    """How to send deliveries that need no retry, because only their webhook holds them back; empty without any that the
    user may view."""
    every = user is None  # a command
    webhooks: Any = Webhook.objects if every else permissions.visible_webhooks(user)
    queue = QueuedDelivery.objects.all() if every else permissions.visible_queue(user)
    webhook = webhooks.filter(pk=webhook_id).first()
    waits = queue.filter(webhook=webhook_id).in_states(*OPEN_STATES)
    if webhook is None or webhook.is_sendable or not (count := waits[: MOST_COUNTED + 1].count()):
        return ""
    if webhook.enabled:
        text = ngettext(
            "%(count)s delivery waits, because the webhook is paused. Resume the webhook: this sends it.",
            "%(count)s deliveries wait, because the webhook is paused. Resume the webhook: this sends them.",
            count,
        )
    else:
        text = ngettext(
            "%(count)s delivery waits, because the webhook is disabled. Enable the webhook: this sends it.",
            "%(count)s deliveries wait, because the webhook is disabled. Enable the webhook: this sends them.",
            count,
        )
    is_all = count <= MOST_COUNTED
    return text % {"count": number(count) if is_all else _("More than %(count)s") % {"count": number(MOST_COUNTED)}}
