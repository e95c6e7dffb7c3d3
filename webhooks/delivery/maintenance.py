"""The periodic work of a worker: expired leases, blocked lanes, retention.

Each step takes a limited number of rows in a short transaction, because other workers wait for its locks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Any

from django.db import OperationalError, transaction
from django.db.models import Exists, F, OuterRef, Q, Subquery
from django.utils import timezone

from webhooks.conf import conf
from webhooks.db import DatabaseNow, atomically
from webhooks.delivery import statistics
from webhooks.delivery.claims import load_held
from webhooks.delivery.clock import elapsed
from webhooks.delivery.floors import Floors
from webhooks.delivery.lane_check import LaneCheck
from webhooks.delivery.outcomes import record
from webhooks.error_kinds import ErrorKind
from webhooks.errors import get_logger, is_statement_timeout
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
    Worker,
    claim_sql,
    lanes,
)
from webhooks.models.claim_sql import ClaimedRow
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.ids import first_id
from webhooks.models.queue import ENDED_STATES
from webhooks.models.sweep import blocking_heads, ended_before
from webhooks.models.webhook_states import WebhookQuerySet
from webhooks.network.outcome import Outcome

logger = get_logger(__name__)

# Rows of each kind that one sweep takes.
MOST = 1000

# Rows that a step deletes at a time. A worker delivers nothing meanwhile.
PIECE = 200

# One sweep looks whether this many webhooks have too many skips.
COUNTED_WEBHOOKS = 10

DAY = 86_400  # seconds

# Leases that a delivery may lose. The next lost lease is a failed attempt.
LOST_LEASES_ALLOWED = 2

# A step that took too long rests for so many times as long.
REST_FACTOR = 20


Step = Callable[[], int]


class Sweeper:
    """Runs the steps of the sweep, each in a transaction. One that takes too long stops no other, and then rests."""

    def __init__(self) -> None:
        self._resting_until: dict[str, float] = {}
        self._unfinished: list[Step] = []
        self._lanes = LaneCheck()
        self._ended, self._old_skips, self._skips, self._deltas = Floors(), Floors(), Floors(), Floors()

    def sweep(self) -> int:
        """Run all steps. Returns how many rows they changed. Some may have left more, see ``go_on``."""
        steps: list[Step] = [*(partial(purge_ended, state, self._ended) for state in ENDED_STATES)]
        steps += [purge_failed_events, purge_bare_events, partial(purge_skips, self._old_skips)]
        steps += [partial(purge_webhooks, Webhook.with_deleted.being_deleted(), PIECE)]
        steps += [purge_runs, delete_expired_secrets, self._lanes.check, partial(statistics.delete_old, PIECE)]
        return self.sweep_urgent() + self._run_all(steps)

    def go_on(self, pieces: int = 1) -> int:
        """Delete what the last run has left, up to so many pieces of each kind. Returns how many rows."""
        return sum(self._run_all(self._unfinished) for _ in range(pieces) if self._unfinished)

    def sweep_urgent(self) -> int:
        """Run the steps that deliveries or pages wait for."""
        steps: list[Step] = [expire_leases, unblock_lanes, partial(statistics.add_up, MOST, self._skips, self._deltas)]
        return sum(map(self._run, steps))

    def _run_all(self, steps: Iterable[Step]) -> int:
        counts = [(step, self._run(step)) for step in steps]
        self._unfinished = [step for step, count in counts if count >= PIECE]
        return sum(count for _, count in counts)

    def _run(self, step: Step) -> int:
        name, began = describe_step(step), elapsed()
        if began < self._resting_until.get(name, 0):
            return 0
        using = Delivery.objects.db

        def in_transaction() -> int:
            claim_sql.begin(using)
            return step()

        try:
            return atomically(in_transaction, using)
        except OperationalError as error:
            if not is_statement_timeout(error):
                raise
        now = elapsed()
        rest = REST_FACTOR * (now - began)
        self._resting_until[name] = now + rest
        logger.error("The sweep stopped “%s” after %.1f s, and tries it again in %.0f s", name, now - began, rest)
        return 0


def describe_step(step: Step) -> str:
    """The name of a step in words, such as “purge ended failed”."""
    work: Any = step.func if isinstance(step, partial) else step
    states = [one for one in getattr(step, "args", ()) if isinstance(one, State)]
    return " ".join([work.__name__.replace("_", " "), *states])


def sweep() -> int:
    """Run all steps, up to ``MOST`` rows of each kind. Returns how many rows they changed."""
    sweeper = Sweeper()
    return sweeper.sweep() + sweeper.go_on(MOST // PIECE - 1)


def expire_leases() -> int:
    """Take back deliveries from workers that died or stalled. The third lost lease is a failed attempt."""
    if not Worker.objects.expired().exists():
        return 0
    return atomically(_expire, Worker.objects.db)


def _expire() -> int:
    claim_sql.begin(Worker.objects.db)
    ended = {worker.token: worker for worker in Worker.objects.expired().select_for_update(skip_locked=True)}
    Worker.objects.filter(pk__in=ended).delete()
    # In a statement of its own, after the lock: a worker that was claiming has committed its claims by now.
    held = QueuedDelivery.objects.held(list(ended))
    outcomes = []
    for lost in held.filter(lost_leases__gte=LOST_LEASES_ALLOWED):
        row, kind = ClaimedRow(*(getattr(lost, name) for name in LOST_COLUMNS)), ErrorKind.WORKER_ENDED
        outcome = Outcome(ended[lost.claim].lease_until, 0, reason=kind.english, kind=kind)  # type: ignore[index]
        outcomes += [(one, outcome) for one in load_held([row], lost.claim)]  # type: ignore[arg-type]  # it is claimed
        logger.error("Delivery %s failed: %s", lost.pk, kind.english)
    if outcomes:
        record(outcomes, worker="")
    # The deliveries of a webhook that is being deleted get no attempt.
    return len(outcomes) + held.release(lost_leases=F("lost_leases") + 1)


LOST_COLUMNS = ("delivery_id", *ClaimedRow._fields[1:])


def unblock_lanes() -> int:
    """Let deliveries pass a failing head that has blocked its lane for too long."""
    using = QueuedDelivery.objects.db
    heads = blocking_heads(using, conf.lane_wait, MOST)
    if not heads:
        return 0

    def unblock() -> int:
        claim_sql.begin(using)
        lanes.lock(using, (place.lane for place in heads.values()))
        # Meanwhile, a worker may have claimed some, and a user may have retried others.
        since = DatabaseNow(-conf.lane_wait)
        blocking = QueuedDelivery.objects.filter(pk__in=heads, state=State.PENDING, failing_since__lt=since)
        ids = list(blocking.select_for_update().values_list("pk", flat=True))
        QueuedDelivery.objects.filter(pk__in=ids).leave_lane()
        lanes.promote(using, [heads[pk] for pk in ids])
        return len(ids)

    return atomically(unblock, using)


def delete_expired_secrets() -> int:
    """Delete previous secrets that no longer sign."""
    return Webhook.objects.delete_expired_secrets()


def purge_ended(state: State, floors: Floors | None = None) -> int:
    """Delete deliveries in this state after their retention, with their events. ``floors`` are for succeeded ones."""
    days = conf.retention_days[state]
    expired = Delivery.without_state.filter(outcome=state, finished_at__lt=DatabaseNow(-days * DAY))
    if state == State.SUCCEEDED:
        # Ids sort by the time of the event, and have an index. The time of an attempt has none.
        old = expired.filter(pk__lt=first_id(timezone.now() - timedelta(days=days)))
        ids = (floors or Floors()).lowest(old, PIECE)
    else:
        ids = ended_before(Delivery.objects.db, state, days * DAY, PIECE)
    return purge(expired.filter(pk__in=ids).order_by(), PIECE) if ids else 0


def purge_failed_events() -> int:
    """Delete failed events after the retention of failed deliveries."""
    failed = Event.objects.failed().filter(timestamp__lt=DatabaseNow(-conf.retention_days["failed"] * DAY))
    ids = list(failed.order_by("timestamp").values_list("pk", flat=True)[:PIECE])
    Undispatched.objects.filter(pk__in=ids)._raw_delete(Event.objects.db)
    Event.objects.filter(pk__in=ids)._raw_delete(Event.objects.db)
    return len(ids)


def purge_bare_events() -> int:
    """Delete events without deliveries: they were replayed, or their webhooks were deleted. Looks at each event once,
    when it is older than any retention."""
    sweep, _ = Sweep.objects.get_or_create(pk=1, defaults={"swept_at": DatabaseNow()})
    is_old = Q(timestamp__lt=DatabaseNow(-max(conf.retention_days.values()) * DAY))
    following = Event.objects.filter(pk__gt=sweep.last_event).order_by("pk").annotate(is_old=is_old)
    seen = [pk for pk, _ in takewhile(lambda row: row[1], following.values_list("pk", "is_old")[:MOST])]
    if not seen:
        return 0
    Sweep.objects.filter(pk=1).update(last_event=seen[-1])
    has_deliveries = Exists(Delivery.without_state.filter(event=OuterRef("pk")))
    bare = Event.objects.filter(~has_deliveries, pk__in=seen, undispatched=None)
    ids = list(bare.values_list("pk", flat=True))
    Event.objects.filter(pk__in=ids)._raw_delete(Event.objects.db)
    return len(ids)


def purge_skips(floors: Floors | None = None) -> int:
    """Delete skips after their retention, and the oldest ones of webhooks that have too many. Each sweep looks at some
    webhooks."""
    expired = Skip.objects.filter(timestamp__lt=DatabaseNow(-conf.skip_days * DAY))
    # Also by id, which has an index and sorts by time.
    expired = expired.filter(pk__lt=first_id(timezone.now() - timedelta(days=conf.skip_days)))
    ids = (floors or Floors()).lowest(expired, PIECE)
    pks = list(Webhook.with_deleted.values_list("pk", flat=True))
    chosen = random.sample(pks, min(COUNTED_WEBHOOKS, len(pks)))  # nosec B311 # only spreads the work
    newest = Skip.objects.filter(webhook=OuterRef("pk")).order_by("-pk").values("pk")
    newest_of_too_many = newest[conf.skips_per_webhook : conf.skips_per_webhook + 1]
    counted = Webhook.with_deleted.filter(pk__in=chosen).annotate(border=Subquery(newest_of_too_many))
    for pk, border in counted.exclude(border=None).values_list("pk", "border"):
        older = Skip.objects.filter(webhook=pk, pk__lte=border).order_by("pk")
        ids += older.values_list("pk", flat=True)[:PIECE]
    ids = ids[:PIECE]
    statistics.delete_skips(ids)
    return len(ids)


def purge_runs() -> int:
    """Delete runs that ended longer ago than any retention."""
    ended = Run.objects.filter(finished_at__lt=DatabaseNow(-max(conf.retention_days.values()) * DAY))
    return Run.objects.filter(pk__in=list(ended.values_list("pk", flat=True)[:PIECE])).delete()[0]


def purge(deliveries: DeliveryQuerySet, most: int) -> int:
    """Delete up to ``most`` deliveries with their attempts, and events that have no others. Returns how many
    deliveries went. A delivery that is locked stays: an admin may just be sending it again."""
    using = deliveries.db
    with transaction.atomic(using):
        unlocked = deliveries.select_for_update(skip_locked=True, of=("self",))
        chosen = dict(unlocked[:most].values_list("pk", "event_id"))
        for model in (Attempt, Body):
            model.objects.filter(delivery__in=chosen)._raw_delete(using)
        QueuedDelivery.objects.filter(pk__in=chosen)._raw_delete(using)
        Delivery.without_state.filter(pk__in=chosen)._raw_delete(using)
        events = Event.objects.filter(pk__in=set(chosen.values()))
        events.filter(~Exists(Delivery.without_state.filter(event=OuterRef("pk"))))._raw_delete(using)
    return len(chosen)


def purge_webhooks(webhooks: WebhookQuerySet, most: int) -> int:
    """Go on with the deletion of webhooks that are out of use, their own rows last. Returns how many rows went."""
    gone = 0
    for pk in webhooks.order_by("pk").values_list("pk", flat=True)[:most]:
        gone += purge(Delivery.without_state.filter(webhook=pk).order_by(), most - gone)
        skips = list(Skip.objects.filter(webhook=pk).values_list("pk", flat=True)[: most - gone])
        Skip.objects.filter(pk__in=skips)._raw_delete(Skip.objects.db)
        gone += len(skips)
        if gone >= most:
            break
        with transaction.atomic(webhooks.db):
            # A worker that adds a delivery meanwhile waits for this lock, and then finds no webhook.
            locked = webhooks.filter(pk=pk).select_for_update(skip_locked=True).first()
            if locked and not locked.deliveries.exists():
                Statistic.objects.filter(webhook=pk)._raw_delete(webhooks.db)
                locked.delete()
                gone += 1
    return gone
