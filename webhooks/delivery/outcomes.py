"""What is sent for a Delivery, and what becomes of it afterwards."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from webhooks import payloads
from webhooks.conf import conf
from webhooks.db import async_commit
from webhooks.delivery import health, outcome_sql, retry_policy
from webhooks.delivery.outcome_sql import Transition
from webhooks.delivery.request import compose
from webhooks.models import Delivery, State, Webhook
from webhooks.models.claims import Claim, ClaimedRow, promote
from webhooks.models.delivery import URL_LENGTH
from webhooks.models.event import EventRow
from webhooks.network.outcome import Outcome
from webhooks.network.transport import Request
from webhooks.payloads import Bodies
from webhooks.payloads.templates import Renderer


@dataclass(frozen=True, slots=True, eq=False)
class Claimed:
    """One delivery that this worker holds, under the token of the claim that took it."""

    id: uuid.UUID
    token: uuid.UUID
    webhook: Webhook
    event: Bodies
    attempt_count: int
    failures: int
    lost_leases: int = 0


def load(taken: Sequence[ClaimedRow], token: uuid.UUID) -> list[Claimed]:
    """What was taken, with its events, and the webhooks as they are now."""
    using = Delivery.objects.db
    found = {event.pk: event for event in EventRow.load(using, {one.event_id for one in taken})}
    webhooks = Webhook.objects.in_bulk({one.webhook_id for one in taken})
    bodies: dict[tuple[int, str], Bodies] = {}
    return [
        Claimed(
            one.id,
            token,
            webhooks[one.webhook_id],
            _bodies(bodies, found[one.event_id], one.webhook_id),
            one.attempt_count,
            one.failures,
            one.lost_leases,
        )
        for one in taken
        if one.webhook_id in webhooks and one.event_id in found  # else deleted a moment ago, with its deliveries
    ]


def _bodies(made: dict[tuple[int, str], Bodies], event: EventRow, webhook_id: int) -> Bodies:
    """Those of an Event as one serializer wrote it, shared by all webhooks that chose that."""
    serializer = payloads.serializer_for(event, webhook_id) if event.serializers else ""
    if (event.pk, serializer) not in made:
        made[event.pk, serializer] = Bodies(payloads.as_serialized_by(event, serializer))
    return made[event.pk, serializer]


def request_for(claimed: Claimed, renderer: Renderer) -> Request:
    """The request of the next attempt: the webhook as it is now, the event as it was. Raises Refused."""
    return compose(claimed.webhook, claimed.event, str(claimed.id), renderer)


@dataclass(frozen=True)
class Recorded:
    """The deliveries that were promoted and taken, and the webhooks that are not to be sent to any more."""

    taken: list[ClaimedRow]
    stopped: set[int]


def record(outcomes: list[tuple[Claimed, Outcome]], worker: str, claim: Claim | None = None) -> Recorded:
    """Write attempts down, move their deliveries on, and promote what waited behind those that ended.

    Outcomes whose claim was taken back meanwhile are dropped: whoever holds the delivery now records it.
    Call it ``atomically``. With a ``claim``, what was promoted is taken at once.
    """
    using = Delivery.objects.db
    async_commit(using)
    transitions = {claimed.id: _transition(claimed, outcome) for claimed, outcome in outcomes}
    held = outcome_sql.record(using, transitions.values())
    mine = [(claimed, outcome) for claimed, outcome in outcomes if claimed.id in held]
    outcome_sql.add_attempts(using, [_attempt(using, claimed, outcome, worker) for claimed, outcome in mine])
    # Before the promotion, which takes nothing of a webhook that these very outcomes stop.
    stopped = _note_health(mine)
    return Recorded(promote(using, [pk for pk in held if transitions[pk].state != State.PENDING], claim), stopped)


def _note_health(outcomes: list[tuple[Claimed, Outcome]]) -> set[int]:
    by_webhook: dict[Webhook, list[Outcome]] = defaultdict(list)
    for claimed, outcome in outcomes:
        by_webhook[claimed.webhook].append(outcome)
    # In one order: another worker may note what came of attempts for the same webhooks.
    in_order = sorted(by_webhook, key=lambda webhook: webhook.pk)
    return {webhook.pk for webhook in in_order if not health.note(webhook, by_webhook[webhook])}


def _transition(claimed: Claimed, outcome: Outcome) -> Transition:
    pk, token = claimed.id, claimed.token
    if outcome.succeeded:
        return Transition(pk, token, State.SUCCEEDED, failed=0, wait=0, reason="")
    wait = _next_wait(claimed, outcome)
    state = State.FAILED if wait is None else State.PENDING
    return Transition(pk, token, state, failed=1, wait=wait or 0, reason=outcome.reason)


def _next_wait(claimed: Claimed, outcome: Outcome) -> float | None:
    return retry_policy.next_wait(
        conf.retry_schedule,
        claimed.failures + 1,
        jitter=conf.retry_jitter,
        chance=random.random(),  # noqa: S311 # nosec B311 # spreads load, guards nothing
        overloaded=outcome.overloaded,
        retry_after=outcome.retry_after,
    )


def _attempt(using: str, claimed: Claimed, outcome: Outcome, worker: str) -> dict[str, Any]:
    return {
        "delivery_id": claimed.id.hex,
        "number": claimed.attempt_count + 1,
        "started_at": outcome_sql.time_text(using, outcome.started_at),
        "duration_ms": outcome.duration_ms,
        "url": (outcome.url or claimed.webhook.payload_url)[:URL_LENGTH],
        "succeeded": outcome.succeeded,
        "reason": outcome.reason,
        "status": outcome.status,
        "response_headers": outcome.headers,
        "response_body": outcome.body,
        "worker": worker,
    }
