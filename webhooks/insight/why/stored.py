"""Verdicts about a change that is stored: by its delivery, its failed Event, its skip, or none of them. No queries."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webhooks.ground.conf import conf
from webhooks.ground.db import to_db_time, to_utc
from webhooks.ground.text import last_line
from webhooks.insight.why.causes import (
    ADD_TO_WEBHOOK,
    ENABLE,
    RECOVER_SKIPPED,
    SAVE_AGAIN,
    SEE_WORKERS,
    Cause,
    Target,
    Verdict,
    changed_later,
    disabled,
    join,
    later,
    not_chosen,
    retention,
    turned_off,
)
from webhooks.insight.why.rows import Deliveries, StoredChange, Viewer, models_of
from webhooks.insight.wording import exact_time, sentence, skip_reason
from webhooks.models import Action, Delivery, Event, Skip, State, Webhook
from webhooks.models.event import PING
from webhooks.models.permissions.redaction import explain, last_failure
from webhooks.models.skip import Rule

GONE = gettext_lazy("The object is deleted and cannot be saved again: correct the receiver by hand.")


def judge(webhook: Webhook, change: StoredChange, deliveries: Deliveries, viewer: Viewer) -> Verdict:
    """The verdict for a stored change. Without permission for the row behind it, the user gets the cause alone."""
    wanted = [event for event in change.events if webhook.pk in event.webhook_ids]
    others = [event for event in change.events if event not in wanted]
    # A backfill sent the webhook an Event that it did not want when it happened.
    backfilled = next((event for event in others if (event.pk, webhook.pk) in deliveries.by_event), None)
    event = backfilled or next(iter(wanted), None)
    delivery = deliveries.by_event.get((event.pk, webhook.pk)) if event else None
    skip = next((skip for skip in change.skips if skip.webhook_id == webhook.pk), None)
    seen: Event | Skip | Delivery | None
    if skip and not backfilled and (event is None or event.error or event.timestamp <= skip.timestamp):
        verdict, seen = _of_skip(webhook, skip, viewer), skip
    elif event is None:
        verdict, seen = _without_rows(webhook, change), None
    elif delivery:
        verdict, seen = _of_delivery(webhook, delivery, deliveries, viewer), delivery
    else:
        verdict, seen = _of_event(webhook, event), event
    shown = change if viewer.sees_actor(change) else replace(change, username="", request_id="")
    verdict = replace(verdict, change=shown, event=event.pk if event else None)
    return verdict if seen is None or viewer.sees(seen) else verdict.hide(f"rq_webhooks.view_{seen._meta.model_name}")


# By a delivery


def _of_delivery(webhook: Webhook, delivery: Delivery, deliveries: Deliveries, viewer: Viewer) -> Verdict:
    state, count = State(delivery.state), delivery.attempt_count
    reason = sentence(viewer.reason(delivery))
    values = {"id": delivery.pk, "time": exact_time(delivery.finished_at), "count": count, "reason": reason}
    match state:
        case State.SUCCEEDED:
            text = ngettext(
                "The receiver accepted it at %(time)s, after %(count)d attempt.",
                "The receiver accepted it at %(time)s, after %(count)d attempts.",
                count,
            )
            remedy = _("If the receiver does not have it, search its log for the webhook-id %(id)s.")
            verdict = Cause.SENT.verdict(webhook, text % values, remedy % values)
        case State.FAILED:
            text = ngettext(
                "It was given up at %(time)s, after %(count)d attempt: %(reason)s",
                "It was given up at %(time)s, after %(count)d attempts: %(reason)s",
                count,
            )
            then = _("It is not sent again by itself: retry the delivery.")
            verdict = Cause.FAILED.verdict(webhook, text % values, _remedy(webhook, delivery.error_kind, then))
        case State.DISCARDED:
            text = _("It was discarded at %(time)s, and is not sent.") % values
            verdict = Cause.DISCARDED.verdict(webhook, text, _("To send it, retry the delivery."))
        case State.SENDING:
            remedy = _("If this lasts for more than a minute, look at the workers on the status page.")
            verdict = Cause.SENDING.verdict(webhook, _("A worker is sending it now."), remedy)
        case _:
            verdict = _of_open_delivery(webhook, delivery, deliveries, viewer)
    return replace(verdict, delivery=delivery.pk, state=state.value)


def _of_open_delivery(webhook: Webhook, delivery: Delivery, deliveries: Deliveries, viewer: Viewer) -> Verdict:
    waits = _("The delivery waits.")
    if not conf.enabled:
        return turned_off(webhook, waits)
    if not webhook.enabled:
        kind = webhook.error_kind if webhook.disabled_reason else ""
        remedy = _remedy(webhook, kind, _("Enable the webhook: this sends its deliveries."))
        return Cause.HELD.verdict(webhook, join(disabled(webhook), waits), remedy)
    if webhook.paused_at is not None:
        paused = {"user": webhook.paused_by or _("A user"), "time": exact_time(webhook.paused_at)}
        text = join(_("%(user)s paused the webhook at %(time)s.") % paused, waits)
        return Cause.PAUSED.verdict(webhook, text, _("Resume the webhook: this sends its deliveries."))
    if webhook.probe_at is not None:
        failing = _("The webhook is paused because its attempts fail: %(reason)s")
        probed, until = _("The next probe is due."), None
        if to_utc(webhook.probe_at) > datetime.now(UTC):
            probed, until = _("It is probed again at %(time)s."), webhook.probe_at
        reason, time = sentence(last_failure(webhook)), exact_time(webhook.probe_at)
        text = join(failing % {"reason": reason}, probed % {"time": time})
        then = _("To send at once, resume the webhook.")
        if _is_between_attempts(delivery) and not delivery.in_lane:  # to resume would not change its time
            then = _("To send it at once, retry the delivery.")
        return Cause.PAUSED.verdict(webhook, text, _remedy(webhook, webhook.error_kind, then), until=until)
    if delivery.state == State.WAITING:
        return _behind(webhook, delivery, deliveries, viewer)
    return _pending(webhook, delivery, viewer)


def _is_between_attempts(delivery: Delivery) -> bool:
    due = delivery.next_attempt_at
    return due is not None and to_utc(due) > datetime.now(UTC)


def _pending(webhook: Webhook, delivery: Delivery, viewer: Viewer) -> Verdict:
    due = delivery.next_attempt_at
    if not _is_between_attempts(delivery):
        text = _("It is due since %(time)s, and no worker has taken it yet.")
        since = exact_time(due or delivery.created)
        return Cause.DUE.verdict(webhook, text % {"time": since}, SEE_WORKERS, until=due)
    failed = ngettext(
        "%(count)d attempt failed so far: %(reason)s",
        "%(count)d attempts failed so far: %(reason)s",
        delivery.attempt_count,
    ) % {"count": delivery.attempt_count, "reason": sentence(viewer.reason(delivery))}
    text = _("The next attempt is at %(time)s.") % {"time": exact_time(due)}
    remedy = _remedy(webhook, delivery.error_kind, _("To send it at once, retry the delivery."))
    return Cause.RETRYING.verdict(webhook, join(failed if delivery.reason else "", text), remedy, until=due)


def _behind(webhook: Webhook, delivery: Delivery, deliveries: Deliveries, viewer: Viewer) -> Verdict:
    head = deliveries.heads.get((webhook.pk, delivery.lane))
    if head is None:
        text = _("It waits for its turn in its lane. A worker releases it in a moment.")
        return Cause.WAITING.verdict(webhook, text, SEE_WORKERS, target=Target.STATUS)
    if not viewer.sees(head):
        return Cause.WAITING.verdict(webhook, _("It waits behind an earlier delivery of the same object."))
    text, remedy, until = _("It waits behind the earlier delivery %(id)s of the same object."), str(SEE_WORKERS), None
    if head.reason:
        text = _("It waits behind the earlier delivery %(id)s, which failed: %(reason)s")
        then = _("To end the wait at once, retry or discard that delivery.")
        remedy = _remedy(webhook, head.error_kind, then)
    text %= {"id": head.pk, "reason": sentence(viewer.reason(head))}
    if _is_between_attempts(head):
        again = _("That one is tried again at %(time)s.") % {"time": exact_time(head.next_attempt_at)}
        text = join(text, again)
    since = head.queued.failing_since
    if since is not None:
        begun = max(to_utc(since), to_utc(webhook.resumed_at)) if webhook.resumed_at else to_utc(since)
        until = to_db_time(begun + timedelta(seconds=conf.lane_wait))
        text = join(text, _("The wait ends at %(time)s at the latest.") % {"time": exact_time(until)})
    return Cause.WAITING.verdict(webhook, text, remedy, behind=head.pk, until=until)


def _remedy(webhook: Webhook, error_kind: str, then: str) -> str:
    """The remedy of a failure, and another sentence."""
    return join(explain(error_kind, webhook.payload_url).remedy, then)


# By an Event


def _of_event(webhook: Webhook, event: Event) -> Verdict:
    if event.error:
        return _of_failed_event(webhook, event)
    if hasattr(event, "undispatched"):
        if not conf.enabled:
            return turned_off(webhook, _("Event %(id)s waits.") % {"id": event.pk})
        text = _("Event %(id)s is stored since %(time)s, and no worker has taken it yet.")
        text %= {"id": event.pk, "time": exact_time(event.timestamp)}
        return Cause.NOT_DISPATCHED.verdict(webhook, text, SEE_WORKERS)
    text = _("Event %(id)s was for this webhook, but its delivery is not stored any more.") % {"id": event.pk}
    return Cause.DELETED.verdict(webhook, join(text, retention()), _again(event.action))


def _of_failed_event(webhook: Webhook, event: Event) -> Verdict:
    if event.is_loop_protected:
        advice = _("Let the webhook ignore the user of the receiver that writes back.")
        rule = Rule.LOOP_PROTECTION.value
        return Cause.SKIPPED.verdict(webhook, event.error, advice, target=Target.EVENT, rule=rule)
    error = last_line(event.error)
    values = {"id": event.pk, "time": exact_time(event.replayed_at), "error": sentence(error)}
    if event.replayed_at:
        text = _(
            "It failed, and was replayed at %(time)s. The webhook did not want the object as it was then. The failure "
            "was: %(error)s"
        )
        return Cause.EVENT_FAILED.verdict(webhook, text % values, _again(event.action), error=error)
    if event.failure == "filter_error":
        text = _("The conditions of the webhook failed, so nothing was sent: %(error)s")
        remedy = _("Correct the conditions, then replay event %(id)s.")
    else:
        text = _("The data of the object could not be written, so nothing was sent: %(error)s")
        remedy = _("Correct the serializer, then replay event %(id)s.")
    return Cause.EVENT_FAILED.verdict(webhook, text % values, remedy % values, error=error)


# By a skip


def _of_skip(webhook: Webhook, skip: Skip, viewer: Viewer) -> Verdict:
    text = _("The webhook skipped it at %(time)s.") % {"time": exact_time(skip.timestamp)}
    text = join(text, skip_reason(skip, viewer.shows_actual), changed_later(webhook, skip.timestamp))
    remedy = rule_remedy(webhook, skip, RECOVER_SKIPPED if skip.action in (Action.CREATED, Action.UPDATED) else "")
    detail = skip.shown_detail(viewer.shows_actual)
    return Cause.SKIPPED.verdict(webhook, text, remedy, rule=skip.rule, detail=detail)


def rule_remedy(webhook: Webhook, skip: Skip, again: Any = "") -> str:
    """How to get a change that a rule skips. ``again`` says how to send the object of a skip that is stored."""
    if skip.rule == Rule.LOOP_PROTECTION:
        return _("Let the webhook ignore the user of the receiver that writes back. To send this change, replay it.")
    if edit := str(Rule(skip.rule).edit) if skip.rule in Rule else "":
        first = edit % {"user": skip.username}
    else:
        first = _("The webhook is enabled now.") if webhook.enabled else str(ENABLE)
    return join(first, again or _again(skip.action))


def _again(action: str) -> str:
    """How to send something in place of a change that is not sent."""
    if action not in Action:
        return _("Send the event again.") if action != PING else _("Send another test.")
    return str(GONE if action == Action.DELETED else SAVE_AGAIN)


# Without a row for the webhook


def _without_rows(webhook: Webhook, change: StoredChange) -> Verdict:
    """The change left nothing for this webhook."""
    again = _again(change.action)
    if text := not_chosen(webhook, change.action, change.object_type, models_of(webhook)):
        text = join(text, changed_later(webhook, change.timestamp))
        remedy = "" if change.action == PING else join(ADD_TO_WEBHOOK, again)
        return Cause.NOT_CHOSEN.verdict(webhook, text, remedy)
    if not webhook.enabled and webhook.disabled_at and to_utc(webhook.disabled_at) <= to_utc(change.timestamp):
        text = _("The change came later, at %(time)s.") % {"time": exact_time(change.timestamp)}
        text, remedy = join(disabled(webhook), text), join(ENABLE, again)
        return Cause.SKIPPED.verdict(webhook, text, remedy, rule=Rule.DISABLED.value)
    if edited := later(webhook, change.timestamp):
        cause, text = edited
        return cause.verdict(webhook, text, again)
    text = _("The webhook wants such changes, and nothing is stored of this one.")
    return Cause.UNKNOWN.verdict(webhook, join(text, _why_no_skip()), again)


def _why_no_skip() -> str:
    if not conf.keeps_skips:
        return _("No skips are stored, because SKIP_DAYS or SKIPS_PER_WEBHOOK is 0.")
    text = _("Perhaps the webhook skipped it: skips are deleted after %(days)g days, or if there are too many.")
    return text % {"days": conf.skip_days}
