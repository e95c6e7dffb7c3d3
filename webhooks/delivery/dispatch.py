"""Turn new Events into Deliveries: one for each Webhook that matched when the Event happened."""

from __future__ import annotations

import uuid
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

from django.db import IntegrityError

from webhooks.conf import conf
from webhooks.db import QueryByKeys, atomically, fetch_all, fetch_each, to_utc
from webhooks.delivery.claims import WorkerClaims
from webhooks.delivery.known_webhooks import webhooks_by_id
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.models import Delivery, Event, State, Undispatched, Webhook, lanes
from webhooks.models.delivery import NewDelivery
from webhooks.models.event import SENT_COLUMNS, TIME
from webhooks.models.ids import delivery_id
from webhooks.models.lanes import Ahead, Lane, Marks, Place, lane_of
from webhooks.models.queue import ClaimedRow
from webhooks.models.worker import begin_sql, hold_retention

# The columns that a dispatch reads of an Event. It reads the payload, too: the worker claims most deliveries at once.
READ_COLUMNS = (*SENT_COLUMNS, "object_id", "webhook_ids", "error")
NewEvent: Any = namedtuple("NewEvent", (*READ_COLUMNS, "timestamp", "waits_for"))  # type: ignore[misc]


def dispatch(worker: WorkerClaims | None = None, floors: ScanFloors | None = None, skips_look: bool = False) -> int:
    """Dispatch a few Events, up to a batch; several workers may do it at once. Returns how many.

    An Event waits until every earlier one of its object is dispatched, so that lanes fill in order. A worker claims new
    deliveries in the same transaction, if it has capacity. With ``skips_look``, for a caller who expects Events, it
    begins the transaction without a look.
    """
    floors = floors or ScanFloors()
    first = floors.known.get(0, 0) if skips_look else _first(floors)
    if first is None:
        return 0
    with worker.claiming() if worker else nullcontext() as token:
        tries = count()
        events, claimed, webhooks = atomically(
            lambda: _dispatch(first, floors, worker, token, is_again=next(tries) > 0), Event.objects.db
        )
        if worker and token:
            worker.add(claimed, token, webhooks, events)
    return len(events)


def _first(floors: ScanFloors) -> int | None:
    """The id of the first new Event. A look without a transaction: most find nothing, and write nothing."""
    with floors.look() as known:
        lowest = Undispatched.objects.lowest(known.get(0, 0))
    if lowest is not None:
        floors.note(0, lowest)
    return lowest


def _dispatch(
    first: int, floors: ScanFloors, worker: WorkerClaims | None, token: uuid.UUID | None, is_again: bool
) -> tuple[list[Any], list[ClaimedRow], dict[int, Webhook]]:
    """Returns the Events, the claimed rows, and the webhooks by id.

    This transaction has the lock of its Events, and nothing else makes deliveries of an Event with that lock. So they
    are new, unless SQL of an operator has put an Event back: the second try asks.
    """
    using = Event.objects.db
    new = Undispatched.objects.lock_sql(first, worker.events_at_once if worker else conf.batch)
    # The marks after the events: all marks up to these are there.
    [(may_claim, *_)], found, *known = fetch_each(using, begin_sql(using, token), new, *Marks.statements(using))
    if not found:
        return [], [], {}
    marks = Marks.read(*known)
    floors.note(0, found[0][0])  # it may have to wait, and is then found again
    ids = [pk for (pk,) in found]
    window = marks.window(min(first, ids[0]))
    range_of_ids = (window.first_event if window else 0, ids[-1])
    new_events: list[Any] = list(map(NewEvent._make, _events_to_dispatch.fetch(using, ids, given=range_of_ids)))
    # Another worker has dispatched these, or SQL of an operator deleted their events alone. A batch of such rows would
    # keep out all new events.
    gone = set(ids) - {event.pk for event in new_events} if len(new_events) < len(ids) else set()
    events = _in_turn(new_events)
    webhooks = webhooks_by_id(using, {pk for event in events for pk in event.webhook_ids}, keeps=True)
    deliveries = [
        _new_delivery(event, webhooks[pk])
        for event in events
        if not event.error
        for pk in dict.fromkeys(event.webhook_ids)
        if pk in webhooks
    ]
    firsts = lanes.firsts(deliveries)
    found_ahead = lanes.try_look_ahead(using, firsts.values(), window)
    if held_up := {lane for _, lane in firsts.keys() - found_ahead.keys()}:
        events = [event for event in events if lane_of(event.object_type, event.object_id) not in held_up]
        left = {event.pk for event in events}
        deliveries = [delivery for delivery in deliveries if delivery.event_id in left]
    deliveries = _placed(deliveries, firsts, found_ahead, marks)
    heads = _claimed(deliveries, webhooks, worker) if worker and may_claim else set()
    dispatched = Undispatched.objects.delete_sql([*gone, *(event.pk for event in events)])
    inserted, [deleted] = Delivery.objects.insert(deliveries, heads, token, dispatched, may_exist=is_again)
    if {event.pk for event in events} - {pk for (pk,) in deleted}:
        raise IntegrityError("Another session has deleted new events")  # so this begins again
    heads &= inserted
    if worker and events:
        are_all_claimed = all(one.id in heads or one.state == State.WAITING for one in deliveries)
        worker.note_dispatched(len(events), len(deliveries), are_all_claimed)
    return events, [one.claimed_row for one in deliveries if one.id in heads], webhooks


_events_to_dispatch = QueryByKeys(
    lambda: (
        Event.objects.still_undispatched()
        .order_by("pk")
        .annotate(time=TIME)
        .with_waits_for()
        .values_list(*READ_COLUMNS, "time", "waits_for")
    )
)


def _in_turn(events: Iterable[Any]) -> list[Any]:
    """The Events that may be dispatched now: the one before, of the same object, is dispatched or in this batch."""
    in_turn: dict[int, Any] = {}
    for event in events:
        if event.waits_for is None or event.waits_for in in_turn:
            in_turn[event.pk] = event
    return list(in_turn.values())


def _new_delivery(event: Any, webhook: Webhook) -> NewDelivery:
    lane = lane_of(event.object_type, event.object_id) if webhook.ordered else None
    return NewDelivery(delivery_id(to_utc(event.timestamp), event.pk, webhook.pk), event.pk, webhook.pk, lane)


def insert_for(
    webhook: Webhook, events: Sequence[Event], free: int, token: uuid.UUID | None
) -> tuple[int, list[ClaimedRow]]:
    """Create the deliveries of earlier events to one webhook, in a transaction of the caller. An event that has one
    keeps it. Claims up to ``free`` with the ``token``. Returns the number of new ones, and the claimed ones."""
    using = Event.objects.db
    hold_retention(using)
    there = set(Event.objects.filter(pk__in=[event.pk for event in events]).values_list("pk", flat=True))
    if not webhooks_by_id(using, [webhook.pk], keeps=True):
        return 0, []
    new = [_new_delivery(event, webhook) for event in events if event.pk in there]
    lanes.lock(using, (one.lane for one in new))
    # Another run may have created some meanwhile, and others come with the dispatch of their events. Those that wait
    # behind one that is not inserted here would have no head.
    taken = set(Delivery.objects.filter(pk__in=[one.id for one in new]).values_list("event_id", flat=True))
    coming = Undispatched.objects.filter(event__in=[one.event_id for one in new]).values_list("event_id", flat=True)
    taken |= {event.pk for event in events if webhook.pk in event.webhook_ids} & set(coming)
    new = [one for one in new if one.event_id not in taken]
    firsts = lanes.firsts(new)
    marks = Marks.read(*(fetch_all(using, *one) for one in Marks.statements(using)))
    window = marks.window(min((one.event_id for one in new), default=0))
    new = _placed(new, firsts, lanes.look_ahead(using, firsts.values(), window), marks)
    heads = [one for one in new if one.state == State.PENDING][: free if token else 0]
    inserted, _ = Delivery.objects.insert(new, {one.id for one in heads}, token)
    return len(inserted), [one.claimed_row for one in heads if one.id in inserted]


def _placed(
    deliveries: Sequence[NewDelivery], firsts: Mapping[Lane, Place], found: Mapping[Lane, Ahead], marks: Marks
) -> list[NewDelivery]:
    """The deliveries with their places in their lanes: all but the first of a free lane wait."""
    placed = []
    for one in deliveries:
        if one.lane is not None:
            ahead, first = found[one.webhook_id, one.lane], firsts[one.webhook_id, one.lane]
            waits = ahead.is_busy or one.event_id != first.event_id
            is_overtaken = ahead.is_late or not marks.are_kept_by(one)
            one = one._replace(state=State.WAITING if waits else State.PENDING, overtaken=is_overtaken)
        placed.append(one)
    return placed


def _claimed(
    deliveries: Sequence[NewDelivery], webhooks: Mapping[int, Webhook], worker: WorkerClaims
) -> set[uuid.UUID]:
    """The deliveries that this worker sends at once: as many as it has capacity for."""
    ready = [one for one in deliveries if one.state == State.PENDING]
    ids = {one.webhook_id for one in ready}
    free = worker.capacity([pk for pk in ids if webhooks[pk].is_sendable], len(ids))
    chosen = set()
    for one in ready:
        if free.get(one.webhook_id, 0) > 0:
            free[one.webhook_id] -= 1
            chosen.add(one.id)
    return chosen
