"""What follows from an outcome: when the delivery is sent again, or given up, and how its webhook is.

===========================  ============================================
outcome                      the delivery
===========================  ============================================
2xx                          has succeeded
429, no answer in time       is retried after a minute at least
any other, redirects too     is retried by the schedule
failure after the schedule   has failed: only a user can retry it
===========================  ============================================

``Retry-After`` is obeyed between the planned wait and twice that. The schedule is ``RETRY_SCHEDULE``.

===========================  ============================================
outcome                      the webhook
===========================  ============================================
2xx                          is healthy: a pause ends
410 Gone                     is disabled at once
any other failure            counts a failure
PAUSE_AFTER failures         is paused, and probed by PROBE_SCHEDULE
as many, DISABLE_AFTER       is disabled, until a user enables it
===========================  ============================================

The deliveries of a paused or disabled webhook wait. A failed one is sent again after a 410 as after any other failure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models import F, Q, QuerySet
from django.utils import timezone

from webhooks import hooks
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, PreparedRead, as_sql, fetch_each, is_postgresql
from webhooks.ground.errors import about, get_logger
from webhooks.ground.outcome import Outcome
from webhooks.models.columns import webhook_model
from webhooks.models.queue import QueuedDelivery
from webhooks.models.webhook_states import DisabledReason
from webhooks.models.worker import in_worker_transaction

if TYPE_CHECKING:
    from webhooks.models import Webhook

logger = get_logger(__name__)

# A receiver that is overloaded, or did not answer in time, gets at least a minute, as with Svix.
OVERLOAD_WAIT = 60.0

# Another probe may begin after this many seconds, more than any attempt may take.
PROBE_SECONDS = 180

# The successes of a healthy webhook are written this often (seconds), so that its row is no bottleneck.
SUCCESS_NOTED_EVERY = 5


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
    """The failures of a webhook since its last success. ``probe_at`` is set while it is paused.

    ``disabled_reason`` is a ``DisabledReason``, or empty.
    """

    failures_in_a_row: int
    failing_since: datetime | None
    probe_at: datetime | None
    probes: int
    disabled_reason: str = ""


def is_healthy(outcomes: Sequence[Outcome]) -> bool:
    """Whether a webhook is healthy after these outcomes, given in their order."""
    return outcomes[-1].succeeded and not any(outcome.is_gone for outcome in outcomes)


def after_failures(health: Health, outcomes: Sequence[Outcome], now: datetime) -> Health:
    """A webhook's health after outcomes that leave it unhealthy."""
    trailing = list(takewhile(lambda outcome: not outcome.succeeded, reversed(outcomes)))
    if len(trailing) < len(outcomes):  # a success came between
        health = Health(0, None, None, 0)
    failures = health.failures_in_a_row + sum(not outcome.repeats_refusal for outcome in trailing)
    since, probe_at = health.failing_since or now, health.probe_at
    is_paused = failures >= conf.pause_after
    if is_paused:
        wait = conf.probe_schedule[min(health.probes, len(conf.probe_schedule) - 1)]
        probe_at = now + timedelta(seconds=wait)
    disabled_reason: str = ""
    if any(outcome.is_gone for outcome in outcomes):
        disabled_reason = DisabledReason.GONE
    elif is_paused and (now - since).total_seconds() > conf.disable_after:  # two failures in a quiet week are too few
        disabled_reason = DisabledReason.FAILING
    return Health(failures, since, probe_at, health.probes, disabled_reason)


def begin_probe(webhook_id: int) -> bool:
    """Whether this worker may send the one delivery that probes a paused webhook. If another session has locked its
    row, such as an open transaction of an admin, that can wait, and the worker cannot."""
    due = webhook_model().objects.probed().filter(pk=webhook_id, probe_at__lte=DatabaseNow())
    return _update_free(due, probe_at=DatabaseNow(PROBE_SECONDS), probes=F("probes") + 1) > 0


def cancel_probes(webhook_ids: Collection[int]) -> None:
    """Undo ``begin_probe`` for webhooks without a delivery that could be claimed. One that another session has locked
    gets its next probe after ``PROBE_SECONDS``."""
    if webhook_ids:
        begun = webhook_model().objects.probed().filter(pk__in=webhook_ids, probes__gt=0)
        _update_free(begun, probe_at=DatabaseNow(), probes=F("probes") - 1)


def _update_free(webhooks: QuerySet[Any], **columns: Any) -> int:
    """Update these webhooks, but for those that another session has locked. Returns how many."""

    def update() -> int:
        free = list(webhooks.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True))
        return int(webhook_model().objects.filter(pk__in=free).update(**columns))

    return in_worker_transaction(webhook_model().objects.db, update)


class Lockable(NamedTuple):
    """The rows of webhooks that outcomes may change."""

    locked: dict[int, Any]
    """By id, as they are now. Nothing else can change them until the end of the transaction."""
    busy: set[int]
    """The ids of webhooks whose rows another session has locked, such as an open transaction with an edit."""


def lock_changing(outcomes: Mapping[Webhook, Sequence[Outcome]]) -> Lockable:
    """Lock the webhooks that these outcomes may change, in a transaction, without waiting for other sessions.

    The webhooks may be some moments old. The success of a healthy one needs no lock: a later one is noted.
    """
    failing = {webhook.pk for webhook, ended in outcomes.items() if not all(outcome.succeeded for outcome in ended)}
    succeeding = {webhook.pk for webhook in outcomes if _may_change(webhook)} - failing
    if not (failing or succeeding):
        return Lockable({}, set())
    using = webhook_model().objects.db
    stale = Q(last_success_at__lt=DatabaseNow(-SUCCESS_NOTED_EVERY)) | Q(last_success_at__gt=DatabaseNow())
    changes = Q(failures_in_a_row__gt=0) | Q(last_success_at=None) | stale
    changes |= Q(last_failure_at__gte=F("last_success_at"))  # a user has cleared the failures
    chosen = webhook_model().objects.filter(Q(pk__in=failing) | changes & Q(pk__in=succeeding))
    lock = PreparedRead(chosen.select_for_update(skip_locked=True, no_key=True).annotate(now=DatabaseNow()))
    if not is_postgresql(using):  # it has one writer
        return Lockable({webhook.pk: webhook for webhook in lock.rows}, set())
    needed = webhook_model().objects.filter(Q(pk__in=failing) | Q(pk__in=succeeding, failures_in_a_row__gt=0))
    rows, there = fetch_each(using, lock.statement, as_sql(needed.order_by().values_list("pk")))
    locked = {webhook.pk: webhook for webhook in lock.objects(rows)}
    return Lockable(locked, {pk for (pk,) in there} - locked.keys())


def update_all(outcomes: Mapping[Webhook, Sequence[Outcome]], rows: Mapping[int, Any] | None = None) -> set[int]:
    """Update the health of webhooks after attempts, given in their order. Call it in a transaction.

    ``rows`` are the locked ones, see ``lock_changing``. Returns the ids of webhooks that get nothing now.
    """
    rows = lock_changing(outcomes).locked if rows is None else rows
    failed = {webhook.pk: ended for webhook, ended in outcomes.items() if not is_healthy(ended)}
    if recovered := {webhook.pk for webhook in outcomes if webhook.pk not in failed} & rows.keys():
        webhook_model().objects.filter(pk__in=recovered).record_success()
        if resumed := [pk for pk in recovered if rows[pk].probe_at and _is_started(rows[pk])]:
            QueuedDelivery.objects.hasten_heads(resumed)
            _note_resumed(*(rows[pk] for pk in resumed))
    return {pk for pk, ended in failed.items() if not _record_failures(rows.get(pk), ended)}


def _is_started(webhook: Webhook) -> bool:
    """Whether it gets deliveries once its receiver works: a user or another worker may have stopped it meanwhile."""
    return webhook.enabled and webhook.paused_at is None


def _may_change(webhook: Webhook) -> bool:
    """Whether a success may change the row, by this worker's clock, which may be wrong."""
    age = (timezone.now() - webhook.last_success_at).total_seconds() if webhook.last_success_at else -1
    failed_at, succeeded_at = webhook.last_failure_at, webhook.last_success_at
    has_failed_since = failed_at is not None and succeeded_at is not None and failed_at >= succeeded_at
    is_noted = 0 <= age < SUCCESS_NOTED_EVERY and not has_failed_since
    return bool(webhook.failures_in_a_row) or not is_noted


def _record_failures(webhook: Any, outcomes: Sequence[Outcome]) -> bool:
    """Returns whether the webhook may be sent to. ``webhook`` is its locked row, or None if it was deleted."""
    if webhook is None or not webhook.enabled:
        return False
    failure = next(outcome for outcome in reversed(outcomes) if not outcome.succeeded)
    before = Health(webhook.failures_in_a_row, webhook.failing_since, webhook.probe_at, webhook.probes)
    after = after_failures(before, outcomes, webhook.now)
    _write(webhook, after, failure)
    return after.probe_at is None and webhook.paused_at is None and not after.disabled_reason


def _write(webhook: Webhook, health: Health, failure: Outcome) -> None:
    """``failure`` is the last one. Every user with permission for the webhook reads its summary."""
    switched = {"resumed_at": DatabaseNow()} if webhook.probe_at and not health.probe_at else {}
    if health.disabled_reason:
        switched["disabled_at"] = DatabaseNow()
    webhook_model().objects.filter(pk=webhook.pk).update(
        **vars(health),
        enabled=not health.disabled_reason,
        last_failure_at=DatabaseNow(),
        last_failure=failure.summary,
        error_kind=failure.kind,
        **switched,
    )
    webhook.last_failure, webhook.error_kind = failure.summary, failure.kind
    webhook.disabled_reason = health.disabled_reason
    if health.disabled_reason:
        reason = health.disabled_reason
        logger.error("Webhook %s was disabled: %s (%s)", webhook, failure.summary, reason, extra=_about(webhook))
        _call_hooks("webhook_disabled", webhook)
    elif health.probe_at and not webhook.probe_at:
        logger.warning("Webhook %s is paused: %s", webhook, failure.summary, extra=_about(webhook))
        _call_hooks("webhook_paused", webhook)
    elif webhook.probe_at and not health.probe_at and _is_started(webhook):
        _note_resumed(webhook)


def _about(webhook: Webhook) -> dict[str, Any]:
    return about(webhook=webhook, kind=webhook.error_kind)


def _note_resumed(*webhooks: Webhook) -> None:
    for webhook in webhooks:
        logger.warning("Webhook %s gets its deliveries again: its receiver works", webhook, extra=_about(webhook))
    _call_hooks("webhook_resumed", *webhooks)


def _call_hooks(name: str, *webhooks: Webhook) -> None:
    """Call the hooks of this name for webhooks that this worker has changed."""
    hooks.announce(name, webhook_model().objects.db, lambda: [webhook.as_changed() for webhook in webhooks])
