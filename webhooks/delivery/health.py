"""Pauses a webhook whose attempts keep failing, probes it, resumes it, and in the end disables it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

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

# A probe has this many seconds, more than any attempt may take, before another worker makes another one.
PROBE_SECONDS = 180

# Successes of a healthy webhook are noted this often (seconds): its row is not to become the bottleneck.
SUCCESS_NOTED_EVERY = 5


@dataclass(frozen=True)
class Health:
    """What a webhook's failures in a row have come to. ``probe_at`` is set while it is paused."""

    failures_in_a_row: int
    failing_since: datetime | None
    probe_at: datetime | None
    probes: int
    disabled_reason: str = ""


def begin_probe(webhook_id: int) -> bool:
    """Whether this worker may send a paused webhook the one delivery that its probe is."""
    due = Webhook.objects.paused().filter(pk=webhook_id, probe_at__lte=DatabaseNow())
    return bool(due.update(probe_at=DatabaseNow(PROBE_SECONDS), probes=F("probes") + 1))


def take_back_probes(webhook_ids: Collection[int]) -> None:
    """Those that were begun, and for which nothing could be claimed: they are due as before, and do not count."""
    if webhook_ids:
        begun = Webhook.objects.paused().filter(pk__in=webhook_ids, probes__gt=0)
        begun.update(probe_at=DatabaseNow(), probes=F("probes") - 1)


def note(webhook: Webhook, outcomes: Sequence[Outcome]) -> bool:
    """Take notice of attempts, in their order; ``webhook`` may be some moments old. Returns whether it may be sent
    to. Call it in a transaction."""
    if outcomes[-1].succeeded and not any(outcome.is_gone for outcome in outcomes):
        if _is_news(webhook) or any(not outcome.succeeded for outcome in outcomes):
            _recovered(webhook.pk)
        return True
    outcomes = [replace(outcome, reason=_in_general(webhook, outcome)) for outcome in outcomes]
    locked = Webhook.objects.select_for_update(no_key=True).annotate(now=DatabaseNow())
    fresh = locked.filter(pk=webhook.pk).first()
    if fresh is None or not fresh.enabled:
        return False
    before = Health(fresh.failures_in_a_row, fresh.failing_since, fresh.probe_at, fresh.probes)
    after = after_failures(before, outcomes, fresh.now)
    _write(fresh, after, next(outcome for outcome in reversed(outcomes) if not outcome.succeeded))
    return after.probe_at is None and not after.disabled_reason


def _in_general(webhook: Webhook, outcome: Outcome) -> str:
    """Why an attempt failed, without anything of an object, from templates or from what a receiver repeats: all who
    may see the webhook read it, whatever else they may see."""
    if outcome.succeeded:
        return ""
    is_told = outcome.status is not None or outcome.timed_out or outcome.reason.startswith((NO_HTTP, WORKER_ENDED))
    if is_told or not webhook.has_templates:
        return error_kind(outcome.reason)
    return "no request could be made or sent: its deliveries tell why"


def _is_news(webhook: Webhook) -> bool:
    # By this worker's clock, which may be wrong: whatever looks odd is asked of the database.
    age = (timezone.now() - webhook.last_success_at).total_seconds() if webhook.last_success_at else None
    return bool(webhook.failures_in_a_row or age is None or not 0 <= age < SUCCESS_NOTED_EVERY)


def after_failures(health: Health, outcomes: Sequence[Outcome], now: datetime) -> Health:
    """What becomes of a webhook's health with outcomes of which one failed. Pure."""
    trailing = _trailing_failures(outcomes)
    is_new = trailing < len(outcomes)
    failures = trailing if is_new else health.failures_in_a_row + trailing
    since = now if is_new or health.failing_since is None else health.failing_since
    probe_at = None if is_new else health.probe_at
    probes = 0 if is_new else health.probes
    if failures >= conf.pause_after:
        wait = conf.probe_schedule[min(probes, len(conf.probe_schedule) - 1)]
        probe_at = now + timedelta(seconds=wait)
    return Health(failures, since, probe_at, probes, _reason_to_disable(outcomes, since, now))


def _trailing_failures(outcomes: Sequence[Outcome]) -> int:
    count = 0
    for outcome in reversed(outcomes):
        if outcome.succeeded:
            break
        count += 1
    return count


def _reason_to_disable(outcomes: Sequence[Outcome], since: datetime, now: datetime) -> str:
    if any(outcome.is_gone for outcome in outcomes):
        return "the receiver answered 410 Gone: it wants no more deliveries"
    if (now - since).total_seconds() > conf.disable_after:
        return (
            f"every attempt since {to_utc(since):%Y-%m-%d %H:%M} UTC failed, the last one with: {outcomes[-1].reason}"
        )
    return ""


def _recovered(webhook_id: int) -> None:
    stale = Q(last_success_at__lt=DatabaseNow(-SUCCESS_NOTED_EVERY)) | Q(last_success_at__gt=DatabaseNow())
    news = Q(failures_in_a_row__gt=0) | Q(last_success_at=None) | stale
    Webhook.objects.filter(news, pk=webhook_id).record_recovery(last_success_at=DatabaseNow())


def _write(webhook: Webhook, health: Health, outcome: Outcome) -> None:
    resumed = {"resumed_at": DatabaseNow()} if webhook.probe_at and not health.probe_at else {}
    Webhook.objects.filter(pk=webhook.pk).update(
        failures_in_a_row=health.failures_in_a_row,
        failing_since=health.failing_since,
        probe_at=health.probe_at,
        probes=health.probes,
        enabled=not health.disabled_reason,
        disabled_reason=health.disabled_reason,
        last_failure_at=DatabaseNow(),
        last_failure=outcome.reason,
        **resumed,
    )
    if health.disabled_reason:
        _announce(webhook, health.disabled_reason)
    elif health.probe_at and not webhook.probe_at:
        logger.warning("Webhook %s is paused: %s", webhook, outcome.reason)


def _announce(webhook: Webhook, reason: str) -> None:
    """Log that a webhook was disabled, and send an e-mail."""
    logger.error("Webhook %s was disabled: %s", webhook, reason)
    # No partial: of what fails there, Django asks a name that such a one has not.
    transaction.on_commit(lambda: _mail_aside(webhook.name, reason), using=Webhook.objects.db, robust=True)


def _mail_aside(name: str, reason: str) -> None:
    # A mail server may take its time, and the caller has leases to renew.
    threading.Thread(target=_mail, args=(name, reason), name="webhooks-mail", daemon=True).start()


def _mail(name: str, reason: str) -> None:
    subject = f"Webhook {name} was disabled"
    text = (
        f"The webhook {name} was disabled: {reason}.\n\nIts deliveries stay on file. Correct what is wrong and "
        "enable the webhook in the admin to send them, or discard them there."
    )
    try:
        if conf.notify:
            send_mail(subject, text, None, list(conf.notify))
        else:
            mail_admins(subject, text)
    except Exception:
        logger.exception("The e-mail that says that webhook %s was disabled could not be sent", name)
