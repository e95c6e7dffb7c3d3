"""Delete old deliveries, events, skips, runs and statistics, and the rows of webhooks that a user has deleted.

Each function is a step of the sweep, see ``sweep``. It deletes a piece, in the transaction of the sweep.
"""

from __future__ import annotations

import random
import uuid
from datetime import timedelta
from itertools import takewhile

from django.db import IntegrityError
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from webhooks.delivery import rollup
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, delete_rows
from webhooks.ground.db.django_internals import savepoint
from webhooks.ground.errors import about, get_logger
from webhooks.models import (
    Attempt,
    Body,
    Delivery,
    Event,
    QueuedDelivery,
    Run,
    Skip,
    State,
    Statistic,
    Sweep,
    Undispatched,
    Webhook,
    partitions,
)
from webhooks.models.delivery import SUCCEEDED, DeliveryQuerySet, EndOfFirstAttempt, SupersedesFailed
from webhooks.models.event import OVERLAP
from webhooks.models.ids import first_id, id_at
from webhooks.models.statistic import DAY, Period
from webhooks.models.webhook_states import WebhookQuerySet
from webhooks.models.worker import may_delete_events, may_delete_webhook

logger = get_logger(__name__)

# Rows that a step deletes at a time. A worker delivers nothing meanwhile.
PIECE = 200

# Deliveries that a step looks at, to find the succeeded ones that no failed one needs. They are looked at again after
# so many seconds: the failed one may be gone by then.
DELIVERIES_AT_ONCE, AGAIN_AFTER = 5000, 3600

# Events that a step looks at, to find the ones without deliveries.
EVENTS_AT_ONCE = 1000

# One sweep looks whether this many webhooks have too many skips.
COUNTED_WEBHOOKS = 10


class More(int):
    """How many rows a step has changed that has more to do, however few these are."""


def purge_ended(state: State, floors: ScanFloors | None = None) -> int:
    """Delete deliveries in this state after their retention, with their events. ``floors`` are for succeeded ones."""
    days = conf.retention_days[state]
    before = DatabaseNow(-days * DAY)
    expired = Delivery.objects.filter(outcome=state, noted_end__lt=before)
    if state == State.SUCCEEDED:
        return _purge_succeeded(days, floors or ScanFloors())
    if state == State.FAILED:
        old_failed = QueuedDelivery.objects.filter(failed_at__lt=before).order_by("failed_at")
        ids = list(old_failed.values_list("pk", flat=True)[:PIECE])
    else:
        discarded = Delivery.objects.filter(discarded_at__lt=before).order_by("discarded_at")
        ids = list(discarded.values_list("pk", flat=True)[:PIECE])
    return purge(expired.filter(pk__in=ids).order_by(), PIECE) if ids else 0


def _purge_succeeded(days: float, floors: ScanFloors) -> int:
    ids, following, began = _expired_succeeded(days, floors, PIECE)
    count = purge(_succeeded_before(days).filter(pk__in=ids).order_by(), PIECE) if ids else 0
    if following is None or len(ids) == PIECE:
        return count
    Sweep.objects.filter(pk=1).update(next_succeeded=following, succeeded_began=began)
    return More(count)


def _expired_succeeded(days: float, floors: ScanFloors, most: int) -> tuple[list[uuid.UUID], uuid.UUID | None, float]:
    """The oldest succeeded deliveries that may be deleted, up to ``most``, among the next ``DELIVERIES_AT_ONCE``.

    A million may have to stay, each because a failed one needs it. So this goes on where the last step has found few.
    Returns also where the next step goes on, None at the end, and when the first one has begun, in seconds since 1970.
    """
    sweep, _ = Sweep.get_or_begin()
    now = timezone.now().timestamp()
    goes_on = sweep.next_succeeded is not None and 0 <= now - sweep.succeeded_began < AGAIN_AFTER
    with floors.scan() as known:
        starts = [*([known[0]] if known else []), *([sweep.next_succeeded] if goes_on else [])]
        rows = _expired_by_id(days)
        if starts:
            rows = rows.filter(pk__gte=max(starts))
        part = slice(DELIVERIES_AT_ONCE, DELIVERIES_AT_ONCE + 1)
        following = next(iter(rows.order_by("pk").values_list("pk", flat=True)[part]), None)
        expired = _succeeded_before(days, rows if following is None else rows.filter(pk__lt=following))
        ids = list(expired.order_by("pk").values_list("pk", flat=True)[:most])
    if ids:
        floors.note(0, ids[0])
    return ids, following, sweep.succeeded_began if goes_on else now


def note_backlog(floors: ScanFloors) -> int:
    """Note for how long succeeded deliveries are left after their retention. Returns 0: it deletes nothing."""
    days = conf.retention_days[State.SUCCEEDED]
    oldest, following, _began = _expired_succeeded(days, floors, 1)
    if not oldest and following:
        return 0  # nothing is known of the ones after these
    seconds = timezone.now().timestamp() - days * DAY - (oldest[0].int >> 80) / 1000 if oldest else 0
    Sweep.objects.filter(pk=1).exclude(backlog=int(seconds)).update(backlog=int(seconds))
    return 0


def _succeeded_before(days: float, rows: DeliveryQuerySet | None = None) -> DeliveryQuerySet:
    """Succeeded deliveries that are stored for longer than so many days, and do not go with a partition soon. Without
    those that a failed delivery needs, which would not be superseded any more."""
    ended = (_expired_by_id(days) if rows is None else rows).alias(end=Coalesce("noted_end", EndOfFirstAttempt()))
    return ended.filter(SUCCEEDED, Q(end__lt=DatabaseNow(-days * DAY)) | Q(end=None), ~Q(SupersedesFailed()))


def _expired_by_id(days: float) -> DeliveryQuerySet:
    """Deliveries of events that are older than so many days, and do not go with a partition soon."""
    # Ids sort by the time of the event, and have an index. The time of an attempt has none.
    border = first_id(timezone.now() - timedelta(days=days))
    begin = partitions.first_emptied_later(Delivery.objects.db)
    return Delivery.objects.filter(pk__lt=border if begin is None else min(border, id_at(begin)))


def purge_failed_events() -> int:
    """Delete failed events after the retention of failed deliveries."""
    failed = Event.objects.failed().filter(timestamp__lt=DatabaseNow(-conf.retention_days["failed"] * DAY))
    ids = list(failed.order_by("timestamp").values_list("pk", flat=True)[:PIECE])
    delete_rows(Undispatched.objects.filter(pk__in=ids), Event.objects.db)
    delete_rows(Event.objects.filter(pk__in=ids), Event.objects.db)
    return len(ids)


def purge_bare_events() -> int:
    """Delete events without deliveries: they were replayed, or their webhooks were deleted. Looks at each event once,
    when it is older than any retention. One in the default partition may have lost its deliveries with a partition, so
    that one is looked at before, too."""
    sweep, _ = Sweep.get_or_begin()
    using = Event.objects.db
    is_old = Q(timestamp__lt=DatabaseNow(-max(conf.retention_days.values()) * DAY))
    # The time of a wrong clock: later events need not wait for it.
    is_ahead = Q(timestamp__gt=DatabaseNow(OVERLAP.total_seconds()))
    following = Event.objects.filter(pk__gt=sweep.last_event).order_by("pk").annotate(is_old=is_old, is_ahead=is_ahead)
    rows = following.values_list("pk", "is_old", "is_ahead")[:EVENTS_AT_ONCE]
    passed = list(takewhile(lambda row: row[1] or row[2], rows))
    passed_in_default = partitions.old_in_default(using, sweep.last_in_default, EVENTS_AT_ONCE)
    if not (passed or passed_in_default) or not may_delete_events(using):
        return 0
    seen, in_default = ([pk for pk, is_old, *_ in rows if is_old] for rows in (passed, passed_in_default))
    last_event, last_in_default = (max((pk for pk, *_ in rows), default=0) for rows in (passed, passed_in_default))
    Sweep.objects.filter(pk=1).update(
        last_event=max(sweep.last_event, last_event), last_in_default=max(sweep.last_in_default, last_in_default)
    )
    has_deliveries = Exists(Delivery.objects.filter(event=OuterRef("pk")))
    bare = Event.objects.filter(~has_deliveries, pk__in=[*seen, *in_default], undispatched=None)
    # A failed one can be replayed until it is older than any retention.
    ids = list(bare.filter(Q(error="") | Q(pk__in=seen)).values_list("pk", flat=True))
    delete_rows(Event.objects.filter(pk__in=ids), using)
    return len(ids)


def purge_skips(floors: ScanFloors | None = None) -> int:
    """Delete skips after their retention, and the oldest ones of webhooks that have too many. Each sweep looks at some
    webhooks."""
    expired = Skip.objects.filter(timestamp__lt=DatabaseNow(-conf.skip_days * DAY))
    # Also by id, which has an index and sorts by time.
    expired = expired.filter(pk__lt=first_id(timezone.now() - timedelta(days=conf.skip_days)))
    ids = (floors or ScanFloors()).lowest(expired, PIECE)
    pks = list(Webhook.with_deleted.values_list("pk", flat=True))
    chosen = random.sample(pks, min(COUNTED_WEBHOOKS, len(pks)))  # nosec B311 # only spreads the work
    newest = Skip.objects.filter(webhook=OuterRef("pk")).order_by("-pk").values("pk")
    newest_of_too_many = newest[conf.skips_per_webhook : conf.skips_per_webhook + 1]
    counted = Webhook.with_deleted.filter(pk__in=chosen).annotate(border=Subquery(newest_of_too_many))
    for pk, border in counted.exclude(border=None).values_list("pk", "border"):
        older = Skip.objects.filter(webhook=pk, pk__lte=border).order_by("pk")
        ids += older.values_list("pk", flat=True)[:PIECE]
    ids = ids[:PIECE]
    rollup.delete_skips(ids)
    return len(ids)


def purge_runs() -> int:
    """Delete runs that ended longer ago than any retention."""
    ended = Run.objects.filter(finished_at__lt=DatabaseNow(-max(conf.retention_days.values()) * DAY))
    return Run.objects.filter(pk__in=list(ended.values_list("pk", flat=True)[:PIECE])).delete()[0]


def purge_statistics() -> int:
    """Delete statistics after the retention of their period, and those of deleted webhooks."""
    periods = ((Period.MINUTE, rollup.MINUTE_DAYS), (Period.HOUR, conf.statistic_days))
    old = sum(Statistic.objects.delete_old(period, days, PIECE) for period, days in periods)
    return old + Statistic.objects.delete_left(PIECE)


def purge(deliveries: DeliveryQuerySet, most: int) -> int:
    """Delete up to ``most`` deliveries with their attempts, and events that have no others. Call it in a transaction.

    Returns how many deliveries went. A delivery that is locked stays, here or in the queue: an admin may be sending it
    again, or a worker recording its attempt. That worker may wait for the row of the webhook, which a deletion holds.
    """
    using = deliveries.db
    if not may_delete_events(using):
        return 0
    unlocked = deliveries.select_for_update(skip_locked=True, of=("self",))
    chosen = dict(unlocked[:most].values_list("pk", "event_id"))
    queued = QueuedDelivery.objects.using(using).filter(delivery__in=chosen)
    free = list(queued.select_for_update(skip_locked=True).values_list("delivery", flat=True))
    delete_rows(QueuedDelivery.objects.filter(delivery__in=free), using)
    for locked in queued.values_list("delivery", flat=True):
        del chosen[locked]
    for model in (Attempt, Body):
        delete_rows(model.objects.filter(delivery__in=chosen), using)
    delete_rows(Delivery.objects.filter(pk__in=chosen), using)
    events = Event.objects.filter(pk__in=set(chosen.values()))
    of_event = {"event": OuterRef("pk")}
    # A backfill may have made a delivery of an event that the dispatch has not reached.
    is_done = ~Exists(Delivery.objects.filter(**of_event)) & ~Exists(Undispatched.objects.filter(**of_event))
    delete_rows(events.filter(is_done), using)
    return len(chosen)


def purge_webhooks(webhooks: WebhookQuerySet, most: int) -> int:
    """Go on with the deletion of webhooks that are out of use, their own rows last. Call it in a transaction.

    Returns how many rows went.
    """
    gone = 0
    for pk in webhooks.order_by("pk").values_list("pk", flat=True)[:most]:
        gone += purge(Delivery.objects.filter(webhook=pk).order_by(), most - gone)
        skips = list(Skip.objects.filter(webhook=pk).values_list("pk", flat=True)[: most - gone])
        delete_rows(Skip.objects.filter(pk__in=skips), Skip.objects.db)
        gone += len(skips)
        if gone >= most:
            break
        # A worker that adds a delivery meanwhile leaves it out for now, and then finds no webhook.
        locked = webhooks.filter(pk=pk).select_for_update(skip_locked=True).first()
        if locked and may_delete_webhook(webhooks.db, pk) and not locked.deliveries.exists():
            gone += _delete_row(locked, webhooks)
    return gone


def _delete_row(webhook: Webhook, webhooks: WebhookQuerySet) -> bool:
    """Returns whether it could be deleted: a model of the project may refer to it, with ``PROTECT``."""
    try:
        with savepoint(webhooks.db):
            delete_rows(Statistic.objects.filter(webhook=webhook.pk), webhooks.db)
            webhooks.filter(pk=webhook.pk).delete_rows()
    except IntegrityError as error:  # so is ProtectedError
        reason, extra = error.args[0], about(webhook=webhook)
        logger.error("Webhook %s stays hidden and is not deleted: %s", webhook, reason, extra=extra)
        return False
    return True
