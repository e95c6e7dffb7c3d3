"""Fans new Events out: one Delivery for each Webhook that wanted the Event when it happened."""

from __future__ import annotations

import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import DataError, IntegrityError
from django.db.models import Exists, OuterRef

from webhooks.conf import conf
from webhooks.db import async_commit, atomically, delivery_id
from webhooks.delivery import dispatch_sql
from webhooks.delivery.dispatch_sql import New, Undispatched
from webhooks.logs import get_logger
from webhooks.models import Delivery, Event, State
from webhooks.models.claims import Claim, ClaimedRow, lock_heads, promote
from webhooks.models.event import UNDISPATCHED
from webhooks.text import clean

logger = get_logger(__name__)

# How PostgreSQL and SQLite name what forbids a second delivery of one id.
SAME_DELIVERY = ("webhooks_delivery_pkey", "webhooks_delivery.id")

# Asked how many deliveries come up for each webhook; answers with a claim on those that its worker has room for.
Offer = Callable[[Counter[int]], Claim]


@dataclass(frozen=True)
class Dispatched:
    """How many Events were dispatched, and what of that the worker has taken at once, under the token of its claim."""

    events: int = 0
    taken: Sequence[ClaimedRow] = ()
    token: uuid.UUID | None = None


def dispatch(offer: Offer | None = None) -> Dispatched:
    """Dispatch a batch of Events; several workers may do it at once.

    An Event waits until every earlier one of its object is dispatched, so that lanes fill in order. With an ``offer``,
    deliveries that become the heads of their lanes are taken in the same transaction: that spares them a claim.
    """
    using = Event.objects.db
    if not dispatch_sql.has_undispatched(using):
        return Dispatched()
    try:
        return atomically(lambda: _dispatch(using, offer), using)
    except Exception as error:
        if not _is_of_an_event(error):
            raise
        logger.warning("Events could not be dispatched together, and are one by one: %s", error)
        return _dispatch_singly(using)


def _dispatch(using: str, offer: Offer | None) -> Dispatched:
    async_commit(using)
    return _fan_out(using, dispatch_sql.lock_undispatched(using, conf.batch), offer)


def _dispatch_singly(using: str) -> Dispatched:
    """Dispatch the Events of a batch each by itself: one that cannot be must not keep the others."""
    done = 0
    while done < conf.batch and atomically(lambda: _dispatch_first(using), using):
        done += 1
    return Dispatched(done)


def _dispatch_first(using: str) -> int:
    """Dispatch the first Event that waits, or let it stand as failed. Returns whether there was one, as a number."""
    events = dispatch_sql.lock_undispatched(using, 1)
    try:
        # A savepoint: the Event stays locked by this transaction whatever becomes of it.
        return atomically(lambda: _fan_out(using, events, None), using).events
    except Exception as error:
        if not _is_of_an_event(error):
            raise
        logger.exception("Event %s cannot be dispatched, and stands as failed", events[0].id)
        why = UNDISPATCHED + "".join(traceback.format_exception(error))
        return Event.objects.filter(pk=events[0].id).update(error=clean(why))


def _is_of_an_event(error: Exception) -> bool:
    """Whether an Event is to blame. Not a database that is away, nor another worker in the same lane, nor tables that
    are newer than this code: those would fail every Event there is."""
    if isinstance(error, IntegrityError):
        return any(name in str(error) for name in SAME_DELIVERY)
    return isinstance(error, DataError | TypeError | ValueError)


def _fan_out(using: str, events: Sequence[Undispatched], offer: Offer | None) -> Dispatched:
    if not events:
        return Dispatched()
    overtaking = dispatch_sql.overtaking(using, events)
    ready = [event for event in events if event.id not in overtaking]
    deliveries = _deliveries(using, ready)
    dispatch_sql.add_deliveries(using, deliveries)
    claim = offer(Counter(delivery.webhook_id for delivery in deliveries if delivery.in_lane)) if offer else None
    taken = _begin_lanes(using, [delivery.id for delivery in deliveries if delivery.in_lane], claim)
    wanted = {delivery.event_id for delivery in deliveries}
    _delete_unwanted([event.id for event in ready if event.id not in wanted])
    dispatch_sql.mark_dispatched(using, [event.id for event in ready])
    return Dispatched(len(ready), taken, claim.token if claim else None)


def _deliveries(using: str, events: Sequence[Undispatched]) -> list[New]:
    ordered = dispatch_sql.are_ordered(using, {pk for event in events for pk in event.webhook_ids})
    return [
        _delivery(event, webhook_id, ordered[webhook_id])
        for event in events
        for webhook_id in dict.fromkeys(event.webhook_ids)
        if webhook_id in ordered
    ]


def _begin_lanes(using: str, waiting: Sequence[uuid.UUID], claim: Claim | None) -> Sequence[ClaimedRow]:
    if not waiting:
        return ()
    lock_heads(using, waiting)
    return promote(using, waiting, claim)


def _delivery(event: Undispatched, webhook_id: int, is_ordered: bool) -> New:
    state = State.WAITING if is_ordered else State.PENDING
    pk = delivery_id(event.timestamp, event.id, webhook_id)
    return New(pk, event.id, webhook_id, event.lane, is_ordered, state)


def _delete_unwanted(events: Sequence[int]) -> None:
    """Delete those that nobody wants any more."""
    if events:
        bare = ~Exists(Delivery.objects.filter(event=OuterRef("pk")))
        Event.objects.filter(bare, pk__in=events)._raw_delete(Event.objects.db)
