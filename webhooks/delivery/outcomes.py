"""Record the outcomes of attempts, move their deliveries on, and promote what waits behind them."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import IntegrityError
from django.db.models import Max

from webhooks import hooks
from webhooks.delivery import counting, policy
from webhooks.delivery.claims import ClaimedDelivery
from webhooks.ground.conf import conf
from webhooks.ground.db import time_as_text
from webhooks.ground.error_kinds import ErrorKind, FaultOf
from webhooks.ground.outcome import Outcome, StoredRequest
from webhooks.models import lanes
from webhooks.models.attempt import URL_LENGTH, Attempt, Body, pack_headers
from webhooks.models.columns import hex_as_json
from webhooks.models.delivery import Delivery
from webhooks.models.queue import ClaimedRow, State, Transition
from webhooks.models.statistic import StatisticDelta
from webhooks.models.worker import begin_transaction

if TYPE_CHECKING:
    from webhooks.models import Webhook

# For the columns of an attempt without a request.
NO_REQUEST = StoredRequest("", "", {}, "", "", b"")


class Recorded(NamedTuple):
    """What ``record`` did.

    ``claimed`` are the promoted deliveries that this worker sends next. ``stopped`` are the ids of webhooks that are
    paused or disabled now. ``kept`` are outcomes to record later, because another session has locked the webhook or the
    object. Those webhooks are ``busy``, by id.
    """

    claimed: list[ClaimedRow]
    stopped: set[int]
    kept: list[tuple[ClaimedDelivery, Outcome]]
    busy: set[int]


def record(
    outcomes: Sequence[tuple[ClaimedDelivery, Outcome]], worker: str, token: uuid.UUID | None = None
) -> Recorded:
    """Record attempts, move their deliveries on, and promote the next one in each lane without a head.

    An outcome is dropped if its claim was lost meanwhile: the worker that holds the delivery now records it. With a
    ``token``, the promoted deliveries are claimed at once. It waits for no lock: a transaction of the host may stay
    open for long, and all other webhooks would wait for it. Call it ``atomically``.
    """
    using = Delivery.objects.db
    token = token if begin_transaction(using, token) else None
    ordered = {delivery.row.lane for delivery, _ in outcomes if delivery.row.in_lane} - {None}
    locked = ordered - lanes.try_lock(using, ordered)
    held_up = {delivery.id for delivery, _ in outcomes if delivery.row.in_lane and delivery.row.lane in locked}
    rows, busy = policy.lock_changing(_by_webhook(ended for ended in outcomes if ended[0].id not in held_up))
    held_up |= {delivery.id for delivery, _ in outcomes if delivery.webhook.pk in busy}
    kept = [ended for ended in outcomes if ended[0].id in held_up]
    outcomes = [ended for ended in outcomes if ended[0].id not in held_up]
    transitions = [_transition(delivery, outcome) for delivery, outcome in outcomes]
    numbers = Delivery.objects.move_on(transitions, {delivery.token for delivery, _ in outcomes})
    mine = [(delivery, outcome) for delivery, outcome in outcomes if delivery.id in numbers]
    _insert_attempts(using, mine, numbers, worker)
    _insert_bodies(mine)
    given_up = {transition.id for transition in transitions if transition.state == State.FAILED}
    StatisticDelta.objects.insert(counting.count(mine, numbers, given_up))
    _call_hooks(using, mine, numbers, given_up, worker)
    # Before the promotion, which claims nothing of a webhook that stops here.
    stopped = policy.update_all(_by_webhook(mine), rows)
    ended = {transition.id for transition in transitions if transition.state != State.PENDING}
    in_lane = [delivery.row for delivery, _ in mine if delivery.row.in_lane]
    lanes.give_way(using, lanes.places(row for row in in_lane if row.id not in ended))
    claimed = lanes.promote(using, lanes.places(row for row in in_lane if row.id in ended), token)
    return Recorded(claimed, stopped, kept, busy)


def _by_webhook(outcomes: Iterable[tuple[ClaimedDelivery, Outcome]]) -> dict[Webhook, list[Outcome]]:
    """The outcomes that say something about the receivers of webhooks."""
    by_webhook: dict[Webhook, list[Outcome]] = defaultdict(list)
    for delivery, outcome in outcomes:
        if outcome.fault != FaultOf.DELIVERY:
            by_webhook[delivery.webhook].append(outcome)
    return by_webhook


def _call_hooks(
    using: str,
    outcomes: Sequence[tuple[ClaimedDelivery, Outcome]],
    numbers: Mapping[uuid.UUID, int],
    given_up: Collection[uuid.UUID],
    worker: str,
) -> None:
    def finished(chosen: Collection[uuid.UUID]) -> Iterator[hooks.FinishedAttempt]:
        for delivery, outcome in outcomes:
            if delivery.id in chosen:
                of_delivery = delivery.message_id, delivery.row.event_id, delivery.webhook.pk, delivery.webhook.name
                attempt = numbers[delivery.id], outcome.started_at, outcome.duration_ms
                answer = outcome.status, outcome.kind, outcome.reason
                yield hooks.FinishedAttempt(*of_delivery, *attempt, *answer, worker)

    hooks.announce("attempt_finished", using, lambda: finished(numbers))
    hooks.announce("delivery_failed", using, lambda: finished(given_up))


def _transition(delivery: ClaimedDelivery, outcome: Outcome) -> Transition:
    if outcome.succeeded:
        return Transition(delivery.id, State.SUCCEEDED)
    is_ours = outcome.fault == FaultOf.DELIVERY
    if outcome.kind == ErrorKind.VETOED:
        return Transition(delivery.id, State.FAILED, 0, outcome.reason, outcome.kind, is_ours)
    if delivery.row.is_early:
        return Transition(delivery.id, State.PENDING, 0, outcome.reason, outcome.kind, is_ours, is_early=True)
    wait = policy.next_wait(
        conf.retry_schedule,
        delivery.row.failures + 1,
        jitter=conf.retry_jitter,
        chance=random.random(),  # noqa: S311 # nosec B311 # spreads load, guards nothing
        overloaded=outcome.overloaded,
        retry_after=outcome.retry_after,
    )
    state = State.FAILED if wait is None else State.PENDING
    return Transition(delivery.id, state, wait or 0, outcome.reason, outcome.kind, is_ours)


def _insert_attempts(
    using: str, outcomes: Sequence[tuple[ClaimedDelivery, Outcome]], numbers: dict[uuid.UUID, int], worker: str
) -> None:
    if not outcomes:
        return
    attempts = list[dict[str, Any]]()
    bytes_begin, as_text = hex_as_json(using, ""), time_as_text(using)
    for delivery, outcome in outcomes:
        request, pk = outcome.request or NO_REQUEST, delivery.message_id
        attempts.append(
            {
                "delivery_id": pk.replace("-", ""),
                "number": numbers[delivery.id],
                "started_at": as_text(outcome.started_at),
                "duration_ms": outcome.duration_ms,
                "method": request.method,
                "url": request.url[:URL_LENGTH],
                "packed_headers": pack_headers(request.headers, pk),
                "body_kind": request.body_kind,
                "body_sha256": bytes_begin + request.body_sha256,
                "succeeded": outcome.succeeded,
                "reason": outcome.reason,
                "error_kind": outcome.kind,
                "status": outcome.status,
                "packed_response_headers": pack_headers(outcome.headers, pk),
                "response_body": outcome.body,
                "worker": worker,
                "requested_by": delivery.row.requested_by,
            }
        )
    try:
        Attempt.objects.insert(attempts)
    except IntegrityError:
        # SQL of an operator has put a delivery back into the queue that had left it.
        last = Attempt.objects.filter(delivery__in=numbers).order_by().values_list("delivery").annotate(Max("number"))
        later = {pk: number + 1 for pk, number in last}
        for attempt in attempts:
            key = uuid.UUID(attempt["delivery_id"])
            attempt["number"] = numbers[key] = later.get(key, numbers[key])
            Delivery.objects.filter(pk=key).update(noted_attempts=numbers[key])
        Attempt.objects.insert(attempts)


def _insert_bodies(outcomes: Sequence[tuple[ClaimedDelivery, Outcome]]) -> None:
    """Store the bodies that templates made. An earlier attempt may have stored the same one."""
    bodies = [
        Body(delivery_id=delivery.id, sha256=request.body_sha256, content=request.body)
        for delivery, outcome in outcomes
        if (request := outcome.request) and request.body
    ]
    Body.objects.bulk_create(bodies, ignore_conflicts=True)
