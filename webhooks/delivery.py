"""claim -> send -> record -> promote: how Deliveries get from the table to their receivers.

The thread that calls the courier is the only one to touch the database; it claims, records and renews in
short transactions, and never sends. The senders' threads only send.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import DatabaseError

from webhooks import backoff, payloads, signing, sql
from webhooks.conf import conf
from webhooks.models import Attempt, ContentType, Delivery, State, Webhook
from webhooks.senders import Senders
from webhooks.sql import Claim, Verdict
from webhooks.outcomes import Outcome
from webhooks.transport import Request
from webhooks.transactions import atomically
from webhooks.turns import Turns

logger = logging.getLogger(__name__)

# Outcomes are recorded together: at the latest after this many seconds, or when this many have come.
RECORD_EVERY = 0.02
RECORD_MOST = 50


@dataclass(frozen=True)
class Claimed:
    """One delivery that this worker holds, under the token of the claim that took it."""

    delivery: Delivery
    token: uuid.UUID

    @property
    def webhook(self) -> Webhook:
        return self.delivery.webhook


class Courier:
    """Delivers for one worker process. Not thread-safe."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._senders = Senders(conf.senders)
        self._turns: Turns[Claimed] = Turns(conf.senders)
        self._held: dict[uuid.UUID, Claimed] = {}
        self._outcomes: list[tuple[Claimed, Outcome]] = []
        self._renewed = self._recorded = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is claimed, under way, or waiting to be recorded."""
        return not self._held

    def held(self) -> set[uuid.UUID]:
        """The ids of the deliveries that this worker has claimed and not recorded yet."""
        return set(self._held)

    def turn(self, wait: float, claim: bool = True, only_free: bool = False) -> bool:
        """Claim what there is room for, hand it to the senders, wait up to ``wait`` seconds for outcomes, and
        record them. ``only_free`` claims for webhooks alone that have nothing under way here.

        Returns whether anything was done. Raises DatabaseError, after which it may be called again.
        """
        has_room = claim and len(self._turns) <= conf.batch // 2
        claimed = self._claim(only_free) if has_room else 0
        self._hand_over()
        recorded = self._collect(wait if self._senders.in_flight else 0, take_next=claim and not only_free)
        self._renew()
        return bool(claimed or recorded)

    def close(self, grace: float) -> None:
        """Give what is under way ``grace`` seconds to end, record that, and hand the rest back uncounted."""
        self._release(self._turns.clear())
        deadline = time.monotonic() + grace
        while self._senders.in_flight and (left := deadline - time.monotonic()) > 0:
            self._collect(min(left, RECORD_EVERY))
            self._renew()
        self._record()
        self._release(list(self._held.values()))
        self._senders.close()

    def _claim(self, only_free: bool) -> int:
        webhooks = set(sql.webhooks_with_due(Delivery.objects.db))
        if only_free:
            webhooks -= {claimed.webhook.pk for claimed in self._held.values()}
        share = max(1, conf.batch // max(1, len(webhooks)))
        room = {pk: share - self._turns.waiting(pk) for pk in webhooks if self._turns.waiting(pk) < share}
        if not room:
            return 0
        claim = Claim(uuid.uuid4(), conf.lease)
        return self._take(Delivery.objects.claim(room, claim), claim.token)

    def _take(self, ids: list[uuid.UUID], token: uuid.UUID) -> int:
        """Line up what was claimed, with its event and the webhook as it is now."""
        if ids:
            deliveries = Delivery.objects.filter(pk__in=ids).select_related("event", "webhook")
            for delivery in deliveries.order_by("next_attempt_at"):
                self._held[delivery.pk] = Claimed(delivery, token)
                self._turns.add(delivery.webhook_id, self._held[delivery.pk])
        return len(ids)

    def _hand_over(self) -> None:
        while self._senders.free and (claimed := self._turns.take()):
            self._senders.send(claimed, request_for(claimed.delivery))

    def _collect(self, wait: float, take_next: bool = False) -> int:
        for claimed, outcome in self._senders.outcomes(min(wait, RECORD_EVERY)):
            self._turns.ended(claimed.webhook.pk, outcome.timed_out)
            self._outcomes.append((claimed, outcome))
        is_time = bool(self._outcomes) and (
            len(self._outcomes) >= RECORD_MOST
            or not self._senders.in_flight
            or time.monotonic() - self._recorded > RECORD_EVERY
        )
        return self._record(take_next) if is_time else 0

    def _record(self, take_next: bool = False) -> int:
        """Write down what came of the attempts that are still this worker's to record.

        ``take_next`` claims whatever comes up behind them at once: it spares a lane a claim for each delivery.
        """
        outcomes, self._outcomes = self._outcomes, []
        claim = Claim(uuid.uuid4(), conf.lease) if take_next else None
        try:
            taken = atomically(lambda: record(outcomes, self._worker, claim), Delivery.objects.db)
        except DatabaseError:
            self._outcomes = outcomes + self._outcomes
            raise
        for claimed, _ in outcomes:
            self._forget(claimed)
        if claim:
            self._take(taken, claim.token)
        self._recorded = time.monotonic()
        return len(outcomes)

    def _forget(self, claimed: Claimed) -> None:
        if self._held.get(claimed.delivery.pk) is claimed:
            del self._held[claimed.delivery.pk]

    def _renew(self) -> None:
        if self._held and time.monotonic() - self._renewed > conf.lease / 3:
            for token, ids in _by_token(self._held.values()).items():
                Delivery.objects.filter(pk__in=ids).held(token).renew(conf.lease)
            self._renewed = time.monotonic()

    def _release(self, claims: list[Claimed]) -> None:
        for token, ids in _by_token(claims).items():
            Delivery.objects.filter(pk__in=ids).held(token).release()
        for claimed in claims:
            self._forget(claimed)


def _by_token(claims: Iterable[Claimed]) -> dict[uuid.UUID, list[uuid.UUID]]:
    grouped = defaultdict(list)
    for claimed in claims:
        grouped[claimed.token].append(claimed.delivery.pk)
    return grouped


def request_for(delivery: Delivery) -> Request:
    """The request of the next attempt: the webhook as it is now, the event as it was."""
    webhook = delivery.webhook
    is_form = webhook.content_type == ContentType.FORM
    body = payloads.form_body(delivery.event) if is_form else payloads.json_body(delivery.event)
    headers = {"Content-Type": webhook.content_type, "User-Agent": conf.user_agent}
    headers |= signing.headers(webhook.secret, str(delivery.pk), int(time.time()), body)
    verify: bool | str = webhook.ca_file_path or True if webhook.ssl_verification else False
    return Request(
        webhook.payload_url, headers, body, webhook.timeout or conf.timeout, verify, conf.response_bytes
    )


def record(outcomes: list[tuple[Claimed, Outcome]], worker: str, claim: Claim | None = None) -> list[uuid.UUID]:
    """Write attempts down, move their deliveries on, and promote what waited behind those that ended.

    Outcomes whose claim was taken back meanwhile are dropped: whoever holds the delivery now records it.
    Call it ``atomically``. With a ``claim``, what was promoted is taken at once; returns the ids of that.
    """
    using = Delivery.objects.db
    verdicts = {claimed.delivery.pk: _verdict(claimed, outcome) for claimed, outcome in outcomes}
    mine = sql.record(using, verdicts.values())
    Attempt.objects.bulk_create(
        _attempt(claimed, outcome, worker) for claimed, outcome in outcomes if claimed.delivery.pk in mine
    )
    return sql.promote(using, [pk for pk in mine if verdicts[pk].state != State.PENDING], claim)


def _verdict(claimed: Claimed, outcome: Outcome) -> Verdict:
    wait = None if outcome.succeeded else _next_wait(claimed.delivery, outcome)
    if outcome.succeeded:
        state = State.SUCCEEDED
    else:
        state = State.FAILED if wait is None else State.PENDING
    return Verdict(
        claimed.delivery.pk, claimed.token, state, int(not outcome.succeeded), wait or 0, outcome.reason
    )


def _next_wait(delivery: Delivery, outcome: Outcome) -> float | None:
    return backoff.next_wait(
        conf.retry_schedule,
        delivery.failures + 1,
        jitter=conf.retry_jitter,
        chance=random.random(),  # noqa: S311 - spreads load, guards nothing
        overloaded=outcome.overloaded,
        retry_after=outcome.retry_after,
    )


def _attempt(claimed: Claimed, outcome: Outcome, worker: str) -> Attempt:
    return Attempt(
        delivery=claimed.delivery,
        number=claimed.delivery.attempt_count + 1,
        started_at=outcome.started_at,
        duration_ms=outcome.duration_ms,
        url=claimed.webhook.payload_url,
        succeeded=outcome.succeeded,
        reason=outcome.reason,
        status=outcome.status,
        response_headers=outcome.headers,
        response_body=outcome.body,
        worker=worker,
    )
