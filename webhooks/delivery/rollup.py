"""Add the counts of attempts and skips to the statistics."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from django.db.models import QuerySet

from webhooks.delivery.scan_floors import ScanFloors
from webhooks.ground.db import delete_rows
from webhooks.models.skip import Skip
from webhooks.models.statistic import Statistic, StatisticDelta, minute_of

if TYPE_CHECKING:
    pass

# Statistics by minute are stored for a day; those by hour for ``STATISTIC_DAYS``.
MINUTE_DAYS = 1


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
        delete_rows(Skip.objects.filter(pk__in=ids), Skip.objects.db)


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
        delete_rows(StatisticDelta.objects.filter(pk__in=ids), StatisticDelta.objects.db)
    return len(ids)
