"""The statements that run over and over, as SQL, the same for PostgreSQL and SQLite.

The ORM takes several times longer to put one of these together than a database takes to run it, and a lane
waits for each of them. What runs now and then, or for an admin, is on the querysets in ``managers``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.db import connections

from webhooks.clock import moment

# The only heads of a lane are pending or being sent, and still in it.
_HEAD_OF_THE_SAME_LANE = """
    SELECT 1 FROM webhooks_delivery AS head
    WHERE head.webhook_id = webhooks_delivery.webhook_id AND head.lane = webhooks_delivery.lane
      AND head.state IN ('pending', 'sending') AND head.in_lane
"""


@dataclass(frozen=True)
class Claim:
    """What a worker writes on deliveries to take them: its token, and for how many seconds."""

    token: uuid.UUID
    lease: float


@dataclass(frozen=True)
class Verdict:
    """What becomes of a delivery after an attempt; ``wait`` is in seconds, until the next one."""

    id: uuid.UUID
    token: uuid.UUID
    state: str
    failed: int
    wait: float
    reason: str


@dataclass(frozen=True)
class Due:
    """A webhook that has something to send now; one that is paused gets a single delivery, as a probe."""

    id: int
    is_probe: bool


def webhooks_with_due(using: str) -> list[Due]:
    """The enabled webhooks that have something to send now: those that are paused only when a probe is due."""
    now, now_params = moment(connections[using])
    found = _rows(
        using,
        f"""
        SELECT id, probe_at IS NOT NULL FROM webhooks_webhook
        WHERE enabled AND (probe_at IS NULL OR probe_at <= {now}) AND EXISTS (
            SELECT 1 FROM webhooks_delivery
            WHERE webhook_id = webhooks_webhook.id AND state = 'pending' AND next_attempt_at <= {now}
        )
        """,
        [*now_params, *now_params],
    )
    return [Due(pk, bool(is_probe)) for pk, is_probe in found]


def has_undispatched(using: str) -> bool:
    """Whether an Event waits to be dispatched."""
    return bool(_rows(using, "SELECT 1 FROM webhooks_event WHERE dispatched_at IS NULL AND error = '' LIMIT 1", []))


def insert(using: str, table: str, columns: Mapping[str, Any]) -> Any:
    """Insert a row of values that the database's adapter takes as they are. Returns its id."""
    names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
    statement = f"INSERT INTO {table} ({names}) VALUES ({places}) RETURNING id"
    return _rows(using, statement, list(columns.values()))[0][0]


def claim(using: str, room: Mapping[int, int], claim: Claim) -> list[uuid.UUID]:
    """Take due deliveries, up to ``room[webhook id]`` of each webhook, and return their ids.

    Rows that another worker is claiming are passed over. Call it in a transaction.
    """
    due = _due_at_once(using, room) if _is_postgresql(using) else _due_by_webhook(using, room)
    lease, lease_params = moment(connections[using], claim.lease)
    found = _rows(
        using,
        f"""
        UPDATE webhooks_delivery SET state = 'sending', claim = %s, lease_until = {lease}
        WHERE id IN {_ids(using)} AND state = 'pending' RETURNING id
        """,
        [_id(using, claim.token), *lease_params, _id_list(using, due)],
    )
    return [_uuid(row[0]) for row in found]


def _due_at_once(using: str, room: Mapping[int, int]) -> list[uuid.UUID]:
    # One range of an index for each webhook: what waits for one webhook costs the others nothing.
    found = _rows(
        using,
        """
        SELECT due.id FROM unnest(%s::bigint[], %s::int[]) AS turn (webhook_id, most)
        CROSS JOIN LATERAL (
            SELECT id FROM webhooks_delivery
            WHERE webhook_id = turn.webhook_id AND state = 'pending' AND next_attempt_at <= STATEMENT_TIMESTAMP()
            ORDER BY next_attempt_at LIMIT turn.most FOR UPDATE SKIP LOCKED
        ) AS due
        """,
        [list(room), list(room.values())],
    )
    return [row[0] for row in found]


def _due_by_webhook(using: str, room: Mapping[int, int]) -> list[uuid.UUID]:
    now, now_params = moment(connections[using])
    due: list[uuid.UUID] = []
    for webhook_id, most in room.items():
        found = _rows(
            using,
            f"""
            SELECT id FROM webhooks_delivery WHERE webhook_id = %s AND state = 'pending' AND next_attempt_at <= {now}
            ORDER BY next_attempt_at LIMIT %s
            """,
            [webhook_id, *now_params, most],
        )
        due += [_uuid(row[0]) for row in found]
    return due


def promote(using: str, beside: Collection[uuid.UUID], claim: Claim | None = None) -> list[uuid.UUID]:
    """In the lanes of these deliveries, make the first waiting one the head where there is none.

    With a ``claim``, new heads of webhooks that are enabled and not paused are taken at once; their ids are
    returned. Raises IntegrityError beside another promotion in the same lane: call it ``atomically``.
    """
    if not beside:
        return []
    connection = connections[using]
    now, now_params = moment(connection)
    lease, lease_params = moment(connection, claim.lease if claim else 0)
    taken = "(SELECT enabled AND probe_at IS NULL FROM webhooks_webhook WHERE id = webhook_id)" if claim else "1 = 0"
    found = _rows(
        using,
        f"""
        UPDATE webhooks_delivery SET
            state = CASE WHEN {taken} THEN 'sending' ELSE 'pending' END,
            claim = CASE WHEN {taken} THEN {_uuid_parameter(using)} END,
            lease_until = CASE WHEN {taken} THEN {lease} END,
            next_attempt_at = {now},
            head_since = {now}
        WHERE id IN (
            SELECT (
                SELECT id FROM webhooks_delivery AS next
                WHERE next.webhook_id = ended.webhook_id AND next.lane = ended.lane AND next.state = 'waiting'
                ORDER BY next.event_id LIMIT 1
            ) FROM webhooks_delivery AS ended WHERE ended.id IN {_ids(using)}
        ) AND state = 'waiting' AND NOT EXISTS ({_HEAD_OF_THE_SAME_LANE})
        RETURNING id, state
        """,
        [
            _id(using, claim.token) if claim else None,
            *lease_params,
            *now_params,
            *now_params,
            _id_list(using, beside),
        ],
    )
    return [_uuid(row[0]) for row in found if row[1] == "sending"]


def relax(using: str) -> None:
    """Let the transaction commit without waiting for the disk. What a crash of the database then takes back is
    attempted again, under the same id; that a crash of a worker loses nothing does not depend on it."""
    if _is_postgresql(using):
        with connections[using].cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit TO OFF")


def record(using: str, verdicts: Collection[Verdict]) -> set[uuid.UUID]:
    """Move deliveries on after their attempts. Returns the ids of those that were still held under their token:
    another worker's, whose claim came later, stay as they are."""
    now, now_params = moment(connections[using])
    outcomes, outcomes_params = _outcomes(using, verdicts)
    found = _rows(
        using,
        f"""
        UPDATE webhooks_delivery SET
            state = outcome.new_state,
            claim = NULL,
            lease_until = NULL,
            attempt_count = attempt_count + 1,
            failures = failures + outcome.failed,
            reason = outcome.new_reason,
            next_attempt_at = outcome.next_at,
            finished_at = CASE WHEN outcome.new_state = 'pending' THEN NULL ELSE {now} END
        FROM {outcomes}
        WHERE id = outcome.delivery_id AND claim = outcome.token AND state = 'sending'
        RETURNING id
        """,
        [*now_params, *outcomes_params],
    )
    return {_uuid(row[0]) for row in found}


def _outcomes(using: str, verdicts: Collection[Verdict]) -> tuple[str, list[Any]]:
    """A table of the verdicts, from one parameter."""
    connection = connections[using]
    rows = [asdict(verdict) | {"id": verdict.id.hex, "token": verdict.token.hex} for verdict in verdicts]
    if _is_postgresql(using):
        table = """(
            SELECT id AS delivery_id, token, state AS new_state, failed, reason AS new_reason,
                   STATEMENT_TIMESTAMP() + make_interval(secs => wait) AS next_at
            FROM json_to_recordset(%s::json)
                AS given (id uuid, token uuid, state text, failed int, wait float8, reason text)
        ) AS outcome"""
    else:
        rows = [row | {"wait": str(moment(connection, row["wait"])[1][0])} for row in rows]
        table = """(
            SELECT json_extract(value, '$.id') AS delivery_id, json_extract(value, '$.token') AS token,
                   json_extract(value, '$.state') AS new_state, json_extract(value, '$.failed') AS failed,
                   json_extract(value, '$.reason') AS new_reason, json_extract(value, '$.wait') AS next_at
            FROM json_each(%s)
        ) AS outcome"""
    return table, [json.dumps(rows)]


def _rows(using: str, statement: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    with connections[using].cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def _is_postgresql(using: str) -> bool:
    return connections[using].vendor == "postgresql"


def _ids(using: str) -> str:
    return "(SELECT unnest(%s::uuid[]))" if _is_postgresql(using) else "(SELECT value FROM json_each(%s))"


def _id_list(using: str, ids: Collection[uuid.UUID]) -> Any:
    return list(ids) if _is_postgresql(using) else json.dumps([value.hex for value in ids])


def _uuid_parameter(using: str) -> str:
    return "%s::uuid" if _is_postgresql(using) else "%s"


def _id(using: str, value: uuid.UUID) -> Any:
    return value if _is_postgresql(using) else value.hex


def _uuid(value: Any) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
