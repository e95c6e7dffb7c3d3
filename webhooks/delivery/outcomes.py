"""Record the outcomes of attempts, move their deliveries on, and promote what waits behind them."""

from __future__ import annotations

import json
import random
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connections

from webhooks import hooks
from webhooks.conf import conf
from webhooks.db import (
    among_sql,
    execute,
    fetch_all,
    insert_rows_sql,
    is_postgresql,
    now_sql,
    to_db_time,
    to_uuid,
)
from webhooks.delivery import pause_policy, retry_policy, statistics
from webhooks.delivery.claims import HeldDelivery
from webhooks.error_kinds import ErrorKind
from webhooks.models import Delivery, State, Webhook, lanes
from webhooks.models.attempt import URL_LENGTH, Body
from webhooks.models.lanes import Place
from webhooks.models.queue import ClaimedRow
from webhooks.models.worker import begin_transaction
from webhooks.network.outcome import Outcome
from webhooks.network.request import StoredRequest

# These failures say nothing about the receiver, and use up no schedule.
NOT_OF_RECEIVER = {ErrorKind.WORKER_ENDED, ErrorKind.VETOED}

# For the columns of an attempt without a request.
NO_REQUEST = StoredRequest("", "", {}, "", "", b"")


@dataclass(frozen=True)
class Transition:
    """A delivery's change of state after an attempt. ``wait`` is in seconds, until the next attempt.

    ``is_ours``: the attempt failed because our worker ended. ``is_early``: it was a probe before its time, and the next
    attempt stays where it was. Both use up no schedule."""

    id: uuid.UUID
    state: str
    wait: float = 0
    reason: str = ""
    error_kind: str = ""
    is_ours: bool = False
    is_early: bool = False


def record(
    outcomes: Sequence[tuple[HeldDelivery, Outcome]], worker: str, token: uuid.UUID | None = None
) -> tuple[list[ClaimedRow], set[int]]:
    """Record attempts, move their deliveries on, and promote the next one in each lane without a head.

    An outcome is dropped if its claim was lost meanwhile: the worker that holds the delivery now records it. With a
    ``token``, the promoted deliveries are claimed at once, and returned. Also returns the ids of the webhooks that are
    paused or disabled now. Call it ``atomically``.
    """
    using = Delivery.objects.db
    token = token if begin_transaction(using, token) else None
    lanes.lock(using, (delivery.row.lane for delivery, _ in outcomes if delivery.row.in_lane))
    transitions = [_transition(delivery, outcome) for delivery, outcome in outcomes]
    numbers = move_on(using, transitions, {delivery.token for delivery, _ in outcomes})
    mine = [(delivery, outcome) for delivery, outcome in outcomes if delivery.id in numbers]
    _insert_attempts(using, mine, numbers, worker)
    _insert_bodies(mine)
    given_up = {transition.id for transition in transitions if transition.state == State.FAILED}
    statistics.write(using, mine, numbers, given_up)
    _announce(using, mine, numbers, given_up, worker)
    by_webhook: dict[Webhook, list[Outcome]] = defaultdict(list)
    for delivery, outcome in mine:
        if outcome.kind not in NOT_OF_RECEIVER:
            by_webhook[delivery.webhook].append(outcome)
    # Before the promotion, which claims nothing of a webhook that stops here.
    stopped = pause_policy.update_all(by_webhook)
    ended = {transition.id for transition in transitions if transition.state != State.PENDING}
    rows = [delivery.row for delivery, _ in mine if delivery.row.in_lane and delivery.id in ended]
    places = [Place(row.webhook_id, row.lane, row.event_id) for row in rows if row.lane is not None]
    again = [one.row for one, _ in mine if one.row.in_lane and one.id not in ended]
    lanes.give_way(using, [Place(row.webhook_id, row.lane, row.event_id) for row in again if row.lane is not None])
    return lanes.promote(using, places, token), stopped


def _announce(
    using: str,
    outcomes: Sequence[tuple[HeldDelivery, Outcome]],
    numbers: Mapping[uuid.UUID, int],
    given_up: Collection[uuid.UUID],
    worker: str,
) -> None:
    def finished(chosen: Collection[uuid.UUID]) -> Iterator[hooks.FinishedAttempt]:
        for delivery, one in outcomes:
            if delivery.id in chosen:
                of_webhook = str(delivery.id), delivery.row.event_id, delivery.webhook.pk, delivery.webhook.name
                number, started_at, duration = numbers[delivery.id], one.started_at, one.duration_ms
                yield hooks.FinishedAttempt(
                    *of_webhook, number, started_at, duration, one.status, one.kind, one.reason, worker
                )

    hooks.announce("attempt_finished", using, lambda: finished(numbers))
    hooks.announce("delivery_failed", using, lambda: finished(given_up))


def _transition(delivery: HeldDelivery, outcome: Outcome) -> Transition:
    if outcome.succeeded:
        return Transition(delivery.id, State.SUCCEEDED)
    is_ours = outcome.kind in NOT_OF_RECEIVER
    if outcome.kind == ErrorKind.VETOED:
        return Transition(delivery.id, State.FAILED, 0, outcome.reason, outcome.kind, is_ours)
    if delivery.row.is_early:
        return Transition(delivery.id, State.PENDING, 0, outcome.reason, outcome.kind, is_ours, is_early=True)
    wait = retry_policy.next_wait(
        conf.retry_schedule,
        delivery.row.failures + 1,
        jitter=conf.retry_jitter,
        chance=random.random(),  # noqa: S311 # nosec B311 # spreads load, guards nothing
        overloaded=outcome.overloaded,
        retry_after=outcome.retry_after,
    )
    state = State.FAILED if wait is None else State.PENDING
    return Transition(delivery.id, state, wait or 0, outcome.reason, outcome.kind, is_ours)


def move_on(using: str, transitions: Collection[Transition], tokens: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    """Write transitions. Returns the numbers of the attempts by delivery, for deliveries still held under these
    tokens; the others stay as they are."""
    held = _move_in_queue(using, transitions, tokens)
    succeeded = [one.id for one in transitions if one.state == State.SUCCEEDED and one.id in held]
    failed = [one for one in transitions if one.state != State.SUCCEEDED and one.id in held]
    return _note_successes(using, succeeded) | _note_failures(using, failed)


def _note_successes(using: str, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    if not ids:
        return {}
    chosen, chosen_param = among_sql(using, ids, "uuid")
    found = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_delivery SET
            outcome = 'succeeded', attempt_count = attempt_count + 1, reason = '', error_kind = '',
            finished_at = {now_sql(using)}
        WHERE id {chosen} RETURNING id, attempt_count
        """,
        [chosen_param],
    )
    return {to_uuid(pk): number for pk, number in found}


def _note_failures(using: str, transitions: Collection[Transition]) -> dict[uuid.UUID, int]:
    if not transitions:
        return {}
    rows = {
        transition.id: {
            "outcome": "" if transition.state == State.PENDING else transition.state,
            "reason": transition.reason,
            "error_kind": transition.error_kind,
        }
        for transition in transitions
    }
    chosen, chosen_param = among_sql(using, rows, "uuid")
    outcome, reason, error_kind = (value_by_id_sql(using, "id", name) for name in ("outcome", "reason", "error_kind"))
    found = fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_delivery SET
            outcome = {outcome},
            attempt_count = attempt_count + 1,
            reason = {reason},
            error_kind = {error_kind},
            finished_at = CASE WHEN {outcome} = '' THEN NULL ELSE {now_sql(using)} END
        FROM {rows_by_id_sql(using)}
        WHERE id {chosen} RETURNING id, attempt_count
        """,
        [rows_by_id(using, rows), chosen_param],
    )
    return {to_uuid(pk): number for pk, number in found}


def _move_in_queue(using: str, transitions: Collection[Transition], tokens: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Take succeeded deliveries out of the queue, and set the next attempts of the others. Returns the ids of the
    held ones."""
    is_mine, tokens_param = among_sql(using, tokens, "uuid")
    is_mine = f"claim {is_mine} AND rq_webhooks_queue.state = 'sending'"
    moved = list[tuple[Any, ...]]()
    if succeeded := [transition.id for transition in transitions if transition.state == State.SUCCEEDED]:
        chosen, chosen_param = among_sql(using, succeeded, "uuid")
        statement = f"DELETE FROM rq_webhooks_queue WHERE delivery_id {chosen} AND {is_mine} RETURNING delivery_id"
        moved += fetch_all(using, statement, [chosen_param, tokens_param])
    if not (failed := [transition for transition in transitions if transition.state != State.SUCCEEDED]):
        return {to_uuid(row[0]) for row in moved}
    chosen, chosen_param = among_sql(using, [transition.id for transition in failed], "uuid")
    rows: dict[uuid.UUID, dict[str, Any]] = {
        transition.id: {
            "state": transition.state,
            "due_at": _due_in(using, transition.wait) if transition.state == State.PENDING else None,
            "keeps_time": "yes" if transition.is_early else "no",
            "error_kind": transition.error_kind if transition.state == State.FAILED else "",
            "counts": "no" if transition.is_ours or transition.is_early else "yes",
        }
        for transition in failed
    }
    names = ("state", "due_at", "error_kind", "counts", "keeps_time")
    state, due_at, kind, counts, keeps_time = (value_by_id_sql(using, "delivery_id", name) for name in names)
    if is_postgresql(using):
        due_at = f"STATEMENT_TIMESTAMP() + make_interval(secs => {due_at}::float8)"
    now = now_sql(using)
    moved += fetch_all(
        using,
        f"""
        UPDATE rq_webhooks_queue SET
            state = {state},
            claim = NULL,
            due_at = CASE WHEN {keeps_time} = 'yes' THEN rq_webhooks_queue.due_at ELSE {due_at} END,
            failures = failures + CASE WHEN {counts} = 'yes' THEN 1 ELSE 0 END,
            lost_leases = 0,
            overtaken = overtaken AND {state} = 'pending',
            failing_since = CASE WHEN {state} = 'pending' AND in_lane THEN COALESCE(failing_since, {now}) END,
            failed_at = CASE WHEN {state} = 'failed' THEN {now} END,
            error_kind = {kind}
        FROM {rows_by_id_sql(using)}
        WHERE delivery_id {chosen} AND {is_mine}
        RETURNING delivery_id
        """,
        [rows_by_id(using, rows), chosen_param, tokens_param],
    )
    return {to_uuid(row[0]) for row in moved}


def _due_in(using: str, wait: float) -> float | str:
    """The next attempt: the seconds until then, by PostgreSQL's clock. SQLite has none."""
    return wait if is_postgresql(using) else _time_text(using, datetime.now(UTC) + timedelta(seconds=wait))


def _time_text(using: str, moment: datetime) -> str:
    return str(connections[using].ops.adapt_datetimefield_value(to_db_time(moment)))


def _insert_attempts(
    using: str, outcomes: Sequence[tuple[HeldDelivery, Outcome]], numbers: Mapping[uuid.UUID, int], worker: str
) -> None:
    if not outcomes:
        return
    attempts = list[dict[str, Any]]()
    for delivery, outcome in outcomes:
        request = outcome.request or NO_REQUEST
        attempts.append(
            {
                "delivery_id": delivery.id.hex,
                "number": numbers[delivery.id],
                "started_at": _time_text(using, outcome.started_at),
                "duration_ms": outcome.duration_ms,
                "method": request.method,
                "url": request.url[:URL_LENGTH],
                "request_headers": request.headers,
                "body_kind": request.body_kind,
                "body_sha256": request.body_sha256,
                "succeeded": outcome.succeeded,
                "reason": outcome.reason,
                "error_kind": outcome.kind,
                "status": outcome.status,
                "response_headers": outcome.headers,
                "response_body": outcome.body,
                "worker": worker,
                "requested_by": delivery.row.requested_by,
            }
        )
    execute(using, insert_rows_sql(using, list(attempts[0]), "rq_webhooks_attempt"), [json.dumps(attempts)])


def _insert_bodies(outcomes: Sequence[tuple[HeldDelivery, Outcome]]) -> None:
    """Store the bodies that templates made. An earlier attempt may have stored the same one."""
    bodies = [
        Body(delivery_id=delivery.id, sha256=request.body_sha256, content=request.body)
        for delivery, outcome in outcomes
        if (request := outcome.request) and request.body
    ]
    Body.objects.bulk_create(bodies, ignore_conflicts=True)


def rows_by_id_sql(using: str) -> str:
    """A subquery of one row: a JSON object of rows by UUID, see ``rows_by_id``. Read it with ``value_by_id_sql``.

    A join would compare each row with each other: nested loops are all that workers allow.
    """
    return f"(SELECT {'%s::jsonb' if is_postgresql(using) else '%s'} AS rows) AS given"


def value_by_id_sql(using: str, column: str, name: str) -> str:
    """The value ``name`` of the row with the id in ``column``, as text."""
    if is_postgresql(using):
        return f"(given.rows -> {column}::text ->> '{name}')"
    return f"""json_extract(given.rows, '$."' || {column} || '".{name}')"""


def rows_by_id(using: str, rows: Mapping[uuid.UUID, Mapping[str, Any]]) -> str:
    """The parameter of ``rows_by_id_sql``."""
    return json.dumps({str(pk) if is_postgresql(using) else pk.hex: row for pk, row in rows.items()})
