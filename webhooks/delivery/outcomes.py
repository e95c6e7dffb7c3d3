"""Record the outcomes of attempts, move their deliveries on, and promote what waits behind them."""

from __future__ import annotations

import json
import random
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections

from webhooks.conf import conf
from webhooks.db import (
    async_commit,
    execute,
    fetch_all,
    is_postgresql,
    json_rows_sql,
    now_sql,
    to_db_time,
    to_uuid,
)
from webhooks.delivery import health, retry_policy
from webhooks.delivery.claims import Claimed
from webhooks.models import Delivery, State, Webhook
from webhooks.models.claims import Claim, ClaimedRow, promote
from webhooks.models.delivery import URL_LENGTH
from webhooks.network.outcome import Outcome


@dataclass(frozen=True)
class Transition:
    """A delivery's change of state after an attempt. ``wait`` is in seconds, until the next attempt."""

    id: uuid.UUID
    token: uuid.UUID
    state: str
    failed: int
    wait: float
    reason: str


@dataclass(frozen=True)
class Recorded:
    """The deliveries that were promoted and claimed, and the webhooks that were paused or disabled."""

    claimed: Sequence[ClaimedRow]
    stopped: set[int]


def record(outcomes: Sequence[tuple[Claimed, Outcome]], worker: str, claim: Claim | None = None) -> Recorded:
    """Record attempts, move their deliveries on, and promote the next ones of lanes whose head has ended.

    An outcome is dropped if its claim was lost meanwhile: the worker that holds the delivery now records it. With a
    ``claim``, the promoted deliveries are claimed at once. Call it ``atomically``.
    """
    using = Delivery.objects.db
    async_commit(using)
    transitions = {claimed.id: _transition(claimed, outcome) for claimed, outcome in outcomes}
    held = move_on(using, transitions.values())
    mine = [(claimed, outcome) for claimed, outcome in outcomes if claimed.id in held]
    _insert_attempts(using, mine, worker)
    by_webhook: dict[Webhook, list[Outcome]] = defaultdict(list)
    for claimed, outcome in mine:
        by_webhook[claimed.webhook].append(outcome)
    # Before the promotion, which claims nothing of a webhook that stops here.
    stopped = health.update_all(by_webhook)
    return Recorded(promote(using, [pk for pk in held if transitions[pk].state != State.PENDING], claim), stopped)


def _transition(claimed: Claimed, outcome: Outcome) -> Transition:
    if outcome.succeeded:
        return Transition(claimed.id, claimed.token, State.SUCCEEDED, failed=0, wait=0, reason="")
    wait = retry_policy.next_wait(
        conf.retry_schedule,
        claimed.failures + 1,
        jitter=conf.retry_jitter,
        chance=random.random(),  # noqa: S311 # nosec B311 # spreads load, guards nothing
        overloaded=outcome.overloaded,
        retry_after=outcome.retry_after,
    )
    state = State.FAILED if wait is None else State.PENDING
    return Transition(claimed.id, claimed.token, state, failed=1, wait=wait or 0, reason=outcome.reason)


def move_on(using: str, transitions: Collection[Transition]) -> set[uuid.UUID]:
    """Write transitions. Returns the ids of the deliveries that were still held under their tokens; the others stay as
    they are."""
    now, now_params = now_sql(using)
    given = [vars(transition) | {"id": transition.id.hex, "token": transition.token.hex} for transition in transitions]
    if is_postgresql(using):
        outcome = """json_to_recordset(%s::json)
            AS outcome (id uuid, token uuid, state text, failed int, wait float8, reason text)"""
        next_attempt_at = "STATEMENT_TIMESTAMP() + make_interval(secs => outcome.wait)"
    else:
        given = [row | {"wait": str(now_sql(using, row["wait"])[1][0])} for row in given]
        values = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in Transition.__dataclass_fields__)
        outcome, next_attempt_at = f"(SELECT {values} FROM json_each(%s)) AS outcome", "outcome.wait"
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET
            state = outcome.state,
            claim = NULL,
            lease_until = NULL,
            lost_leases = 0,
            attempt_count = attempt_count + 1,
            failures = failures + outcome.failed,
            reason = outcome.reason,
            next_attempt_at = {next_attempt_at},
            finished_at = CASE WHEN outcome.state = 'pending' THEN NULL ELSE {now} END
        FROM {outcome}
        WHERE webhooks_delivery.id = outcome.id AND claim = outcome.token AND webhooks_delivery.state = 'sending'
        RETURNING webhooks_delivery.id
        """,
        [*now_params, json.dumps(given)],
    )
    return {to_uuid(row[0]) for row in found}


def _insert_attempts(using: str, outcomes: Sequence[tuple[Claimed, Outcome]], worker: str) -> None:
    if not outcomes:
        return
    adapt = connections[using].ops.adapt_datetimefield_value
    attempts: list[dict[str, Any]] = [
        {
            "delivery_id": claimed.id.hex,
            "number": claimed.attempt_count + 1,
            "started_at": str(adapt(to_db_time(outcome.started_at))),
            "duration_ms": outcome.duration_ms,
            "url": (outcome.url or claimed.webhook.payload_url)[:URL_LENGTH],
            "succeeded": outcome.succeeded,
            "reason": outcome.reason,
            "status": outcome.status,
            "response_headers": outcome.headers,
            "response_body": outcome.body,
            "worker": worker,
        }
        for claimed, outcome in outcomes
    ]
    names = ", ".join(attempts[0])
    given = json_rows_sql(using, list(attempts[0]), "webhooks_attempt")
    execute(
        using,
        f"INSERT INTO webhooks_attempt ({names}) SELECT {names} FROM {given} WHERE 1 = 1",
        [json.dumps(attempts)],
    )
