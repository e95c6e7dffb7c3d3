"""Count the attempts and the skips of each webhook by minute and hour.

``write`` inserts the counts of a group of attempts, ``count_skips`` the counts of skips. ``roll_up`` adds both to the
statistics.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from django.db.models import QuerySet

from webhooks.db import among_sql, execute, is_postgresql, to_utc
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.models import Skip, Statistic, StatisticDelta
from webhooks.models.statistic import (
    COLUMNS,
    DELAY,
    DURATION,
    LONGEST,
    Period,
    deltas_sql,
    merged_sql,
    minute_of,
    unix_time_sql,
)
from webhooks.network.outcome import Outcome

if TYPE_CHECKING:
    from webhooks.delivery.claims import HeldDelivery

KEY = ("webhook_id", "period", "start", "error_kind")

# Statistics by minute are stored for a day; those by hour for ``STATISTIC_DAYS``.
MINUTE_DAYS = 1


def write(
    using: str,
    attempts: Sequence[tuple[HeldDelivery, Outcome]],
    numbers: Mapping[uuid.UUID, int],
    given_up: Collection[uuid.UUID],
) -> None:
    """Insert the counts of attempts: one row in the transaction that records them. ``numbers`` has the numbers of the
    attempts by delivery, and ``given_up`` the ids of the deliveries that failed with theirs."""
    if not attempts:
        return
    minute = f"{unix_time_sql(using)} / {Period.MINUTE} * {Period.MINUTE}"
    execute(
        using,
        f"INSERT INTO rq_webhooks_statisticdelta (start, counts) VALUES ({minute}, %s)",
        [json.dumps(count(attempts, numbers, given_up), separators=(",", ":"))],
    )


def count(
    attempts: Iterable[tuple[HeldDelivery, Outcome]],
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


def add_up(most: int, skips: ScanFloors | None = None, deltas: ScanFloors | None = None) -> int:
    """Count up to ``most`` skips, then add as many deltas to the statistics. Call it in a transaction.

    Returns how many there were. ``skips`` and ``deltas`` are the floors of looks for them.
    """
    return count_skips(most, skips) + roll_up(most, deltas)


def count_skips(most: int, floors: ScanFloors | None = None) -> int:
    """Count up to ``most`` skips, in a transaction of the caller. Returns how many there were.

    Each skip counts exactly once: the transaction that counts it marks it.
    """
    uncounted = Skip.objects.filter(counted=False).select_for_update(skip_locked=True)
    ids = (floors or ScanFloors()).lowest(uncounted, most)
    if ids:
        _count(Skip.objects.filter(pk__in=ids))
        Skip.objects.filter(pk__in=ids).update(counted=True)
    return len(ids)


def delete_skips(ids: Collection[uuid.UUID]) -> None:
    """Delete skips, in a transaction of the caller. A skip that is not counted yet is counted first."""
    if ids:
        _count(Skip.objects.filter(pk__in=ids, counted=False).order_by("pk").select_for_update())
        Skip.objects.filter(pk__in=ids)._raw_delete(Skip.objects.db)


def _count(skips: QuerySet[Skip]) -> None:
    """Insert the counts of skips, which must be locked."""
    found = skips.values_list("webhook_id", "timestamp")
    counts = Counter((minute_of(timestamp), webhook_id) for webhook_id, timestamp in found)
    StatisticDelta.objects.bulk_create(StatisticDelta.of_skips(counts))


def roll_up(most: int, floors: ScanFloors | None = None) -> int:
    """Add up to ``most`` deltas to the statistics, in a transaction of the caller. Returns how many there were.

    Each delta counts exactly once: the transaction that adds it deletes it. Several workers may do this at once.
    """
    using = Statistic.objects.db
    ids = (floors or ScanFloors()).lowest(StatisticDelta.objects.select_for_update(skip_locked=True), most)
    if ids:
        _add(using, ids)
        StatisticDelta.objects.filter(pk__in=ids)._raw_delete(using)
    return len(ids)


def _add(using: str, deltas: Collection[int]) -> None:
    """Add deltas to the statistics. A webhook that is deleted has none any more."""
    chosen, chosen_param = among_sql(using, deltas)
    keys, names = ", ".join(KEY), ", ".join(COLUMNS)
    sums = ", ".join(f"COALESCE({merged_sql(name)}, 0)" for name in COLUMNS)
    greatest = "GREATEST" if is_postgresql(using) else "MAX"
    added = ", ".join(
        f"{name} = {greatest}(total.{name}, excluded.{name})"
        if name in LONGEST
        else f"{name} = total.{name} + excluded.{name}"
        for name in COLUMNS
    )
    # Sorted, so that two workers cannot deadlock.
    execute(
        using,
        f"""
        INSERT INTO rq_webhooks_statistic AS total ({keys}, {names})
        SELECT {keys}, {sums} FROM ({deltas_sql(using, f"WHERE delta.id {chosen}")}) AS deltas
        WHERE webhook_id IN (SELECT id FROM rq_webhooks_webhook)
        GROUP BY {keys} ORDER BY {keys}
        ON CONFLICT ({keys}) DO UPDATE SET {added}
        """,
        [chosen_param],
    )
