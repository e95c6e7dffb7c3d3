"""The sweep, the periodic work of a worker: expired leases, blocked lanes, lanes without a head, statistics, retention.

``Sweeper`` runs each step in a short transaction. A step takes a limited number of rows, because other workers wait for
its locks.
"""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import Any

from django.db import InterfaceError, OperationalError, ProgrammingError
from django.db.models import F
from django.db.models.functions import Least
from django.dispatch import Signal

from webhooks import hooks
from webhooks.delivery import retention, rollup
from webhooks.delivery.claims import load_claimed
from webhooks.delivery.outcomes import record
from webhooks.delivery.retention import More
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, elapsed, to_utc
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.errors import about, get_logger, is_statement_timeout, reraise_job_timeout
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import bodies_by_webhook
from webhooks.models import Attempt, Delivery, QueuedDelivery, Run, State, Sweep, Webhook, Worker, lanes, partitions
from webhooks.models.lanes import Place
from webhooks.models.queue import CLAIMED_COLUMNS, ENDED_STATES, ClaimedRow, QueuedDeliveryQuerySet
from webhooks.models.worker import EndedLease, in_worker_transaction

logger = get_logger(__name__)

# Rows of each kind that one sweep takes.
MOST = 1000

# Leases that a delivery may lose. The next lost lease is a failed attempt.
LOST_LEASES_ALLOWED = 2

# Rows of the queue in which one step looks for the claims of workers that have ended. So many take 0.04 to 0.1 s.
SEARCHED = 50_000
NEWEST = uuid.UUID(int=2**128 - 1)

# A step that took too long rests for so many times as long, and one that failed for so many seconds.
REST_FACTOR = 20
FAILED_REST = 60

# Seconds between two runs of the steps that no delivery waits for.
SWEEP_ALL_EVERY = 30

# Old rows that a sweep has left are deleted in pieces, for this share of the worker's time. A worker that has recorded
# nothing for a second deletes more of them at once, and has more time for it.
PURGE_SHARE, QUIET_SHARE = 0.1, 0.5
QUIET_AFTER = 1.0

# Lanes that one check looks at, and the seconds that it may take: a worker delivers nothing meanwhile.
CHECKED_LANES, CHECK_SECONDS = 1000, 0.05

Step = Callable[[], int]

problems_due = Signal()
"""Sent in the thread for hooks, now and then, if a hook wants to know of problems."""


class Sweeper:
    """Runs the steps of the sweep, each in a transaction. One that fails or takes too long stops no other, and then
    rests."""

    def __init__(self) -> None:
        self._resting_until: dict[str, float] = {}
        self._due = deque[Step]()
        self._unfinished: list[Step] = []
        # ``elapsed`` is small on a machine that just started.
        self._swept = self._swept_all = self._purged = self._checked_problems = -math.inf
        self._purge_cost = 0.0  # seconds
        self._lanes = LaneCheck()
        self._ended, self._old_skips, self._skips, self._deltas = ScanFloors(), ScanFloors(), ScanFloors(), ScanFloors()

    def run_due(self, idle: float, is_busy: bool = False) -> None:
        """Run what is due now, in a worker that has recorded nothing for ``idle`` seconds. If the worker ``is_busy``,
        only the next step: all together take some tenths of a second, in which it delivers nothing."""
        now = elapsed()
        if not self._due and now - self._swept < conf.sweep_interval:
            self._delete_in_share(now, is_quiet=idle > QUIET_AFTER)
            return
        if not self._due:
            self._begin(now)
        while self._due:
            self._due.popleft()()
            if is_busy:
                return

    def _begin(self, now: float) -> None:
        self._swept = self._purged = now
        if now - self._checked_problems >= SWEEP_ALL_EVERY:  # although another worker may sweep
            self._checked_problems = now
            check_problems()
        if not Sweep.begin(conf.sweep_interval):
            return
        if now - self._swept_all < SWEEP_ALL_EVERY:
            self._due.extend(self._urgent_steps())
        else:
            self._due.extend(self._all_steps())
            self._swept_all = now

    def _delete_in_share(self, now: float, is_quiet: bool) -> None:
        """Go on with the deletion of old rows, if it has not had its share of the time."""
        rest = self._purge_cost * (1 / (QUIET_SHARE if is_quiet else PURGE_SHARE) - 1)
        if self._unfinished and now - self._purged >= rest:
            self.go_on(MOST // retention.PIECE if is_quiet else 1)
            self._purged = elapsed()
            self._purge_cost = self._purged - now

    def sweep(self) -> int:
        """Run all steps. Returns how many rows they changed. Some may have left more, see ``go_on``."""
        check_problems()
        return sum(step() for step in self._all_steps())

    def go_on(self, pieces: int = 1) -> int:
        """Delete what the last run has left, up to so many pieces of each kind. Returns how many rows."""
        count = 0
        for _ in range(pieces):
            left, self._unfinished = self._unfinished, []
            count += sum(map(self._run_old, left))
        return count

    def _urgent_steps(self) -> list[Step]:
        """The steps that deliveries or pages wait for."""
        steps: list[Step] = [unblock_lanes, partial(rollup.add_up, MOST, self._skips, self._deltas)]
        large: list[Step] = [expire_leases, search_claims, hasten_heads]
        return [*(partial(self._run_old, step) for step in large), *(partial(self._run, step) for step in steps)]

    def _all_steps(self) -> list[Step]:
        self._unfinished = []
        steps: list[Step] = [
            make_partitions,
            drop_old_partitions,
            *(partial(retention.purge_ended, state, self._ended) for state in ENDED_STATES),
            retention.purge_failed_events,
            retention.purge_bare_events,
            partial(retention.purge_skips, self._old_skips),
            partial(retention.purge_webhooks, Webhook.with_deleted.being_deleted(), retention.PIECE),
            retention.purge_runs,
            Webhook.objects.delete_expired_secrets,
            self._lanes.check_lanes,
            retention.purge_statistics,
            partial(retention.note_backlog, self._ended),
        ]
        return [*self._urgent_steps(), *(partial(self._run_old, step) for step in steps)]

    def _run_old(self, step: Step) -> int:
        """Run a step, and keep it for ``go_on`` if it has left more."""
        count = self._run(step)
        if (isinstance(count, More) or count >= retention.PIECE) and step not in self._unfinished:
            self._unfinished.append(step)
        return count

    def _run(self, step: Step) -> int:
        name, began = describe_step(step), elapsed()
        if began < self._resting_until.get(name, 0):
            return 0
        try:
            return in_worker_transaction(Delivery.objects.db, step)
        except (OperationalError, InterfaceError, ProgrammingError) as error:
            if not is_statement_timeout(error):
                raise  # the database is away, or its tables are missing
            seconds = elapsed() - began
            rest = REST_FACTOR * seconds
            logger.error("The sweep stopped “%s” after %.1f s, and tries it again in %.0f s", name, seconds, rest)
        except Exception as error:
            reraise_job_timeout(error)
            rest = FAILED_REST
            logger.exception("The sweep failed at “%s”, and tries it again in %d s", name, rest)
        self._resting_until[name] = elapsed() + rest
        return 0


def check_problems() -> None:
    """Have the thread for hooks look, if a hook wants to know of problems."""
    if any(map(hooks.listed, hooks.OF_PROBLEMS)):
        hooks.call_in_background([("look for problems", partial(problems_due.send, Sweeper))])


def describe_step(step: Step) -> str:
    """The name of a step in words, such as “purge ended failed”."""
    work: Any = step.func if isinstance(step, partial) else step
    states = [given for given in getattr(step, "args", ()) if isinstance(given, State)]
    return " ".join([work.__name__.replace("_", " "), *states])


def sweep() -> int:
    """Run all steps, up to ``MOST`` rows of each kind. Returns how many rows they changed."""
    sweeper = Sweeper()
    return sweeper.sweep() + sweeper.go_on(MOST // retention.PIECE - 1)


def make_partitions() -> int:
    """Make partitions of the history. If there are more to make, ``go_on`` makes them."""
    return More() if partitions.make_ahead() else 0


def drop_old_partitions() -> int:
    """Empty a partition of the history. If another one is due, ``go_on`` takes it."""
    return More() if partitions.drop_old() else 0


def expire_leases() -> int:
    """Take back deliveries from workers that died or stalled. The third lost lease is a failed attempt.

    Such attempts follow the schedule by themselves: the next one that reaches the receiver begins where it was. If the
    worker ended in a step of a run that may end it, that step has the loss, and the deliveries have none.

    No index has the claims, for each delivery would have to write it. So this looks at the newest and the oldest rows
    of the queue, where most claims are. If there are more, ``search_claims`` goes through all.
    """
    if not Worker.objects.expired().exists():
        return 0
    workers = list(Worker.objects.expired().select_for_update(skip_locked=True))
    Worker.objects.filter(pk__in=[worker.pk for worker in workers]).delete()
    # Separate statements, after the lock: a worker that was claiming has committed its claims by now.
    in_step = Run.objects.tokens_in_steps()
    Sweep.get_or_begin()
    sweep = Sweep.objects.select_for_update(no_key=True).get(pk=1)
    begin = (sweep.next_claim or NEWEST).hex
    ended = {
        worker.token: EndedLease(to_utc(worker.lease_until).timestamp(), worker.token in in_step, begin)
        for worker in workers
    }
    queue = QueuedDelivery.objects.all()
    newest, oldest = _first_after(queue.order_by("-pk")), _first_after(queue.order_by("pk"))
    if newest is None or oldest is None:
        return _take_back(queue, ended)
    count = _take_back(queue.filter(pk__gt=newest), ended) + _take_back(queue.filter(pk__lt=oldest), ended)
    left = {token.hex: lease for token, lease in ended.items()}
    Sweep.objects.filter(pk=1).update(ended_leases=sweep.ended_leases | left)
    return count


def search_claims() -> int:
    """Search the next part of the queue for claims of leases that have ended. It goes round and round, from new rows to
    old ones, until it has met each row for each lease."""
    sweep = Sweep.objects.filter(pk=1).select_for_update(skip_locked=True, no_key=True).first()
    if sweep is None or not sweep.ended_leases:
        return 0
    ended = {uuid.UUID(token): EndedLease(*columns) for token, columns in sweep.ended_leases.items()}
    part = QueuedDelivery.objects.filter(pk__lte=sweep.next_claim or NEWEST)
    following = _first_after(part.order_by("-pk"))
    count = _take_back(part.filter(pk__gt=following) if following else part, ended)
    searched_to = (following or NEWEST).hex
    left = {}
    for token, lease in ended.items():
        lease = lease._replace(is_around=lease.is_around or following is None)
        if not lease.is_around or searched_to > lease.searched_from:
            left[token.hex] = lease
    Sweep.objects.filter(pk=1).update(ended_leases=left, next_claim=following if left else None)
    return More(count) if left else count


def _first_after(rows: QueuedDeliveryQuerySet) -> uuid.UUID | None:
    """The id of the first row that comes after ``SEARCHED`` others."""
    return rows.values_list("pk", flat=True)[SEARCHED : SEARCHED + 1].first()


def _take_back(rows: QueuedDeliveryQuerySet, ended: Mapping[uuid.UUID, EndedLease]) -> int:
    """Take back the claims of these leases. Returns how many there were."""
    claims = list(rows.claimed(ended).values_list("pk", "claim"))
    if not claims:
        return 0
    chosen = QueuedDelivery.objects.claimed(ended)  # a worker that has stalled may record some meanwhile
    of_step = [pk for pk, claim in claims if claim and ended[claim].was_in_step]
    count = chosen.filter(pk__in=of_step).release()
    claimed = chosen.filter(pk__in={pk for pk, _ in claims}.difference(of_step))
    outcomes = []
    kind = ErrorKind.WORKER_ENDED
    for token, *columns in claimed.filter(lost_leases__gte=LOST_LEASES_ALLOWED).values_list("claim", *CLAIMED_COLUMNS):
        at = datetime.fromtimestamp(ended[token].ended, UTC)
        outcome = Outcome(at, 0, reason=kind.english, kind=kind)
        row = ClaimedRow(*columns)._replace(failures=_worker_ended_in_a_row(columns[0]))
        outcomes += [(delivery, outcome) for delivery in load_claimed([row], token, bodies_by_webhook)]
        extra = about(delivery=row.id, event=row.event_id, kind=kind)
        logger.error("Delivery %s failed: %s", columns[0], kind.english, extra=extra)
    if outcomes:
        record(outcomes, worker="")
    # The deliveries of a webhook that is being deleted get no attempt. Nor do those of an object that another session
    # has locked: they stay the most suspect ones.
    lost_leases = Least(F("lost_leases") + 1, LOST_LEASES_ALLOWED)
    count += len(outcomes) + claimed.release(lost_leases=lost_leases)
    Sweep.objects.filter(pk=1).update(lost_leases=F("lost_leases") + count)
    return count


def _worker_ended_in_a_row(delivery_id: uuid.UUID) -> int:
    """How many of the last attempts of a delivery failed because workers ended."""
    kinds = Attempt.objects.filter(delivery=delivery_id).order_by("-number").values_list("error_kind", flat=True)
    return len(list(takewhile(lambda kind: kind == ErrorKind.WORKER_ENDED, kinds[:MOST])))


def unblock_lanes() -> int:
    """Let deliveries pass a failing head that has blocked its lane for too long."""
    using = QueuedDelivery.objects.db
    heads = lanes.blocking_heads(using, conf.lane_wait, MOST)
    if not heads:
        return 0
    free = lanes.try_lock(using, (place.lane for place in heads.values()))
    free_heads = [pk for pk, place in heads.items() if place.lane in free]
    # Meanwhile, a worker may have claimed some, and a user may have retried others.
    since = DatabaseNow(-conf.lane_wait)
    blocking = QueuedDelivery.objects.filter(pk__in=free_heads, state=State.PENDING, failing_since__lt=since)
    ids = list(blocking.select_for_update(skip_locked=True).values_list("pk", flat=True))
    QueuedDelivery.objects.filter(pk__in=ids).leave_lane()
    lanes.promote(using, [heads[pk] for pk in ids])
    return len(ids)


def hasten_heads() -> int:
    """Go on with the failed heads of resumed webhooks, of which a resume makes a limited number due."""
    webhooks = Webhook.objects.filter(hastened_to__isnull=False, enabled=True, paused_at=None, probe_at=None)
    locked = webhooks.select_for_update(skip_locked=True, no_key=True).order_by("pk")
    return QueuedDelivery.objects.hasten_heads(list(locked.values_list("pk", flat=True)), goes_on=True)


class LaneCheck:
    """Gives a head to lanes that have none, because code deleted its row. Each check goes on where the last one ended,
    even of another process: a stock worker ends with each slice.

    While another session keeps an old snapshot, each lane has a dead entry for each delivery since. So a check looks at
    as many lanes as it probably can in ``CHECK_SECONDS``.
    """

    def __init__(self) -> None:
        self._most = CHECKED_LANES

    def check_lanes(self) -> int:
        """Returns how many lanes got a head."""
        using, began, left, promoted = QueuedDelivery.objects.db, elapsed(), self._most, 0
        begin, _ = Sweep.get_or_begin()
        after = (0, lanes.SMALLEST)
        webhooks = Webhook.with_deleted.filter(pk__gte=begin.next_webhook).order_by("pk")
        for pk in webhooks.values_list("pk", flat=True):
            first = begin.next_lane if pk == begin.next_webhook else lanes.SMALLEST
            seen, headless = lanes.headless_lanes(using, pk, first, left)
            free = lanes.try_lock(using, headless)
            promoted += lanes.repair(using, [Place(pk, lane, 0) for lane in free])
            left -= max(1, len(seen))  # to look at a webhook without lanes is a query, too
            if left <= 0:
                after = (pk, seen[-1] + 1) if seen and seen[-1] < lanes.LARGEST else (pk + 1, lanes.SMALLEST)
                break
        if after != (begin.next_webhook, begin.next_lane):
            Sweep.objects.filter(pk=1).update(next_webhook=after[0], next_lane=after[1])
        if looked_at := self._most - left:
            fitting = looked_at * CHECK_SECONDS / max(elapsed() - began, 0.001)
            self._most = min(CHECKED_LANES, max(1, int(fitting)))
        return promoted
