"""Finding, taking and promoting deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from webhooks.db import async_commit, fetch_all, is_postgresql, now_sql, to_uuid, uuid_sql, uuids_sql, uuids_value

# A head is pending or being sent, and still in its lane. As a value it is looked for in the unique index, once for each
# lane; of NOT EXISTS, a planner whose statistics are old makes a scan of all heads for each.
_HEAD_OF_THE_SAME_LANE = """
    SELECT head.id FROM webhooks_delivery AS head
    WHERE head.webhook_id = webhooks_delivery.webhook_id AND head.lane = webhooks_delivery.lane
      AND head.state IN ('pending', 'sending') AND head.in_lane
"""


@dataclass(frozen=True)
class Claim:
    """What a worker writes on deliveries to take them: its token, and for how many seconds; it may be for those of
    some webhooks only."""

    token: uuid.UUID
    lease: float
    webhooks: Collection[int] | None = None


class Taken(NamedTuple):
    """A delivery that a claim has just taken."""

    id: uuid.UUID
    webhook_id: int
    event_id: int
    attempt_count: int
    failures: int
    lost_leases: int
    due_at: Any  # as the database gives it: only good for sorting


_TAKEN = "id, webhook_id, event_id, attempt_count, failures, lost_leases, next_attempt_at"


class Suspicion(Enum):
    """What is known of a delivery from the leases that it lost, as a condition.

    Written such that a planner without statistics expects many of the first, and SQLite sees that the index of the
    others has them all.
    """

    NONE = "lost_leases <= 0"
    SOME = "lost_leases > 0 AND lost_leases = 1"
    STRONG = "lost_leases > 0 AND lost_leases > 1"


@dataclass(frozen=True)
class Due:
    """A webhook that has something to send now; one that is paused gets a single delivery, as a probe."""

    id: int
    is_probe: bool
    has_clean: bool
    """Whether deliveries are due that lost no lease."""
    lost_leases: int
    """The most leases that a due delivery lost. 0 for a probe where another delivery can be sent."""


def webhooks_with_due(using: str) -> list[Due]:
    """The enabled webhooks that have something to send now: those that are paused only when a probe is due."""
    now, now_params = now_sql(using)
    is_due = f"state = 'pending' AND next_attempt_at <= {now}"
    # The last subquery is evaluated only where something is suspect. It has an order, or a planner may scan all that is
    # due.
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
        Due(pk, bool(is_probe), bool(has_clean), 0 if is_probe and has_clean else lost)
        for pk, is_probe, lost, has_clean in found
    ]


def claim(using: str, room: Mapping[int, int], claim: Claim, suspicion: Suspicion = Suspicion.NONE) -> list[Taken]:
    """Take due deliveries, up to ``room[webhook id]`` of each webhook, those that are due for longest first.

    Rows that another worker is claiming are passed over. Call it in a transaction.
    """
    async_commit(using)
    find = _due_at_once if is_postgresql(using) else _due_by_webhook
    due = find(using, room, suspicion)
    lease, lease_params = now_sql(using, claim.lease)
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET state = 'sending', claim = {uuid_sql(using)}, lease_until = {lease}
        WHERE id IN {uuids_sql(using)} AND state = 'pending' RETURNING {_TAKEN}
        """,
        [claim.token.hex, *lease_params, uuids_value(using, due)],
    )
    return _taken(found)


def _taken(found: list[tuple[Any, ...]]) -> list[Taken]:
    taken = [Taken(to_uuid(pk), *rest) for pk, *rest in found]
    return sorted(taken, key=lambda one: (one.due_at, one.event_id))


def _due_at_once(using: str, room: Mapping[int, int], suspicion: Suspicion) -> list[uuid.UUID]:
    # One range of an index for each webhook: what waits for one webhook costs the others nothing.
    found = fetch_all(
        using,
        f"""
        SELECT due.id FROM unnest(%s::bigint[], %s::int[]) AS turn (webhook_id, most)
        CROSS JOIN LATERAL (
            SELECT id FROM webhooks_delivery
            WHERE webhook_id = turn.webhook_id AND state = 'pending' AND next_attempt_at <= STATEMENT_TIMESTAMP()
                AND {suspicion.value}
            ORDER BY next_attempt_at LIMIT turn.most FOR UPDATE SKIP LOCKED
        ) AS due
        """,
        [list(room), list(room.values())],
    )
    return [row[0] for row in found]


def _due_by_webhook(using: str, room: Mapping[int, int], suspicion: Suspicion) -> list[uuid.UUID]:
    now, now_params = now_sql(using)
    due: list[uuid.UUID] = []
    for webhook_id, most in room.items():
        found = fetch_all(
            using,
            f"""
            SELECT id FROM webhooks_delivery
            WHERE webhook_id = %s AND state = 'pending' AND next_attempt_at <= {now} AND {suspicion.value}
            ORDER BY next_attempt_at LIMIT %s
            """,
            [webhook_id, *now_params, most],
        )
        due += [to_uuid(row[0]) for row in found]
    return due


def promote(using: str, beside: Collection[uuid.UUID], claim: Claim | None = None) -> list[Taken]:
    """In the lanes of these deliveries, make the first waiting one the head where there is none.

    With a ``claim``, new heads of webhooks that are enabled and not paused are taken at once, and returned. Raises
    IntegrityError beside another promotion in the same lane: call it ``atomically``.
    """
    if not beside:
        return []
    now, now_params = now_sql(using)
    lease, lease_params = now_sql(using, claim.lease if claim else 0)
    taken = _may_be_taken(claim)
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET
            state = CASE WHEN {taken} THEN 'sending' ELSE 'pending' END,
            claim = CASE WHEN {taken} THEN {uuid_sql(using)} END,
            lease_until = CASE WHEN {taken} THEN {lease} END,
            next_attempt_at = {now},
            head_since = {now}
        WHERE id IN (
            SELECT (
                SELECT id FROM webhooks_delivery AS next
                WHERE next.webhook_id = ended.webhook_id AND next.lane = ended.lane AND next.state = 'waiting'
                ORDER BY next.event_id LIMIT 1
            ) FROM webhooks_delivery AS ended WHERE ended.id IN {uuids_sql(using)}
        ) AND state = 'waiting' AND ({_HEAD_OF_THE_SAME_LANE}) IS NULL
        RETURNING {_TAKEN}, state
        """,
        [
            claim.token.hex if claim else None,
            *lease_params,
            *now_params,
            *now_params,
            uuids_value(using, beside),
        ],
    )
    return _taken([row[:-1] for row in found if row[-1] == "sending"])


def _may_be_taken(claim: Claim | None) -> str:
    if claim is None or claim.webhooks == frozenset():
        return "1 = 0"
    chosen = f"webhook_id IN ({', '.join(map(str, claim.webhooks))}) AND" if claim.webhooks else ""
    return f"({chosen} (SELECT enabled AND probe_at IS NULL FROM webhooks_webhook WHERE id = webhook_id))"


def lock_heads(using: str, deliveries: Collection[uuid.UUID]) -> None:
    """Lock the heads of these deliveries' lanes, so that whoever ends one sees what just changed behind it."""
    beside = uuids_value(using, deliveries)
    lock = "FOR NO KEY UPDATE" if is_postgresql(using) else ""
    locked: set[uuid.UUID] = set()
    # A lane may get another head while the lock of its last one is waited for: so look again, without a lock.
    while set(_heads(using, beside, "")) - locked:
        locked |= set(_heads(using, beside, lock))


def _heads(using: str, beside: str, lock: str) -> list[uuid.UUID]:
    # The subquery asks the unique index once for each lane; of a join, a planner without statistics makes a scan.
    found = fetch_all(
        using,
        f"""
        SELECT id FROM webhooks_delivery
        WHERE id IN (
            SELECT (
                SELECT id FROM webhooks_delivery AS head
                WHERE head.webhook_id = mine.webhook_id AND head.lane = mine.lane
                  AND head.state IN ('pending', 'sending') AND head.in_lane
            ) FROM webhooks_delivery AS mine WHERE mine.id IN {uuids_sql(using)}
        ) AND state IN ('pending', 'sending') AND in_lane ORDER BY id {lock}
        """,
        [beside],
    )
    return [to_uuid(row[0]) for row in found]
