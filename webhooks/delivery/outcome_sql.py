"""Writing down what came of attempts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections

from webhooks.db import execute, fetch_all, is_postgresql, json_rows_sql, now_sql, to_db_time, to_uuid


@dataclass(frozen=True)
class Transition:
    """What becomes of a delivery after an attempt; ``wait`` is in seconds, until the next one."""

    id: uuid.UUID
    token: uuid.UUID
    state: str
    failed: int
    wait: float
    reason: str


def record(using: str, transitions: Collection[Transition]) -> set[uuid.UUID]:
    """Move deliveries on after their attempts. Returns the ids of those that were still held under their token:
    another worker's, whose claim came later, stay as they are."""
    now, now_params = now_sql(using)
    outcomes, outcomes_params = _outcomes(using, transitions)
    found = fetch_all(
        using,
        f"""
        UPDATE webhooks_delivery SET
            state = outcome.new_state,
            claim = NULL,
            lease_until = NULL,
            lost_leases = 0,
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
    return {to_uuid(row[0]) for row in found}


def _outcomes(using: str, transitions: Collection[Transition]) -> tuple[str, list[Any]]:
    """A table of the transitions, from one parameter."""
    given = [vars(transition) | {"id": transition.id.hex, "token": transition.token.hex} for transition in transitions]
    if is_postgresql(using):
        table = """(
            SELECT id AS delivery_id, token, state AS new_state, failed, reason AS new_reason,
                   STATEMENT_TIMESTAMP() + make_interval(secs => wait) AS next_at
            FROM json_to_recordset(%s::json)
                AS given (id uuid, token uuid, state text, failed int, wait float8, reason text)
        ) AS outcome"""
    else:
        given = [row | {"wait": str(now_sql(using, row["wait"])[1][0])} for row in given]
        table = """(
            SELECT json_extract(value, '$.id') AS delivery_id, json_extract(value, '$.token') AS token,
                   json_extract(value, '$.state') AS new_state, json_extract(value, '$.failed') AS failed,
                   json_extract(value, '$.reason') AS new_reason, json_extract(value, '$.wait') AS next_at
            FROM json_each(%s)
        ) AS outcome"""
    return table, [json.dumps(given)]


def add_attempts(using: str, attempts: Sequence[Mapping[str, Any]]) -> None:
    """Insert attempts, given by their columns, all with the same ones."""
    if not attempts:
        return
    columns = list(attempts[0])
    names = ", ".join(columns)
    execute(
        using,
        f"""
        INSERT INTO webhooks_attempt ({names})
        SELECT {names} FROM {json_rows_sql(using, columns, "webhooks_attempt")} WHERE 1 = 1
        """,
        [json.dumps(attempts)],
    )


def time_text(using: str, moment: datetime) -> str:
    """A moment as text that the column of a table takes."""
    return str(connections[using].ops.adapt_datetimefield_value(to_db_time(moment)))
