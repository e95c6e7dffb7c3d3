"""Alarms of one webhook, from the root of its trouble to what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.ground.security import url_policy
from webhooks.insight.alarms.alarm import Alarm, Level, Problem
from webhooks.insight.alarms.site import PATIENCE
from webhooks.insight.counts import EACH_CAP, FailedGroup, open_count
from webhooks.insight.silence import Silence
from webhooks.insight.wording import number, registration_remedy, sentence, span, why_disabled
from webhooks.models.permissions.redaction import explain, label_of_kind, last_failure
from webhooks.models.skip import Rule


def webhook_alarms(webhook: Any) -> Iterator[Alarm]:
    """The alarms of one webhook, read by ``with_counts``: disabled, unreadable secrets, paused, failing, blocked."""
    if not webhook.enabled:
        yield from _disabled(webhook)
        return
    if webhook.unreadable:
        yield from _unreadable(webhook)
    if webhook.paused_at:
        yield _paused_by_user(webhook)
    elif webhook.is_paused:
        yield _paused(webhook)
    elif webhook.failures_in_a_row and (webhook.is_retrying or webhook.failed):
        yield _failing(webhook)
    if webhook.blocked and webhook.waiting:
        yield _blocked(webhook)


def silent_alarms(webhook: Any, silence: Silence | None) -> Iterator[Alarm]:
    """The alarms about an enabled webhook that sends nothing of some changes."""
    if silence is None or not webhook.enabled:
        return
    if names := [*silence.models, *silence.events]:
        text = ngettext(
            "“%(name)s” sends nothing of %(models)s: it is not registered, so its changes are not recorded.",
            "“%(name)s” sends nothing of %(models)s: they are not registered, so their changes are not recorded.",
            len(names),
        ) % {"name": webhook.name, "models": ", ".join(names)}
        remedy = registration_remedy(silence.models, silence.events)
        yield _alarm(webhook, Problem.NOT_REGISTERED, text, remedy, level=Level.ERROR, waiting=0)
    if skip := silence.skipping:
        text = _("“%(name)s” has skipped each of the last %(count)s changes, by one rule: %(rule)s.")
        text %= {"name": webhook.name, "count": number(skip.count, EACH_CAP), "rule": Rule(skip.rule).label}
        if skip.edit:
            text += " " + _("The last edit before: %(edit)s") % {"edit": sentence(skip.edit)}
        remedy = _(
            "See in its skipped changes what the rule wanted and found. If the rule is wrong, correct it. Then “Recover"
            " skipped…” sends the objects as they are now."
        )
        yield _alarm(webhook, Problem.SKIPS_ALL, text, remedy, since=skip.since, waiting=0)


def _alarm(webhook: Any, problem: Problem, text: str, remedy: str, **more: Any) -> Alarm:
    """An alarm about the webhook, with the number of its open deliveries. ``more`` has other attributes."""
    common = {"webhook_id": webhook.pk, "waiting": open_count(webhook)}
    return Alarm(problem, text, remedy, **common | more)


def _disabled(webhook: Any) -> Iterator[Alarm]:
    unsent = open_count(webhook)
    if not (webhook.disabled_reason or unsent):
        return
    text, remedy, error_kind = _("“%(name)s” is disabled, and its deliveries wait."), "", ""
    if webhook.disabled_reason:
        text, error_kind = _("“%(name)s” was disabled automatically: %(reason)s."), webhook.error_kind
        remedy = explain(error_kind, webhook.payload_url).remedy
    elif webhook.disabled_by:
        text = _("“%(name)s” was disabled by %(user)s, and its deliveries wait.")
    text %= {"name": webhook.name, "reason": why_disabled(webhook), "user": webhook.disabled_by}
    remedy = remedy or (_("Enable it, or discard its deliveries.") if unsent else _("Enable it."))
    if conf.keeps_skips:
        remedy += " " + _(
            "Changes meanwhile are not recorded. When it is enabled again, “Recover skipped…” sends their objects as "
            "they are now."
        )
    yield _alarm(webhook, Problem.DISABLED, text, remedy, since=webhook.disabled_at, error_kind=error_kind)


def _unreadable(webhook: Any) -> Iterator[Alarm]:
    texts = {
        "secret": _("The secret of “%(name)s” cannot be decrypted with the keys in the settings."),
        "secret headers": _("The secret headers of “%(name)s” cannot be decrypted with the keys in the settings."),
    }
    remedy = _("Restore the missing key in the settings of the site and of the workers, or enter the value again.")
    for secret in webhook.unreadable:
        text = texts[secret] % {"name": webhook.name}
        yield _alarm(webhook, Problem.UNREADABLE, text, remedy, level=Level.ERROR)


def _paused_by_user(webhook: Any) -> Alarm:
    text = _("“%(name)s” was paused by hand. Its changes are stored and not sent.")
    if webhook.paused_by:
        text = _("“%(name)s” was paused by %(user)s. Its changes are stored and not sent.")
    text %= {"name": webhook.name, "user": webhook.paused_by}
    remedy = _("Resume it, and what waits is sent.")
    return _alarm(webhook, Problem.PAUSED_BY_USER, text, remedy, since=webhook.paused_at)


def _paused(webhook: Any) -> Alarm:
    failures = webhook.failures_in_a_row
    text = ngettext(
        "“%(name)s” is paused after %(count)s failed attempt: %(reason)s.",
        "“%(name)s” is paused after %(count)s failed attempts: %(reason)s.",
        failures,
    ) % {"name": webhook.name, "count": number(failures), "reason": last_failure(webhook)}
    return _of_receiver(webhook, Problem.PAUSED, text, probe_at=webhook.probe_at)


def _failing(webhook: Any) -> Alarm:
    text = _("The last attempt for “%(name)s” failed: %(reason)s.")
    if webhook.is_retrying:
        text = _("The last attempt for “%(name)s” failed, and is retried automatically: %(reason)s.")
    return _of_receiver(webhook, Problem.FAILING, text % {"name": webhook.name, "reason": last_failure(webhook)})


def _of_receiver(webhook: Any, problem: Problem, text: str, **more: Any) -> Alarm:
    """An alarm about the receiver, with the cause of the last failure."""
    failed_at = webhook.last_failure_at
    is_changed = failed_at is not None and to_utc(webhook.last_updated) > to_utc(failed_at)
    # Perhaps the URL was changed: the receiver of now has not failed.
    explanation = explain(webhook.error_kind, "" if is_changed else webhook.payload_url)
    changed = _("The webhook was changed after that: send a test to see whether it works now.") if is_changed else ""
    remedy = " ".join(filter(None, (explanation.cause, explanation.remedy, changed)))
    receiver, kind = url_policy.redacted(webhook.payload_url), webhook.error_kind
    since = webhook.failing_since
    return _alarm(webhook, problem, text, remedy, since=since, error_kind=kind, receiver=receiver, **more)


def _blocked(webhook: Any) -> Alarm:
    text = ngettext(
        "“%(name)s”: the first delivery of %(count)s object fails, and later ones of the object wait behind it.",
        "“%(name)s”: the first deliveries of %(count)s objects fail, and later ones of the objects wait behind them.",
        webhook.blocked,
    ) % {"name": webhook.name, "count": number(webhook.blocked, EACH_CAP)}
    remedy = _("Open the first one: its page says why it fails. Retry it after the fix, or discard it.")
    since, waiting = webhook.blocked_since, webhook.waiting
    return _alarm(webhook, Problem.BLOCKED_LANES, text, remedy, since=since, waiting=waiting)


def overdue(webhook: Any, now: datetime, has_worker: bool) -> Iterator[Alarm]:
    """Deliveries that are due but not sent."""
    if not webhook.enabled or webhook.is_paused or not webhook.due_since:
        return
    seconds = (now - webhook.due_since).total_seconds()
    # Without a worker there is nothing to be patient for.
    if seconds > (PATIENCE if has_worker else 0):
        text = _("Deliveries of “%(name)s” are due but not sent, the oldest for %(span)s.")
        text %= {"name": webhook.name, "span": span(seconds)}
        remedy = _("The workers hang or cannot keep up. Restart them, or start more.") if has_worker else ""
        level = Level.WARNING if has_worker else Level.ERROR
        yield _alarm(webhook, Problem.OVERDUE, text, remedy, level=level, since=webhook.due_since)


def failed(webhook: Any, groups: Sequence[FailedGroup]) -> Iterator[Alarm]:
    """Deliveries that were given up, with their reasons. A note if all are superseded: no retry takes those."""
    superseded = sum(group.count for group in groups if not group.is_current)
    groups = [group for group in groups if group.is_current]
    if superseded and not groups:
        text = ngettext(
            "%(count)s failed delivery of “%(name)s” is superseded: its receiver has a later state of the object.",
            "%(count)s failed deliveries of “%(name)s” are superseded: its receiver has later states of the objects.",
            superseded,
        ) % {"count": number(superseded, EACH_CAP), "name": webhook.name}
        remedy = _("You need not do anything: a retry of many leaves them out.")
        yield _alarm(webhook, Problem.SUPERSEDED, text, remedy, level=Level.NOTE, waiting=0)
    count = webhook.failed - superseded
    if count <= 0:
        return
    text = ngettext(
        "%(count)s delivery of “%(name)s” failed and will not be retried automatically.",
        "%(count)s deliveries of “%(name)s” failed and will not be retried automatically.",
        count,
    ) % {"count": number(count, EACH_CAP), "name": webhook.name}
    kind, remedy = "", _("Open one of them to see why it failed. Correct the cause, then retry them.")
    if known := [group for group in groups if group.kind]:
        reasons = [f"{label_of_kind(group.kind)} ({number(group.count, EACH_CAP)})" for group in known]
        text += " " + _("Reasons: %(reasons)s.") % {"reasons": ", ".join(reasons)}
        kind = known[0].kind
        remedy = explain(kind, webhook.payload_url).remedy
    since = min((group.since for group in groups), default=None)
    yield _alarm(webhook, Problem.FAILED_DELIVERIES, text, remedy, since=since, error_kind=kind, waiting=0)
