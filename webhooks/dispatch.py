"""Fans new Events out: one Delivery for each Webhook that wanted the Event when it happened."""

from __future__ import annotations

from django.db.models import Exists, OuterRef
from django.utils import timezone

from webhooks import sql
from webhooks.clock import DatabaseNow
from webhooks.conf import conf
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.transactions import atomically


def dispatch() -> int:
    """Dispatch a batch of Events. Returns how many; several workers may do it at once.

    An Event waits until every earlier one of its object is dispatched, so that lanes fill in order.
    """
    if not sql.has_undispatched(Event.objects.db):
        return 0
    return atomically(_dispatch, Event.objects.db)


def _dispatch() -> int:
    undispatched = Event.objects.undispatched().order_by("pk").select_for_update(skip_locked=True)
    events = list(undispatched.only("pk", "object_type", "object_id", "webhook_ids")[: conf.batch])
    overtaking = set(Event.objects.overtaking([event.pk for event in events]).values_list("pk", flat=True))
    ready = [event for event in events if event.pk not in overtaking]
    wanted = _deliver_to_lanes(ready)
    unwanted = [event.pk for event in ready if event.pk not in wanted]
    bare = ~Exists(Delivery.objects.filter(event=OuterRef("pk")))
    Event.objects.filter(bare, pk__in=unwanted)._raw_delete(Event.objects.db)  # nobody is left who wanted them
    Event.objects.filter(pk__in=[event.pk for event in ready]).update(dispatched_at=DatabaseNow())
    return len(ready)


def _deliver_to_lanes(events: list[Event]) -> set[int]:
    """Line up the events' deliveries. Returns the ids of the events that have any."""
    wanted = {pk for event in events for pk in event.webhook_ids}
    ordered = dict(Webhook.objects.filter(pk__in=wanted).values_list("pk", "ordered"))
    deliveries = [
        _delivery(event, webhook_id, ordered[webhook_id])
        for event in events
        for webhook_id in event.webhook_ids
        if webhook_id in ordered
    ]
    Delivery.objects.bulk_create(deliveries)
    waiting = [delivery.pk for delivery in deliveries if delivery.state == State.WAITING]
    if waiting:
        Delivery.objects.lock_heads(waiting)
        Delivery.objects.promote(waiting)
    return {delivery.event_id for delivery in deliveries}


def _delivery(event: Event, webhook_id: int, is_ordered: bool) -> Delivery:
    return Delivery(
        event=event,
        webhook_id=webhook_id,
        lane=event.lane,
        in_lane=is_ordered,
        state=State.WAITING if is_ordered else State.PENDING,
        created=timezone.now(),
    )
