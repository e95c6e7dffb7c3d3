"""The SQL that finds and claims due deliveries, and that promotes the next delivery of a lane to its head."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from webhooks.db import (
    async_commit,
    atomically,
    fetch_all,
    is_postgresql,
    now_sql,
    to_uuid,
    uuid_sql,
    uuids_sql,
    uuids_value,
)


@dataclass(frozen=True)
class Claim:
    token: uuid.UUID
    """Written to each claimed row. A worker may only record rows that still have its token."""
    lease: float
    """Seconds until other workers may claim the rows again."""
    webhooks: Collection[int] | None = None
    """``promote`` claims deliveries of these webhooks only. None: of all."""


class ClaimedRow(NamedTuple):
    """The columns of a claimed delivery that its attempt needs."""

    id: uuid.UUID
    webhook_id: int
    event_id: int
    attempt_count: int
    failures: int
    lost_leases: int
    due_at: Any  # in the database's own format: use it to sort only


_CLAIMED = "id, webhook_id, event_id, attempt_count, failures, lost_leases, next_attempt_at"


class Suspicion(Enum):
    """How many leases a delivery lost, as an SQL condition.

    The redundant conditions are for query planners. Without statistics they expect many rows of NONE, and SQLite uses
    the partial index for the other two.
    """

    NONE = "lost_leases <= 0"
    SOME = "lost_leases > 0 AND lost_leases = 1"
    STRONG = "lost_leases > 0 AND lost_leases > 1"


@dataclass(frozen=True)
class DueWebhook:
    """A webhook with deliveries to send now. A paused webhook gets one delivery, as a probe."""

    id: int
    is_probe: bool
    has_clean: bool
    """Whether deliveries are due that lost no lease."""
    lost_leases: int
    """The most leases that a due delivery lost. 0 for a probe if a clean delivery can be sent."""


def due_webhooks(using: str) -> list[DueWebhook]:
    """The enabled webhooks with deliveries to send now. Paused webhooks only if their probe is due."""
    now, now_params = now_sql(using)
    is_due = f"state = 'pending' AND next_attempt_at <= {now}"
    # The database evaluates the last subquery only if a delivery is suspect. The ORDER BY keeps planners from scanning
    # all due rows.
    found = fetch_all(
        using,
        f"""
        WITH due AS MATERIALIZED (
            SELECT id, probe_at IS NOT NULL AS is_probe, (
                SELECT MAX(lost_leases) FROM webhooks_delivery
                WHERE webhook_id = webhooks_webhook.id AND {is_due} AND lost_leases > 0
            ) AS lost
            FROM webhooks_webhook WHERE enabled AND (probe_at IS NULL OR probe_at <= {now}) AND EXISTS (
                SELECT 1 FROM webhooks_delivery WHERE webhook_id = webhooks_webhook.id AND {is_due}
            )
        )
        SELECT id, is_probe, COALESCE(lost, 0), lost IS NULL OR (
            SELECT 1 FROM webhooks_delivery WHERE webhook_id = due.id AND {is_due} AND {Suspicion.NONE.value}
            ORDER BY next_attempt_at LIMIT 1
        ) IS NOT NULL
        FROM due
        """,
        [*now_params * 4],
    )
    return [
        DueWebhook(pk, bool(is_probe), bool(has_clean), 0 if is_probe and has_clean else lost)
        for pk, is_probe, lost, has_clean in found
    ]


def claim(
    using: str, capacity: Mapping[int, int], claim: Claim, suspicion: Suspicion = Suspicion.NONE
) -> list[ClaimedRow]:
    """Claim up to ``capacity[webhook id]`` due deliveries of each webhook, the longest due first.

    Rows that another worker is claiming are skipped.
    """
    return atomically(lambda: _claim(using, capacity, claim, suspicion), using)


def _claim(using: str, capacity: Mapping[int, int], claim: Claim, suspicion: Suspicion) -> list[ClaimedRow]:
    async_commit(using)
    due = (_lock_due if is_postgresql(using) else _find_due)(using, capacity, suspicion)
    lease, lease_params = now_sql(using, claim.lease)
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET state = 'sending', claim = {uuid_sql(using)}, lease_until = {lease}
        WHERE id IN {uuids_sql(using)} AND state = 'pending' RETURNING {_CLAIMED}
        """,
        [claim.token.hex, *lease_params, uuids_value(using, due)],
    )
    return _sorted(found)


def _sorted(found: list[tuple[Any, ...]]) -> list[ClaimedRow]:
    claimed = [ClaimedRow(to_uuid(pk), *rest) for pk, *rest in found]
    return sorted(claimed, key=lambda row: (row.due_at, row.event_id))


def _lock_due(using: str, capacity: Mapping[int, int], suspicion: Suspicion) -> list[uuid.UUID]:
    """For PostgreSQL. Reads one range of an index for each webhook, so the backlog of one costs the others nothing."""
    found = fetch_all(
        using,
        f"""
        SELECT due.id FROM unnest(%s::bigint[], %s::int[]) AS capacity (webhook_id, free)
        CROSS JOIN LATERAL (
            SELECT id FROM webhooks_delivery
            WHERE webhook_id = capacity.webhook_id AND state = 'pending' AND next_attempt_at <= STATEMENT_TIMESTAMP()
                AND {suspicion.value}
            ORDER BY next_attempt_at LIMIT capacity.free FOR UPDATE SKIP LOCKED
        ) AS due
        """,
        [list(capacity), list(capacity.values())],
    )
    return [row[0] for row in found]


def _find_due(using: str, capacity: Mapping[int, int], suspicion: Suspicion) -> list[uuid.UUID]:
    """For SQLite, which has neither LATERAL nor row locks."""
    now, now_params = now_sql(using)
    statement = f"""
        SELECT id FROM webhooks_delivery
        WHERE webhook_id = %s AND state = 'pending' AND next_attempt_at <= {now} AND {suspicion.value}
        ORDER BY next_attempt_at LIMIT %s
    """
    found = (fetch_all(using, statement, [webhook_id, *now_params, free]) for webhook_id, free in capacity.items())
    return [to_uuid(row[0]) for part in found for row in part]


# A head is pending or sending, and in its lane. The statements below look it up with a scalar subquery, in the unique
# index and once for each lane. With NOT EXISTS or a join, a planner with old statistics scans all heads.
_HEAD = """
    SELECT head.id FROM webhooks_delivery AS head
    WHERE head.webhook_id = {row}.webhook_id AND head.lane = {row}.lane
      AND head.state IN ('pending', 'sending') AND head.in_lane
"""


def promote(using: str, deliveries: Collection[uuid.UUID], claim: Claim | None = None) -> list[ClaimedRow]:
    """In the lanes of these deliveries, make the first waiting delivery the head if there is no head.

    With a ``claim``, new heads of webhooks that are enabled and not paused are claimed at once, and returned. Raises
    IntegrityError if another promotion in the same lane is faster: call it in ``atomically``.
    """
    if not deliveries:
        return []
    now, now_params = now_sql(using)
    lease, lease_params = now_sql(using, claim.lease if claim else 0)
    claimable = _is_claimable(claim)
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET
            state = CASE WHEN {claimable} THEN 'sending' ELSE 'pending' END,
            claim = CASE WHEN {claimable} THEN {uuid_sql(using)} END,
            lease_until = CASE WHEN {claimable} THEN {lease} END,
            next_attempt_at = {now},
            head_since = {now}
        WHERE id IN (
            SELECT (
                SELECT id FROM webhooks_delivery AS next
                WHERE next.webhook_id = ended.webhook_id AND next.lane = ended.lane AND next.state = 'waiting'
                ORDER BY next.event_id LIMIT 1
            ) FROM webhooks_delivery AS ended WHERE ended.id IN {uuids_sql(using)}
        ) AND state = 'waiting' AND ({_HEAD.format(row="webhooks_delivery")}) IS NULL
        RETURNING {_CLAIMED}, state
        """,
        [claim.token.hex if claim else None, *lease_params, *now_params * 2, uuids_value(using, deliveries)],
    )
    return _sorted([row[:-1] for row in found if row[-1] == "sending"])


def _is_claimable(claim: Claim | None) -> str:
    if claim is None or claim.webhooks == frozenset():
        return "1 = 0"
    chosen = f"webhook_id IN ({', '.join(map(str, claim.webhooks))}) AND" if claim.webhooks else ""
    return f"({chosen} (SELECT enabled AND probe_at IS NULL FROM webhooks_webhook WHERE id = webhook_id))"


def lock_heads(using: str, deliveries: Collection[uuid.UUID]) -> None:
    """Lock the heads of these deliveries' lanes. A transaction that ends a head then sees the changes of this one."""
    lock = "FOR NO KEY UPDATE" if is_postgresql(using) else ""
    locked: set[uuid.UUID] = set()
    # While this waits for the lock of a head, its lane may get another head: look again, without a lock.
    while set(_heads(using, deliveries, "")) - locked:
        locked |= set(_heads(using, deliveries, lock))


def _heads(using: str, deliveries: Collection[uuid.UUID], lock: str) -> list[uuid.UUID]:
    found = fetch_all(
        using,
        f"""
        SELECT id FROM webhooks_delivery
        WHERE id IN (
            SELECT ({_HEAD.format(row="given")}) FROM webhooks_delivery AS given WHERE given.id IN {uuids_sql(using)}
        ) AND state IN ('pending', 'sending') AND in_lane ORDER BY id {lock}
        """,
        [uuids_value(using, deliveries)],
    )
    return [to_uuid(row[0]) for row in found]
