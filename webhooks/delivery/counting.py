"""Count attempts by webhook and error kind, for the statistics.

The transaction that records attempts inserts what ``count`` returns, and ``roll_up`` adds it to the statistics.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from webhooks.ground.db import to_utc
from webhooks.ground.outcome import Outcome
from webhooks.models.statistic import DELAY, DURATION

if TYPE_CHECKING:
    from webhooks.delivery.claims import ClaimedDelivery


def count(
    attempts: Iterable[tuple[ClaimedDelivery, Outcome]],
    numbers: Mapping[uuid.UUID, int],
    given_up: Collection[uuid.UUID],
) -> list[dict[str, int | str]]:
    """Count attempts by webhook and error kind. Returns columns of ``Statistic`` that are not 0."""
    counts: dict[tuple[int, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for delivery, outcome in attempts:
        row = counts[delivery.row.webhook_id, outcome.kind]
        row["attempted"] += 1
        if given_up and delivery.id in given_up:
            row["given_up"] += 1
        row[DURATION.bucket(outcome.duration_ms)] += 1
        row[DURATION.total] += outcome.duration_ms
        row[DURATION.longest] = max(row[DURATION.longest], outcome.duration_ms, 1)
        if numbers[delivery.id] == 1:
            delay = max(0, (outcome.started_at - to_utc(delivery.bodies.timestamp)).total_seconds())
            row[DELAY.bucket(1000 * delay)] += 1
            row[DELAY.total] += round(1000 * delay)
            row[DELAY.longest] = max(row[DELAY.longest], round(1000 * delay), 1)
    return [
        {"webhook_id": webhook, "error_kind": kind, **{name: value for name, value in row.items() if value}}
        for (webhook, kind), row in counts.items()
    ]
