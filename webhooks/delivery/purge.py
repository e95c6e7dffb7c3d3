"""Deletes deliveries with all that goes with them, a few at a time: workers wait for what one transaction holds."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Exists, OuterRef

from webhooks.models import Attempt, Delivery, Event
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.webhook import WebhookQuerySet


def remove(deliveries: DeliveryQuerySet, most: int) -> int:
    """Delete up to ``most`` of them with their attempts, and events that have no others. Returns how many went. Those
    that somebody is just changing are left."""
    with transaction.atomic(deliveries.db):
        # Locked: one that an admin is just sending again is another one when that commits.
        free = deliveries.order_by().select_for_update(skip_locked=True, of=("self",))
        chosen = dict(free[:most].values_list("pk", "event_id"))
        Attempt.objects.filter(delivery__in=chosen)._raw_delete(Attempt.objects.db)
        Delivery.objects.filter(pk__in=chosen)._raw_delete(Delivery.objects.db)
        events = Event.objects.filter(pk__in=set(chosen.values()))
        events.filter(~Exists(Delivery.objects.filter(event=OuterRef("pk"))))._raw_delete(Event.objects.db)
    return len(chosen)


def remove_webhooks(webhooks: WebhookQuerySet, most: int) -> int:
    """Go on with the deletion of webhooks that are out of use, their own rows last. Returns how many rows went."""
    gone = 0
    for pk in webhooks.order_by("pk").values_list("pk", flat=True)[:most]:
        gone += remove(Delivery.objects.filter(webhook=pk), most - gone)
        if gone >= most:
            break
        gone += _remove_row(webhooks.filter(pk=pk))
    return gone


def _remove_row(webhook: WebhookQuerySet) -> int:
    with transaction.atomic(webhook.db):
        # A delivery that a worker adds meanwhile waits for this lock, and then finds no webhook.
        locked = webhook.select_for_update(skip_locked=True).first()
        if locked is None or locked.deliveries.exists():
            return 0
        locked.delete()
        return 1
