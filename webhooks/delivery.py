"""What is sent for a Delivery, and what becomes of it afterwards."""

from __future__ import annotations

import random
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass

from webhooks import backoff, health, payloads, signing, sql
from webhooks.clock import stored
from webhooks.conf import conf
from webhooks.models import Attempt, ContentType, Delivery, State, Webhook
from webhooks.outcomes import Outcome
from webhooks.sql import Claim, Verdict
from webhooks.transport import Request


@dataclass(frozen=True)
class Claimed:
    """One delivery that this worker holds, under the token of the claim that took it."""

    delivery: Delivery
    token: uuid.UUID

    @property
    def webhook(self) -> Webhook:
        return self.delivery.webhook


def request_for(delivery: Delivery) -> Request:
    """The request of the next attempt: the webhook as it is now, the event as it was."""
    webhook = delivery.webhook
    is_form = webhook.content_type == ContentType.FORM
    body = payloads.form_body(delivery.event) if is_form else payloads.json_body(delivery.event)
    headers = {"Content-Type": webhook.content_type, "User-Agent": conf.user_agent}
    headers |= signing.headers(webhook.secret, str(delivery.pk), int(time.time()), body)
    verify: bool | str = webhook.ca_file_path or True if webhook.ssl_verification else False
    return Request(webhook.payload_url, headers, body, webhook.timeout or conf.timeout, verify, conf.response_bytes)


@dataclass(frozen=True)
class Recorded:
    """The deliveries that were promoted and taken, and the webhooks that are not to be sent to any more."""

    taken: list[uuid.UUID]
    stopped: set[int]


def record(outcomes: list[tuple[Claimed, Outcome]], worker: str, claim: Claim | None = None) -> Recorded:
    """Write attempts down, move their deliveries on, and promote what waited behind those that ended.

    Outcomes whose claim was taken back meanwhile are dropped: whoever holds the delivery now records it.
    Call it ``atomically``. With a ``claim``, what was promoted is taken at once.
    """
    using = Delivery.objects.db
    sql.relax(using)
    verdicts = {claimed.delivery.pk: _verdict(claimed, outcome) for claimed, outcome in outcomes}
    held = sql.record(using, verdicts.values())
    mine = [(claimed, outcome) for claimed, outcome in outcomes if claimed.delivery.pk in held]
    Attempt.objects.bulk_create(_attempt(claimed, outcome, worker) for claimed, outcome in mine)
    taken = sql.promote(using, [pk for pk in held if verdicts[pk].state != State.PENDING], claim)
    return Recorded(taken, _note_health(mine))


def _note_health(outcomes: list[tuple[Claimed, Outcome]]) -> set[int]:
    by_webhook: dict[Webhook, list[Outcome]] = defaultdict(list)
    for claimed, outcome in outcomes:
        by_webhook[claimed.webhook].append(outcome)
    return {webhook.pk for webhook, those in by_webhook.items() if not health.note(webhook, those)}


def _verdict(claimed: Claimed, outcome: Outcome) -> Verdict:
    pk, token = claimed.delivery.pk, claimed.token
    if outcome.succeeded:
        return Verdict(pk, token, State.SUCCEEDED, failed=0, wait=0, reason="")
    wait = _next_wait(claimed.delivery, outcome)
    state = State.FAILED if wait is None else State.PENDING
    return Verdict(pk, token, state, failed=1, wait=wait or 0, reason=outcome.reason)


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
        started_at=stored(outcome.started_at),
        duration_ms=outcome.duration_ms,
        url=claimed.webhook.payload_url,
        succeeded=outcome.succeeded,
        reason=outcome.reason,
        status=outcome.status,
        response_headers=outcome.headers,
        response_body=outcome.body,
        worker=worker,
    )
