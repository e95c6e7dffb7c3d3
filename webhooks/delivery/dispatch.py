"""Turn new Events into Deliveries: one for each Webhook that matched when the Event happened."""

from __future__ import annotations

import math
import uuid
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import IntegrityError, OperationalError

from webhooks.delivery.claims import WorkerClaims
from webhooks.delivery.known_webhooks import kept_webhooks
from webhooks.delivery.large_events import sizes_of_large
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.ground.conf import conf
from webhooks.ground.db import QueryByKeys, atomically, elapsed, fetch_all, fetch_each, to_utc
from webhooks.ground.errors import is_statement_timeout
from webhooks.models import lanes
from webhooks.models.delivery import Delivery, Handover, NewDelivery
from webhooks.models.event import SENT_COLUMNS, Event, Undispatched
from webhooks.models.ids import delivery_id
from webhooks.models.lanes import Ahead, Lane, Marks, Place, lane_of
from webhooks.models.queue import ClaimedRow, State
from webhooks.models.worker import begin_sql, hold_retention

if TYPE_CHECKING:
    from webhooks.models.webhook import Webhook

# A dispatch goes beyond Events that it cannot dispatch, for so many seconds. A worker tries the passed ones again after
# so many seconds, and waits between two such tries for so many times as long as one took.
BEYOND_SECONDS = 0.1
PASSED_EVERY, PASSED_SHARE = 0.25, 4

# The columns that a dispatch reads of an Event. It reads the payload of a small one, too: the worker claims most
# deliveries at once.
ALSO_READ = ("object_id", "webhook_ids", "error", "waits_for")
NewEvent: Any = namedtuple("NewEvent", (*SENT_COLUMNS, "timestamp", "size", *ALSO_READ))  # type: ignore[misc]


class IsLocked(Exception):
    """Another session has locked a webhook or an object. A transaction of the host may stay open for long."""


class Batch(NamedTuple):
    """What one transaction did: the ids that it locked, the Events that it dispatched, and what it claimed."""

    ids: list[int]
    events: list[Any]
    claimed: list[ClaimedRow]
    webhooks: dict[int, Webhook]
    is_full: bool
    """Whether there may be more ids after these."""

    @property
    def is_held_up(self) -> bool:
        """Whether most Events stay, so that the next try passes them."""
        return self.is_full and 2 * len(self.events) < len(self.ids)


class Beyond:
    """Where a worker tries new Events, if others before them cannot be dispatched for a while.

    Another session may have locked their webhook or their object. The worker passes them, and goes beyond. In between,
    it tries the passed ones again.
    """

    def __init__(self) -> None:
        self._passed: int | None = None
        """It has passed the ids below. None: it has passed none."""
        self._again = 0
        """Where it goes on with the passed ones."""
        self._next_again = self._began = 0.0  # ``elapsed``
        self._is_again = False

    def begin(self, first: int) -> int:
        """The id at which the next try begins. Call ``note`` after it."""
        self._began = elapsed()
        self._is_again = self._passed is not None and self._began >= self._next_again
        return max(first, self._again) if self._passed is None or self._is_again else self._passed

    def note(self, batch: Batch) -> bool:
        """Note what a try did. Returns whether another one should follow at once if it dispatched nothing."""
        following = batch.ids[-1] + 1 if batch.ids else math.inf
        if self._is_again and self._passed is not None:
            if self._again == 0 and (not batch.ids or batch.ids[0] >= self._passed):
                self._passed = None
            elif not batch.is_full or following >= self._passed:
                self._begin_again()
            elif batch.is_held_up:
                self._again = batch.ids[-1] + 1
            if batch.is_held_up or not batch.events:  # else their locks are free now
                ended = elapsed()
                self._next_again = max(self._next_again, ended + PASSED_SHARE * (ended - self._began))
            return True
        if batch.is_held_up:
            if self._passed is None:
                self._begin_again()
            self._passed = batch.ids[-1] + 1
            return True
        return self._passed is not None and elapsed() >= self._next_again

    def _begin_again(self) -> None:
        self._again, self._next_again = 0, elapsed() + PASSED_EVERY


def dispatch(
    worker: WorkerClaims | None = None,
    floors: ScanFloors | None = None,
    skips_scan: bool = False,
    beyond: Beyond | None = None,
) -> int:
    """Dispatch a few Events, up to a batch; several workers may do it at once. Returns how many.

    An Event waits until every earlier one of its object is dispatched, so that lanes fill in order. A worker claims new
    deliveries in the same transaction, if it has capacity. With ``skips_scan``, for a caller who expects Events, it
    begins the transaction without a scan.
    """
    floors, beyond = floors or ScanFloors(), beyond or Beyond()
    first = floors.known.get(0, 0) if skips_scan else _first(floors)
    if first is None:
        return 0
    end = elapsed() + BEYOND_SECONDS
    while True:
        batch = _dispatch_batch(first, beyond.begin(first), floors, worker)
        goes_on = beyond.note(batch)
        if batch.events or not goes_on or elapsed() > end:
            return len(batch.events)


def _dispatch_batch(first: int, begin: int, floors: ScanFloors, worker: WorkerClaims | None) -> Batch:
    with worker.claiming() if worker else nullcontext() as token:
        tries = count()
        try:
            batch = atomically(
                lambda: _dispatch(first, begin, floors, worker, token, is_again=next(tries) > 0), Event.objects.db
            )
        except OperationalError as error:
            if worker and is_statement_timeout(error):
                worker.note_cancelled()
            raise
        if worker and token:
            worker.add(batch.claimed, token, batch.webhooks, batch.events)
    return batch


def _first(floors: ScanFloors) -> int | None:
    """The id of the first new Event. A scan without a transaction: most have no result, and write nothing."""
    with floors.scan() as known:
        lowest = Undispatched.objects.lowest(known.get(0, 0))
    if lowest is not None:
        floors.note(0, lowest)
    return lowest


def _dispatch(
    first: int, begin: int, floors: ScanFloors, worker: WorkerClaims | None, token: uuid.UUID | None, is_again: bool
) -> Batch:
    """Dispatch Events from the id ``begin`` on. No new one is below ``first``.

    This transaction has the lock of its Events, and nothing else makes deliveries of an Event with that lock. So they
    are new, unless SQL of an operator has put an Event back: the second try asks.
    """
    using = Event.objects.db
    most = worker.events_at_once if worker else conf.batch
    lock = Undispatched.objects.lock_sql(begin, most)
    # The marks after the events: all marks up to these are there.
    [(may_claim, *_)], locked, *known = fetch_each(using, begin_sql(using, token), lock, *Marks.statements(using))
    if not locked:
        return Batch([], [], [], {}, is_full=False)
    ids, marks = [pk for (pk,) in locked], Marks.read(*known)
    if begin <= first:
        floors.note(0, ids[0])  # it may have to wait, and then the next scan must meet it
    window = marks.window(min(first, ids[0]))
    range_of_ids = (window.first_event if window else 0, ids[-1])
    events: list[Any] = list(map(NewEvent._make, _events_to_dispatch.fetch(using, ids, given=range_of_ids)))
    # Another worker has dispatched these, or SQL of an operator deleted their events alone. A batch of such rows would
    # keep out all new events.
    gone = set(ids).difference(event.pk for event in events)
    events = _in_turn(events)
    webhooks, locked_webhooks = kept_webhooks(using, {pk for event in events for pk in event.webhook_ids})
    if locked_webhooks:
        held_up = {_lane(event) for event in events if not locked_webhooks.isdisjoint(event.webhook_ids)}
        events = [event for event in events if _lane(event) not in held_up]
    deliveries = [
        _new_delivery(event, webhooks[pk])
        for event in events
        if not event.error
        for pk in dict.fromkeys(event.webhook_ids)
        if pk in webhooks
    ]
    firsts = lanes.firsts(deliveries)
    ahead = lanes.try_look_ahead(using, firsts.values(), window)
    if held_up := {lane for _, lane in firsts.keys() - ahead.keys()}:
        events = [event for event in events if _lane(event) not in held_up]
        left = {event.pk for event in events}
        deliveries = [delivery for delivery in deliveries if delivery.event_id in left]
    deliveries = _placed(deliveries, firsts, ahead, marks)
    heads = _choose(deliveries, webhooks, sizes_of_large(events), worker) if worker and may_claim else set()
    dispatched = Undispatched.objects.delete_sql([*gone, *(event.pk for event in events)])
    inserted, [deleted] = Delivery.objects.insert(deliveries, heads, token, dispatched, may_exist=is_again)
    if {event.pk for event in events} - {pk for (pk,) in deleted}:
        raise IntegrityError("Another session has deleted new events")  # so this begins again
    heads &= inserted
    if worker and events:
        are_all_claimed = all(new.id in heads or new.state == State.WAITING for new in deliveries)
        worker.note_dispatched(len(events), len(deliveries), are_all_claimed)
    claimed = [delivery.claimed_row for delivery in deliveries if delivery.id in heads]
    return Batch(ids, events, claimed, webhooks, is_full=len(ids) >= most)


def _lane(event: Any) -> int:
    return lane_of(event.object_type, event.object_id)


_events_to_dispatch = QueryByKeys(
    lambda: Event.objects.still_undispatched().order_by("pk").with_waits_for().to_send(*ALSO_READ)
)


def _in_turn(events: Iterable[Any]) -> list[Any]:
    """The Events that may be dispatched now: the one before, of the same object, is dispatched or in this batch."""
    in_turn: dict[int, Any] = {}
    for event in events:
        if event.waits_for is None or event.waits_for in in_turn:
            in_turn[event.pk] = event
    return list(in_turn.values())


def _new_delivery(event: Any, webhook: Webhook) -> NewDelivery:
    lane = _lane(event) if webhook.ordered else None
    return NewDelivery(delivery_id(to_utc(event.timestamp), event.pk, webhook.pk), event.pk, webhook.pk, lane)


def insert_for(webhook: Webhook, events: Sequence[Event], handover: Handover | None = None) -> int:
    """Create the deliveries of earlier events to one webhook, in a transaction of the caller. An event that has one
    keeps it. The ``handover`` claims new ones. Returns how many there are.

    Raises IsLocked rather than wait: roll back, and try again later."""
    using = Event.objects.db
    hold_retention(using)
    there = set(Event.objects.filter(pk__in=[event.pk for event in events]).values_list("pk", flat=True))
    known, locked = kept_webhooks(using, {webhook.pk})
    if locked:
        raise IsLocked
    if not known:
        return 0
    new = [_new_delivery(event, webhook) for event in events if event.pk in there]
    in_lanes = {delivery.lane for delivery in new} - {None}
    if in_lanes - lanes.try_lock(using, in_lanes):
        raise IsLocked
    # Another run may have created some meanwhile, and others come with the dispatch of their events. Those that wait
    # behind one that is not inserted here would have no head.
    pks = [delivery.event_id for delivery in new]
    taken = set(Delivery.objects.filter(pk__in=[delivery.id for delivery in new]).values_list("event_id", flat=True))
    coming = set(Undispatched.objects.filter(event__in=pks).values_list("event_id", flat=True))
    taken |= {event.pk for event in events if webhook.pk in event.webhook_ids} & coming
    new = [delivery for delivery in new if delivery.event_id not in taken]
    firsts = lanes.firsts(new)
    marks = Marks.read(*(fetch_all(using, *statement) for statement in Marks.statements(using)))
    window = marks.window(min((delivery.event_id for delivery in new), default=0))
    new = _placed(new, firsts, lanes.look_ahead(using, firsts.values(), window), marks)
    ready = (delivery for delivery in new if delivery.state == State.PENDING)
    heads = {delivery.id for delivery in ready if handover and handover.take(delivery.claimed_row)}
    inserted, _ = Delivery.objects.insert(new, heads, handover.token if handover else None)
    if handover:
        handover.rows = [row for row in handover.rows if row.id in inserted]
    return len(inserted)


def _placed(
    deliveries: Sequence[NewDelivery], firsts: Mapping[Lane, Place], lanes_ahead: Mapping[Lane, Ahead], marks: Marks
) -> list[NewDelivery]:
    """The deliveries with their places in their lanes: all but the first of a free lane wait."""
    placed = []
    for delivery in deliveries:
        if delivery.lane is not None:
            lane = delivery.webhook_id, delivery.lane
            ahead, is_first = lanes_ahead[lane], delivery.event_id == firsts[lane].event_id
            state = State.WAITING if ahead.is_busy or not is_first else State.PENDING
            delivery = delivery._replace(state=state, overtaken=ahead.is_late or not marks.are_kept_by(delivery))
        placed.append(delivery)
    return placed


def _choose(
    deliveries: Sequence[NewDelivery], webhooks: Mapping[int, Webhook], large: Mapping[int, int], worker: WorkerClaims
) -> set[uuid.UUID]:
    """The deliveries that this worker sends at once: as many as it has capacity and room for. ``large`` has the sizes
    of large Events."""
    ready = [delivery for delivery in deliveries if delivery.state == State.PENDING]
    ids = {delivery.webhook_id for delivery in ready}
    free = worker.capacity([pk for pk in ids if webhooks[pk].is_sendable], len(ids))
    chosen, room = set(), worker.large.room()
    for delivery in ready:
        webhook, size = delivery.webhook_id, large.get(delivery.event_id)
        if free.get(webhook, 0) > 0 and (size is None or room.take(webhook, size)):
            free[webhook] -= 1
            chosen.add(delivery.id)
    return chosen
