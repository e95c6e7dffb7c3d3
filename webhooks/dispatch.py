"""Fans new Events out: one Delivery for each Webhook that wanted the Event when it happened."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Exists, OuterRef

from webhooks.conf import conf
from webhooks.ids import new_id
from webhooks.models import Delivery, Event, State, Webhook
from webhooks.sql import dispatching
from webhooks.sql.claims import lock_heads, promote
from webhooks.sql.dispatching import New, Undispatched
from webhooks.transactions import atomically


def dispatch() -> int:
    """Dispatch a batch of Events. Returns how many; several workers may do it at once.

    An Event waits until every earlier one of its object is dispatched, so that lanes fill in order.
    """
    using = Event.objects.db
    return atomically(lambda: _dispatch(using), using) if dispatching.has_undispatched(using) else 0


def _dispatch(using: str) -> int:
    events = dispatching.lock_undispatched(using, conf.batch)
    if not events:
        return 0
    overtaking = dispatching.overtaking(using, events)
    ready = [event for event in events if event.id not in overtaking]
    wanted = _deliver_to_lanes(using, ready)
    _delete_unwanted([event.id for event in ready if event.id not in wanted])
    dispatching.mark_dispatched(using, [event.id for event in ready])
    return len(ready)


def _deliver_to_lanes(using: str, events: Sequence[Undispatched]) -> set[int]:
    """Line up the events' deliveries. Returns the ids of the events that have any."""
    wanted = {pk for event in events for pk in event.webhook_ids}
    ordered = dict(Webhook.objects.filter(pk__in=wanted).values_list("pk", "ordered"))
    deliveries = [
        _delivery(event, webhook_id, ordered[webhook_id])
        for event in events
        for webhook_id in event.webhook_ids
        if webhook_id in ordered
    ]
    dispatching.add_deliveries(using, deliveries)
    waiting = [delivery.id for delivery in deliveries if delivery.in_lane]
    if waiting:
        lock_heads(using, waiting)
        promote(using, waiting)
    return {delivery.event_id for delivery in deliveries}


def _delivery(event: Undispatched, webhook_id: int, is_ordered: bool) -> New:
    state = State.WAITING if is_ordered else State.PENDING
    return New(new_id(), event.id, webhook_id, event.lane, is_ordered, state)


def _delete_unwanted(events: Sequence[int]) -> None:
    """Delete those that nobody wants any more."""
    if events:
        bare = ~Exists(Delivery.objects.filter(event=OuterRef("pk")))
        Event.objects.filter(bare, pk__in=events)._raw_delete(Event.objects.db)
