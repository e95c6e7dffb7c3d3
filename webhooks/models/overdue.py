"""The SQL that finds what the sweep has to do: blocked lanes, lanes without a head, deliveries after their retention.

Each statement reads one range of an index for each webhook, so it costs what it finds, however much else is stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from webhooks.db import fetch_all, is_postgresql, now_sql, to_uuid
from webhooks.models.lanes import Place

SMALLEST_LANE = -(2**63)


def blocking_heads(using: str, seconds: float, most: int) -> dict[uuid.UUID, Place]:
    """Up to ``most`` heads that have failed for longer than ``seconds``, of webhooks that were sent to in all that
    time."""
    since, since_params = now_sql(using, -seconds)
    is_sent = f"enabled AND paused_at IS NULL AND probe_at IS NULL AND (resumed_at IS NULL OR resumed_at <= {since})"
    found = _of_each_webhook(
        using,
        "delivery_id, queued.webhook_id, lane, event_id",
        "webhooks_queue",
        f"queued.failing_since < {since} AND state = 'pending' AND in_lane",
        "failing_since",
        since_params,
        most,
        where=f"WHERE {is_sent}",
        where_params=since_params,
    )
    return {to_uuid(pk): Place(*place) for pk, *place in found}


def ended_before(using: str, state: str, seconds: float, most: int) -> list[uuid.UUID]:
    """Up to ``most`` deliveries that failed or were discarded, see ``state``, more than ``seconds`` ago."""
    table, pk = ("webhooks_queue", "delivery_id") if state == "failed" else ("webhooks_delivery", "id")
    before, params = now_sql(using, -seconds)
    condition = f"queued.{state}_at < {before}"
    return [
        to_uuid(row[0])
        for row in _of_each_webhook(using, f"queued.{pk}", table, condition, f"{state}_at", params, most)
    ]


def _of_each_webhook(
    using: str,
    columns: str,
    table: str,
    condition: str,
    order: str,
    params: Sequence[Any],
    most: int,
    where: str = "",
    where_params: Sequence[Any] = (),
) -> list[tuple[Any, ...]]:
    """Up to ``most`` rows of a table, ``queued``, that an index finds by webhook and by the column ``order``."""
    if not is_postgresql(using):
        statement = f"""
            SELECT {columns} FROM {table} AS queued
            JOIN webhooks_webhook ON webhooks_webhook.id = queued.webhook_id AND {condition} {where} LIMIT %s
        """
        return fetch_all(using, statement, [*params, *where_params, most])
    statement = f"""
        SELECT found.* FROM webhooks_webhook CROSS JOIN LATERAL (
            SELECT {columns} FROM {table} AS queued WHERE queued.webhook_id = webhooks_webhook.id AND {condition}
            ORDER BY queued.{order} LIMIT %s
        ) AS found {where} LIMIT %s
    """
    return fetch_all(using, statement, [*params, most, *where_params, most])


def headless_lanes(using: str, webhook_id: int, first: int, most: int) -> tuple[list[int], list[int]]:
    """Look at up to ``most`` lanes of a webhook, from the lane ``first`` on. Returns them, and the lanes that may
    have no head: the first delivery in order is waiting. Behind one that was retried, there may be a head."""
    following = "SELECT lane FROM webhooks_queue WHERE webhook_id = %s AND lane {} ORDER BY lane LIMIT 1"
    found = fetch_all(
        using,
        f"""
        WITH RECURSIVE lanes (lane) AS (
            SELECT ({following.format(">= %s")})
            UNION ALL SELECT ({following.format("> lanes.lane")}) FROM lanes WHERE lanes.lane IS NOT NULL
        )
        SELECT lane, (
            SELECT state FROM webhooks_queue AS queued
            WHERE webhook_id = %s AND queued.lane = lanes.lane
                AND in_lane AND state IN ('waiting', 'pending', 'sending')
            ORDER BY event_id LIMIT 1
        ) FROM lanes WHERE lane IS NOT NULL LIMIT %s
        """,
        [webhook_id, first, webhook_id, webhook_id, most],
    )
    return [lane for lane, _ in found], [lane for lane, state in found if state == "waiting"]
