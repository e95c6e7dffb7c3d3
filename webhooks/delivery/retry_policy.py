"""What follows from the outcome of an attempt: for its delivery, and for the health of its webhook. Pure.

===========================  ===========================================  ============================================
outcome                      the delivery                                 the webhook
===========================  ===========================================  ============================================
2xx                          has succeeded                                is healthy: a pause ends
410 Gone                     as any other failure                         is disabled at once
429, no answer in time       is retried after a minute at least           counts a failure
any other, redirects too     is retried by the schedule                   counts a failure
failure after the schedule   has failed: only a user can retry it         counts a failure
PAUSE_AFTER failures         waits                                        is paused, and probed by PROBE_SCHEDULE
failures for DISABLE_AFTER   waits until a user enables the webhook       is disabled
===========================  ===========================================  ============================================

``Retry-After`` is obeyed between the planned wait and twice that. The schedules are settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from django.utils.translation import gettext_noop

from webhooks.conf import conf
from webhooks.db import to_utc
from webhooks.network.outcome import Outcome

# A receiver that is overloaded, or did not answer in time, gets at least a minute, as with Svix.
OVERLOAD_WAIT = 60.0

# Stored in English, and translated when it is shown.
GONE = gettext_noop("the receiver answered 410 Gone: it wants no more deliveries")


def next_wait(
    schedule: Sequence[float],
    attempts: int,
    *,
    jitter: float = 0.0,
    chance: float = 0.5,
    overloaded: bool = False,
    retry_after: float | None = None,
) -> float | None:
    """Seconds to wait after the ``attempts``-th failed attempt (1 for the first), or None to give up.

    ``chance`` (0 to 1, drawn at random by the caller) picks the place within ``±jitter`` (a fraction) of the
    planned wait. ``overloaded``: the receiver timed out or answered 429, so no wait is shorter than ``OVERLOAD_WAIT``.
    ``retry_after``: the seconds that the receiver asked for.
    """
    if attempts > len(schedule):
        return None
    planned = schedule[attempts - 1]
    if overloaded:
        planned = max(planned, OVERLOAD_WAIT)
    if retry_after is not None:
        return min(max(planned, retry_after), 2 * planned)
    return max(OVERLOAD_WAIT if overloaded else 0.0, planned * (1 + jitter * (2 * chance - 1)))


@dataclass(frozen=True)
class Health:
    """The failures of a webhook since its last success. ``probe_at`` is set while it is paused."""

    failures_in_a_row: int
    failing_since: datetime | None
    probe_at: datetime | None
    probes: int
    disabled_reason: str = ""


def is_healthy(outcomes: Sequence[Outcome]) -> bool:
    """Whether a webhook is healthy after these outcomes, given in their order."""
    return outcomes[-1].succeeded and not any(outcome.is_gone for outcome in outcomes)


def after_failures(health: Health, outcomes: Sequence[Outcome], now: datetime, reason: str = "") -> Health:
    """A webhook's health after outcomes that leave it unhealthy. ``reason`` belongs to the last failure."""
    trailing = len(list(takewhile(lambda outcome: not outcome.succeeded, reversed(outcomes))))
    if trailing < len(outcomes):  # a success came between
        health = Health(0, None, None, 0)
    failures, since, probe_at = health.failures_in_a_row + trailing, health.failing_since or now, health.probe_at
    if failures >= conf.pause_after:
        wait = conf.probe_schedule[min(health.probes, len(conf.probe_schedule) - 1)]
        probe_at = now + timedelta(seconds=wait)
    disabled_reason = ""
    if any(outcome.is_gone for outcome in outcomes):
        disabled_reason = GONE
    elif (now - since).total_seconds() > conf.disable_after:
        disabled_reason = f"every attempt since {to_utc(since):%Y-%m-%d %H:%M} UTC failed, the last one with: {reason}"
    return Health(failures, since, probe_at, health.probes, disabled_reason)
