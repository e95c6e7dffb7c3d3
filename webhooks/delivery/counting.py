"""Count the attempts and the skips of each webhook by minute and hour.

The transaction that records attempts inserts what ``count`` returns. ``count_skips`` inserts the counts of skips.
``roll_up`` adds both to the statistics.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from django.db.models import QuerySet

from webhooks.db import to_utc
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.models.skip import Skip
from webhooks.models.statistic import DELAY, DURATION, Statistic, StatisticDelta, minute_of
from webhooks.outcome import Outcome

if TYPE_CHECKING:
    from webhooks.delivery.claims import ClaimedDelivery

# Statistics by minute are stored for a day; those by hour for ``STATISTIC_DAYS``.
MINUTE_DAYS = 1


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
    ids = (floors or ScanFloors()).lowest(StatisticDelta.objects.select_for_update(skip_locked=True), most)
    if ids:
        Statistic.objects.add(ids)
        StatisticDelta.objects.filter(pk__in=ids)._raw_delete(StatisticDelta.objects.db)
    return len(ids)
