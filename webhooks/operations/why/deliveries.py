"""Verdicts about a change that has a delivery. No queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.conf import conf
from webhooks.db import to_utc
from webhooks.models import Delivery, State, Webhook
from webhooks.operations.why.verdicts import (
    SEE_WORKERS,
    Cause,
    Target,
    Verdict,
    at_webhook,
    disabled,
    join,
    time_of,
    turned_off,
)
from webhooks.operations.why.viewer import Viewer
from webhooks.operations.wording import exact_time, sentence
from webhooks.permissions.redaction import explain

# The heads of lanes, by webhook and lane.
Heads = Mapping[tuple[int, int | None], Delivery]


def judge_delivery(webhook: Webhook, delivery: Delivery, heads: Heads, now: datetime, viewer: Viewer) -> Verdict:
    state, reason = State(delivery.state), viewer.reason(delivery)
    match state:
        case State.SUCCEEDED:
            text = ngettext(
                "The receiver accepted it at %(time)s, after %(count)d attempt.",
                "The receiver accepted it at %(time)s, after %(count)d attempts.",
                delivery.attempt_count,
            ) % {"time": time_of(delivery.finished_at), "count": delivery.attempt_count}
            remedy = _("If the receiver does not have it, search its log for the webhook-id %(id)s.")
            found = Verdict(webhook, Cause.SENT, text, remedy % {"id": delivery.pk})
        case State.FAILED:
            text = ngettext(
                "It was given up at %(time)s, after %(count)d attempt: %(reason)s",
                "It was given up at %(time)s, after %(count)d attempts: %(reason)s",
                delivery.attempt_count,
            ) % {
                "time": time_of(delivery.finished_at),
                "count": delivery.attempt_count,
                "reason": sentence(reason),
            }
            then = _("It is not sent again by itself: retry the delivery.")
            found = Verdict(webhook, Cause.FAILED, text, _remedy(webhook, delivery.error_kind, then))
        case State.DISCARDED:
            text = _("It was discarded at %(time)s, and is not sent.") % {"time": time_of(delivery.finished_at)}
            found = Verdict(webhook, Cause.DISCARDED, text, _("To send it, retry the delivery."))
        case State.SENDING:
            remedy = _("If this lasts for more than a minute, look at the workers on the status page.")
            found = Verdict(webhook, Cause.SENDING, _("A worker is sending it now."), remedy)
        case _:
            found = _of_open_delivery(webhook, delivery, heads, now, viewer)
    if not found.target:
        found = replace(found, target=Target.DELIVERY, target_id=str(delivery.pk))
    return replace(found, delivery=delivery.pk, state=state.value)


def _of_open_delivery(webhook: Webhook, delivery: Delivery, heads: Heads, now: datetime, viewer: Viewer) -> Verdict:
    waits = _("The delivery waits.")
    if not conf.enabled:
        return turned_off(webhook, waits)
    if not webhook.enabled:
        remedy = _("Enable the webhook: this sends its deliveries.")
        return at_webhook(webhook, Cause.HELD, join(disabled(webhook), waits), remedy)
    if webhook.paused_at is not None:
        paused = _("%(user)s paused the webhook at %(time)s.") % {
            "user": webhook.paused_by or _("A user"),
            "time": exact_time(webhook.paused_at),
        }
        remedy = _("Resume the webhook: this sends its deliveries.")
        return at_webhook(webhook, Cause.PAUSED, join(paused, waits), remedy)
    if webhook.probe_at is not None:
        failing = _("The webhook is paused because its attempts fail.")
        if webhook.last_failure:
            failing = _("The webhook is paused because its attempts fail: %(reason)s") % {
                "reason": sentence(webhook.last_failure)
            }
        probed = _("It is probed again at %(time)s.") % {"time": exact_time(webhook.probe_at)}
        remedy = _remedy(webhook, webhook.error_kind, _("To send at once, resume the webhook."))
        return at_webhook(webhook, Cause.PAUSED, join(failing, probed), remedy, until=webhook.probe_at)
    if delivery.state == State.WAITING:
        return _behind(webhook, delivery, heads, now, viewer)
    return _pending(webhook, delivery, now, viewer)


def _pending(webhook: Webhook, delivery: Delivery, now: datetime, viewer: Viewer) -> Verdict:
    due = delivery.next_attempt_at
    if due is None or to_utc(due) <= now:
        text = _("It is due since %(time)s, and no worker has taken it yet.")
        since = exact_time(due or delivery.created)
        return Verdict(webhook, Cause.DUE, text % {"time": since}, str(SEE_WORKERS), Target.STATUS, until=due)
    failed = ngettext(
        "%(count)d attempt failed so far: %(reason)s",
        "%(count)d attempts failed so far: %(reason)s",
        delivery.attempt_count,
    ) % {"count": delivery.attempt_count, "reason": sentence(viewer.reason(delivery))}
    text = _("The next attempt is at %(time)s.") % {"time": exact_time(due)}
    remedy = _remedy(webhook, delivery.error_kind, _("To send it at once, retry the delivery."))
    return Verdict(webhook, Cause.RETRYING, join(failed if delivery.reason else "", text), remedy, until=due)


def _behind(webhook: Webhook, delivery: Delivery, heads: Heads, now: datetime, viewer: Viewer) -> Verdict:
    head = heads.get((webhook.pk, delivery.lane))
    if head is None:
        text = _("It waits for its turn in its lane. A worker releases it in a moment.")
        return Verdict(webhook, Cause.WAITING, text, str(SEE_WORKERS), Target.STATUS)
    if not viewer.sees(head):
        return Verdict(webhook, Cause.WAITING, _("It waits behind an earlier delivery of the same object."))
    if head.reason:
        behind = _("It waits behind the earlier delivery %(id)s, which failed: %(reason)s")
    else:
        behind = _("It waits behind the earlier delivery %(id)s of the same object.")
    text, until = behind % {"id": head.pk, "reason": sentence(viewer.reason(head))}, None
    if head.next_attempt_at and to_utc(head.next_attempt_at) > now:
        again = _("That one is tried again at %(time)s.") % {"time": exact_time(head.next_attempt_at)}
        text = join(text, again)
    since = head.queued.failing_since
    if since is not None:
        begun = max(to_utc(since), to_utc(webhook.resumed_at)) if webhook.resumed_at else to_utc(since)
        until = begun + timedelta(seconds=conf.lane_wait)
        text = join(text, _("The wait ends at %(time)s at the latest.") % {"time": exact_time(until)})
    remedy = str(SEE_WORKERS)
    if head.reason:
        then = _("To end the wait at once, retry or discard that delivery.")
        remedy = _remedy(webhook, head.error_kind, then)
    return Verdict(webhook, Cause.WAITING, text, remedy, Target.DELIVERY, str(head.pk), behind=head.pk, until=until)


def _remedy(webhook: Webhook, error_kind: str, then: str) -> str:
    """The remedy of a failure, and another sentence."""
    return join(explain(error_kind, webhook.payload_url).remedy, then)
