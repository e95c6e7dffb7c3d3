"""The periodic work of a worker: expired leases, blocked lanes, missed promotions, retention.

Each step takes a limited number of rows in a short transaction, because other workers wait for its locks.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet

from webhooks.conf import conf
from webhooks.db import DatabaseNow, atomically
from webhooks.delivery.claims import load
from webhooks.delivery.outcomes import record
from webhooks.logs import get_logger
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.models.claims import ClaimedRow, promote
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.webhook import WebhookQuerySet
from webhooks.network.outcome import WORKER_ENDED, Outcome

logger = get_logger(__name__)

# Rows of each kind that one sweep takes.
MOST = 1000

DAY = 86_400  # seconds

# Leases that a delivery may lose. The next lost lease is a failed attempt.
LOST_LEASES_ALLOWED = 2


def sweep() -> int:
    """Do all of it once. Returns how many rows it changed."""
    return (
        expire_and_unblock()
        + repair_promotions()
        + purge_expired()
        + purge_webhooks(Webhook.with_deleted.being_deleted(), MOST)
    )


def expire_and_unblock() -> int:
    """The part that deliveries wait for."""
    return expire_leases() + unblock_lanes()


def expire_leases() -> int:
    """Take back deliveries from workers that died or stalled. The third lost lease is a failed attempt."""
    expired = Delivery.objects.filter(pk__in=_first_keys(Delivery.objects.expired())).expired()
    returned = expired.filter(lost_leases__lt=LOST_LEASES_ALLOWED).release(lost_leases=F("lost_leases") + 1)
    return returned + atomically(_fail_third_losses, Delivery.objects.db)


def _fail_third_losses() -> int:
    expired = Delivery.objects.expired().filter(lost_leases__gte=LOST_LEASES_ALLOWED)
    lost = list(expired.select_for_update(skip_locked=True, of=("self",))[:MOST])
    outcomes = []
    for one in lost:
        row = ClaimedRow(one.pk, one.webhook_id, one.event_id, one.attempt_count, one.failures, one.lost_leases, None)
        outcome = Outcome(one.lease_until, 0, reason=WORKER_ENDED)  # type: ignore[arg-type]  # sending: it has a lease
        outcomes += [(claimed, outcome) for claimed in load([row], one.claim)]  # type: ignore[arg-type]  # and a claim
        logger.error("Delivery %s failed: %s", one.pk, WORKER_ENDED)
    if outcomes:
        record(outcomes, worker="")
    # The deliveries of a webhook that is being deleted get no attempt.
    Delivery.objects.filter(pk__in=[one.pk for one in lost]).expired().release()
    return len(lost)


def unblock_lanes() -> int:
    """Let deliveries pass a failing head that has blocked its lane for too long."""

    def unblock() -> int:
        blocking = Delivery.objects.expired_heads(conf.lane_wait).select_for_update(skip_locked=True, of=("self",))
        ids = _first_keys(blocking)
        Delivery.objects.filter(pk__in=ids).leave_lane()
        promote(Delivery.objects.db, ids)
        return len(ids)

    return atomically(unblock, Delivery.objects.db)


def repair_promotions() -> int:
    """Give lanes that lost their head a new one."""
    headless = _first_keys(Delivery.objects.headless_lanes())
    atomically(lambda: promote(Delivery.objects.db, headless), Delivery.objects.db)
    return len(headless)


def purge_expired() -> int:
    """Delete deliveries and events after their retention, and previous secrets that no longer sign."""
    count = Webhook.objects.delete_expired_secrets()
    for state, days in conf.retention_days.items():
        count += purge(Delivery.objects.filter(state=state, finished_at__lt=DatabaseNow(-days * DAY)), MOST)
    failed_before = DatabaseNow(-conf.retention_days["failed"] * DAY)
    failed = Event.objects.failed().filter(timestamp__lt=failed_before)
    bare = Event.objects.filter(~Exists(Delivery.objects.filter(event=OuterRef("pk"))))  # or replayed
    ids = _first_keys(failed) + _first_keys(
        bare.filter(dispatched_at__lt=DatabaseNow(-max(conf.retention_days.values()) * DAY))
    )
    Event.objects.filter(pk__in=ids)._raw_delete(Event.objects.db)
    return count + len(ids)


def purge(deliveries: DeliveryQuerySet, most: int) -> int:
    """Delete up to ``most`` deliveries with their attempts, and events that have no others. Returns how many
    deliveries went. A delivery that is locked stays: an admin may just be sending it again."""
    with transaction.atomic(deliveries.db):
        unlocked = deliveries.order_by().select_for_update(skip_locked=True, of=("self",))
        chosen = dict(unlocked[:most].values_list("pk", "event_id"))
        Attempt.objects.filter(delivery__in=chosen)._raw_delete(Attempt.objects.db)
        Delivery.objects.filter(pk__in=chosen)._raw_delete(Delivery.objects.db)
        events = Event.objects.filter(pk__in=set(chosen.values()))
        events.filter(~Exists(Delivery.objects.filter(event=OuterRef("pk"))))._raw_delete(Event.objects.db)
    return len(chosen)


def purge_webhooks(webhooks: WebhookQuerySet, most: int) -> int:
    """Go on with the deletion of webhooks that are out of use, their own rows last. Returns how many rows went."""
    gone = 0
    for pk in webhooks.order_by("pk").values_list("pk", flat=True)[:most]:
        gone += purge(Delivery.objects.filter(webhook=pk), most - gone)
        if gone >= most:
            break
        with transaction.atomic(webhooks.db):
            # A worker that adds a delivery meanwhile waits for this lock, and then finds no webhook.
            locked = webhooks.filter(pk=pk).select_for_update(skip_locked=True).first()
            if locked and not locked.deliveries.exists():
                locked.delete()
                gone += 1
    return gone


def _first_keys(queryset: QuerySet[Any]) -> list[Any]:
    return list(queryset.values_list("pk", flat=True)[:MOST])
