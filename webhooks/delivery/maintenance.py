"""What nobody else would do: take back expired claims, free lanes, repair promotions, delete old rows."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists, F, OuterRef, QuerySet

from webhooks.conf import conf
from webhooks.db import DatabaseNow, atomically
from webhooks.delivery.outcomes import load, record
from webhooks.delivery.purge import remove, remove_webhooks
from webhooks.logs import get_logger
from webhooks.models import Delivery, Event, Webhook, claims
from webhooks.models.claims import ClaimedRow
from webhooks.network.outcome import WORKER_ENDED, Outcome

logger = get_logger(__name__)

# Rows that one sweep takes of each kind, so that it stays short.
MOST = 1000

DAY = 86_400  # seconds

# Leases that a delivery may lose before the next one counts as a failed attempt.
ALLOWED = 2


def sweep() -> int:
    """Do all of it once, in short transactions. Returns how many rows it changed."""
    return mend() + repair_promotions() + prune() + remove_webhooks(Webhook.with_deleted.being_deleted(), MOST)


def mend() -> int:
    """The part that deliveries wait for."""
    return take_back() + free_lanes()


def take_back() -> int:
    """Hand back what dead or stalled workers had claimed. A lease lost for the third time is a failed attempt."""
    lost = Delivery.objects.filter(pk__in=_some(Delivery.objects.expired())).expired()
    return lost.filter(lost_leases__lt=ALLOWED).release(lost_leases=F("lost_leases") + 1) + atomically(
        _fail_lost, Delivery.objects.db
    )


def _fail_lost() -> int:
    abandoned = Delivery.objects.expired().filter(lost_leases__gte=ALLOWED)
    lost = list(abandoned.select_for_update(skip_locked=True, of=("self",))[:MOST])
    outcomes = []
    for one in lost:
        taken = ClaimedRow(one.pk, one.webhook_id, one.event_id, one.attempt_count, one.failures, one.lost_leases, None)
        # One that is sending has a claim and a lease.
        outcome = Outcome(one.lease_until, 0, reason=WORKER_ENDED)  # type: ignore[arg-type]
        outcomes += [(claimed, outcome) for claimed in load([taken], one.claim)]  # type: ignore[arg-type]
        logger.error("Delivery %s failed: %s", one.pk, WORKER_ENDED)
    if outcomes:
        record(outcomes, worker="")
    # A webhook that is being deleted has no attempts any more.
    Delivery.objects.filter(pk__in=[one.pk for one in lost]).expired().release()
    return len(lost)


def free_lanes() -> int:
    """Let the deliveries behind a head pass that has kept them waiting for too long."""
    return atomically(_free_lanes, Delivery.objects.db)


def _free_lanes() -> int:
    ids = _some(Delivery.objects.expired_heads(conf.lane_wait).select_for_update(skip_locked=True, of=("self",)))
    Delivery.objects.filter(pk__in=ids).leave_lane()
    claims.promote(Delivery.objects.db, ids)
    return len(ids)


def repair_promotions() -> int:
    """Give lanes that lost their head another one."""
    stranded = _some(Delivery.objects.headless_lanes())
    atomically(lambda: claims.promote(Delivery.objects.db, stranded), Delivery.objects.db)
    return len(stranded)


def prune() -> int:
    """Delete deliveries and failed events that are past their retention, and secrets that sign no longer."""
    pruned = sum(_prune(state, days) for state, days in conf.retention_days.items()) + _prune_events()
    return pruned + Webhook.objects.delete_expired_secrets()


def _prune(state: str, days: float) -> int:
    return remove(Delivery.objects.filter(state=state, finished_at__lt=_before(days)), MOST)


def _prune_events() -> int:
    """Delete failed events, replayed or not, and those whose deliveries are gone."""
    old = _before(max(conf.retention_days.values()))
    failed = Event.objects.failed().filter(timestamp__lt=_before(conf.retention_days["failed"]))
    bare = Event.objects.filter(~Exists(Delivery.objects.filter(event=OuterRef("pk"))), dispatched_at__lt=old)
    ids = _some(failed) + _some(bare)
    Event.objects.filter(pk__in=ids)._raw_delete(Event.objects.db)
    return len(ids)


def _before(days: float) -> DatabaseNow:
    return DatabaseNow(-days * DAY)


def _some(queryset: QuerySet[Any]) -> list[Any]:
    return list(queryset.values_list("pk", flat=True)[:MOST])
