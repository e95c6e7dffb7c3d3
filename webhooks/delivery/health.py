"""Pause a webhook that keeps failing, probe it, resume it, and disable it in the end."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from django.core.mail import mail_admins, send_mail
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from webhooks.conf import conf
from webhooks.db import DatabaseNow, to_utc
from webhooks.logs import get_logger
from webhooks.models import Webhook
from webhooks.network.outcome import NO_HTTP, WORKER_ENDED, Outcome, error_kind

logger = get_logger(__name__)

# Another probe may begin after this many seconds, more than any attempt may take.
PROBE_SECONDS = 180

# The successes of a healthy webhook are written this often (seconds), so that its row is no bottleneck.
SUCCESS_NOTED_EVERY = 5


@dataclass(frozen=True)
class Health:
    """The failures of a webhook since its last success. ``probe_at`` is set while it is paused."""

    failures_in_a_row: int
    failing_since: datetime | None
    probe_at: datetime | None
    probes: int
    disabled_reason: str = ""


def begin_probe(webhook_id: int) -> bool:
    """Whether this worker may send the one delivery that probes a paused webhook."""
    due = Webhook.objects.paused().filter(pk=webhook_id, probe_at__lte=DatabaseNow())
    return bool(due.update(probe_at=DatabaseNow(PROBE_SECONDS), probes=F("probes") + 1))


def cancel_probes(webhook_ids: Collection[int]) -> None:
    """Undo ``begin_probe`` for webhooks without a delivery that could be claimed."""
    if webhook_ids:
        begun = Webhook.objects.paused().filter(pk__in=webhook_ids, probes__gt=0)
        begun.update(probe_at=DatabaseNow(), probes=F("probes") - 1)


def update_all(outcomes: Mapping[Webhook, Sequence[Outcome]]) -> set[int]:
    """Update the health of webhooks after attempts, given in their order. Call it in a transaction.

    Returns the ids of the webhooks that are paused or disabled now.
    """
    # By key, so that workers that update the same webhooks cannot deadlock.
    in_order = sorted(outcomes, key=lambda webhook: webhook.pk)
    return {webhook.pk for webhook in in_order if not update(webhook, outcomes[webhook])}


def update(webhook: Webhook, outcomes: Sequence[Outcome]) -> bool:
    """The same for one webhook, which may be some moments old. Returns whether it may be sent to."""
    if outcomes[-1].succeeded and not any(outcome.is_gone for outcome in outcomes):
        if _is_news(webhook) or not all(outcome.succeeded for outcome in outcomes):
            _recover(webhook.pk)
        return True
    locked = Webhook.objects.select_for_update(no_key=True).annotate(now=DatabaseNow())
    fresh = locked.filter(pk=webhook.pk).first()
    if fresh is None or not fresh.enabled:
        return False
    last = next(outcome for outcome in reversed(outcomes) if not outcome.succeeded)
    reason = _public_reason(webhook, last)
    before = Health(fresh.failures_in_a_row, fresh.failing_since, fresh.probe_at, fresh.probes)
    after = after_failures(before, outcomes, fresh.now, reason)
    _write(fresh, after, reason)
    return after.probe_at is None and not after.disabled_reason


def after_failures(health: Health, outcomes: Sequence[Outcome], now: datetime, reason: str = "") -> Health:
    """A webhook's health after outcomes with at least one failure. ``reason`` belongs to the last failure. Pure."""
    trailing = len(list(takewhile(lambda outcome: not outcome.succeeded, reversed(outcomes))))
    if trailing < len(outcomes):  # a success came between
        health = Health(0, None, None, 0)
    failures, since, probe_at = health.failures_in_a_row + trailing, health.failing_since or now, health.probe_at
    if failures >= conf.pause_after:
        wait = conf.probe_schedule[min(health.probes, len(conf.probe_schedule) - 1)]
        probe_at = now + timedelta(seconds=wait)
    disabled_reason = ""
    if any(outcome.is_gone for outcome in outcomes):
        disabled_reason = "the receiver answered 410 Gone: it wants no more deliveries"
    elif (now - since).total_seconds() > conf.disable_after:
        disabled_reason = f"every attempt since {to_utc(since):%Y-%m-%d %H:%M} UTC failed, the last one with: {reason}"
    return Health(failures, since, probe_at, health.probes, disabled_reason)


def _public_reason(webhook: Webhook, outcome: Outcome) -> str:
    """Why an attempt failed, without data of objects, which templates and receivers may repeat: every user who can view
    the webhook reads it."""
    was_sent = outcome.status is not None or outcome.timed_out or outcome.reason.startswith((NO_HTTP, WORKER_ENDED))
    if was_sent or not webhook.has_templates:
        return error_kind(outcome.reason)
    return "no request could be made or sent: see its deliveries for the reason"


def _is_news(webhook: Webhook) -> bool:
    """Whether a success may change the row. Judged by this worker's clock, which may be wrong: ``_recover`` asks the
    database."""
    age = (timezone.now() - webhook.last_success_at).total_seconds() if webhook.last_success_at else -1
    return bool(webhook.failures_in_a_row) or not 0 <= age < SUCCESS_NOTED_EVERY


def _recover(webhook_id: int) -> None:
    stale = Q(last_success_at__lt=DatabaseNow(-SUCCESS_NOTED_EVERY)) | Q(last_success_at__gt=DatabaseNow())
    news = Q(failures_in_a_row__gt=0) | Q(last_success_at=None) | stale
    Webhook.objects.filter(news, pk=webhook_id).record_recovery(last_success_at=DatabaseNow())


def _write(webhook: Webhook, health: Health, reason: str) -> None:
    resumed = {"resumed_at": DatabaseNow()} if webhook.probe_at and not health.probe_at else {}
    Webhook.objects.filter(pk=webhook.pk).update(
        failures_in_a_row=health.failures_in_a_row,
        failing_since=health.failing_since,
        probe_at=health.probe_at,
        probes=health.probes,
        enabled=not health.disabled_reason,
        disabled_reason=health.disabled_reason,
        last_failure_at=DatabaseNow(),
        last_failure=reason,
        **resumed,
    )
    if health.disabled_reason:
        logger.error("Webhook %s was disabled: %s", webhook, health.disabled_reason)

        def send_mail_in_thread() -> None:  # a mail server may be slow, and the worker has leases to renew
            arguments = (webhook.name, health.disabled_reason)
            threading.Thread(target=_send_mail, args=arguments, name="webhooks-mail", daemon=True).start()

        transaction.on_commit(send_mail_in_thread, using=Webhook.objects.db, robust=True)
    elif health.probe_at and not webhook.probe_at:
        logger.warning("Webhook %s is paused: %s", webhook, reason)


def _send_mail(name: str, reason: str) -> None:
    subject = f"Webhook {name} was disabled"
    text = (
        f"The webhook {name} was disabled: {reason}.\n\nIts deliveries are kept. Fix the cause, then enable the "
        "webhook in the admin to send them, or discard them there."
    )
    try:
        if conf.notify:
            send_mail(subject, text, None, list(conf.notify))
        else:
            mail_admins(subject, text)
    except Exception:
        logger.exception("The e-mail that says that webhook %s was disabled could not be sent", name)
