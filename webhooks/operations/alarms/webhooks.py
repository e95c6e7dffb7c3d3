"""Alarms of one webhook, from the root of its trouble to what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.network import url_policy
from webhooks.operations.alarms.alarm import Alarm, Level, Problem
from webhooks.operations.alarms.site import PATIENCE
from webhooks.operations.counts import EACH_CAP, FailedGroup, open_count
from webhooks.operations.skip_reasons import why_disabled
from webhooks.operations.wording import number, span
from webhooks.permissions.redaction import explain, label_of_kind, remedy_of


def webhook_alarms(webhook: Any, now: datetime) -> Iterator[Alarm]:
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


def _disabled(webhook: Any) -> Iterator[Alarm]:
    unsent = open_count(webhook)
    if not (webhook.disabled_reason or unsent):
        return
    if webhook.disabled_reason:
        text = _("“%(name)s” was disabled automatically: %(reason)s.")
    elif webhook.disabled_by:
        text = _("“%(name)s” was disabled by %(user)s, and its deliveries wait.")
    else:
        text = _("“%(name)s” is disabled, and its deliveries wait.")
    explanation = explain(webhook.error_kind, webhook.payload_url) if webhook.disabled_reason else None
    remedy = explanation.remedy if explanation and explanation.remedy else ""
    if not remedy:
        remedy = _("Enable it, or discard its deliveries.") if unsent else _("Enable it.")
    yield Alarm(
        level=Level.WARNING,
        problem=Problem.DISABLED,
        text=text % {"name": webhook.name, "reason": why_disabled(webhook), "user": webhook.disabled_by},
        remedy=remedy,
        webhook_id=webhook.pk,
        since=webhook.disabled_at,
        waiting=unsent,
        error_kind=webhook.error_kind if webhook.disabled_reason else "",
    )


def _unreadable(webhook: Any) -> Iterator[Alarm]:
    texts = {
        "secret": _("The secret of “%(name)s” cannot be decrypted with the keys in the settings."),
        "secret headers": _("The secret headers of “%(name)s” cannot be decrypted with the keys in the settings."),
    }
    for secret in webhook.unreadable:
        yield Alarm(
            level=Level.ERROR,
            problem=Problem.UNREADABLE,
            text=texts[secret] % {"name": webhook.name},
            remedy=_(
                "Restore the missing key in the settings of the site and of the workers, or enter the value again."
            ),
            webhook_id=webhook.pk,
            waiting=open_count(webhook),
        )


def _paused_by_user(webhook: Any) -> Alarm:
    if webhook.paused_by:
        text = _("“%(name)s” was paused by %(user)s. Its changes are stored and not sent.")
    else:
        text = _("“%(name)s” was paused by hand. Its changes are stored and not sent.")
    return Alarm(
        level=Level.WARNING,
        problem=Problem.PAUSED_BY_USER,
        text=text % {"name": webhook.name, "user": webhook.paused_by},
        remedy=_("Resume it, and what waits is sent."),
        webhook_id=webhook.pk,
        since=webhook.paused_at,
        waiting=open_count(webhook),
    )


def _paused(webhook: Any) -> Alarm:
    failures = webhook.failures_in_a_row
    text = ngettext(
        "“%(name)s” is paused after %(count)s failed attempt: %(reason)s.",
        "“%(name)s” is paused after %(count)s failed attempts: %(reason)s.",
        failures,
    )
    return Alarm(
        level=Level.WARNING,
        problem=Problem.PAUSED,
        text=text % {"name": webhook.name, "count": number(failures), "reason": webhook.last_failure},
        remedy=_why(webhook),
        webhook_id=webhook.pk,
        since=webhook.failing_since,
        waiting=open_count(webhook),
        probe_at=webhook.probe_at,
        **_receiver(webhook),
    )


def _failing(webhook: Any) -> Alarm:
    text = _("The last attempt for “%(name)s” failed: %(reason)s.")
    if webhook.is_retrying:
        text = _("The last attempt for “%(name)s” failed, and is retried automatically: %(reason)s.")
    return Alarm(
        level=Level.WARNING,
        problem=Problem.FAILING,
        text=text % {"name": webhook.name, "reason": webhook.last_failure},
        remedy=_why(webhook),
        webhook_id=webhook.pk,
        since=webhook.failing_since,
        waiting=open_count(webhook),
        **_receiver(webhook),
    )


def _blocked(webhook: Any) -> Alarm:
    text = ngettext(
        "“%(name)s”: the first delivery of %(count)s object fails, and later ones of the object wait behind it.",
        "“%(name)s”: the first deliveries of %(count)s objects fail, and later ones of the objects wait behind them.",
        webhook.blocked,
    )
    return Alarm(
        level=Level.WARNING,
        problem=Problem.BLOCKED_LANES,
        text=text % {"name": webhook.name, "count": number(webhook.blocked, EACH_CAP)},
        remedy=_("Open the first one: its page says why it fails. Retry it after the fix, or discard it."),
        webhook_id=webhook.pk,
        since=webhook.blocked_since,
        waiting=webhook.waiting,
    )


def overdue(webhook: Any, now: datetime, has_worker: bool) -> Iterator[Alarm]:
    """Deliveries that are due but not sent."""
    if not webhook.enabled or webhook.is_paused or not webhook.due_since:
        return
    seconds = (now - webhook.due_since).total_seconds()
    # Without a worker there is nothing to be patient for.
    if seconds > (PATIENCE if has_worker else 0):
        yield Alarm(
            level=Level.WARNING if has_worker else Level.ERROR,
            problem=Problem.OVERDUE,
            text=_("Deliveries of “%(name)s” are due but not sent, the oldest for %(span)s.")
            % {"name": webhook.name, "span": span(seconds)},
            remedy=_("The workers hang or cannot keep up. Restart them, or start more.") if has_worker else "",
            webhook_id=webhook.pk,
            since=webhook.due_since,
            waiting=open_count(webhook),
        )


def failed(webhook: Any, groups: Sequence[FailedGroup]) -> Iterator[Alarm]:
    """Deliveries that were given up, with their reasons."""
    if not webhook.failed:
        return
    text = ngettext(
        "%(count)s delivery of “%(name)s” failed and will not be retried automatically.",
        "%(count)s deliveries of “%(name)s” failed and will not be retried automatically.",
        webhook.failed,
    ) % {"count": number(webhook.failed, EACH_CAP), "name": webhook.name}
    known = [group for group in groups if group.kind]
    if known:
        reasons = [f"{label_of_kind(group.kind)} ({number(group.count, EACH_CAP)})" for group in known]
        text += " " + _("Reasons: %(reasons)s.") % {"reasons": ", ".join(reasons)}
    yield Alarm(
        level=Level.WARNING,
        problem=Problem.FAILED_DELIVERIES,
        text=text,
        remedy=remedy_of(known[0].kind, webhook.payload_url) if known else _("Fix the causes, then retry."),
        webhook_id=webhook.pk,
        since=min((group.since for group in groups), default=None),
        error_kind=known[0].kind if known else "",
    )


def _why(webhook: Any) -> str:
    explanation = explain(webhook.error_kind, webhook.payload_url)
    return f"{explanation.cause} {explanation.remedy}".strip()


def _receiver(webhook: Any) -> dict[str, Any]:
    return {"error_kind": webhook.error_kind, "receiver": url_policy.redacted(webhook.payload_url)}
