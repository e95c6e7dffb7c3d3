"""Execute runs: acts on many rows, step by step, alongside live traffic.

A step is one transaction. It locks the run, changes the next few rows, and moves the cursor past them. The deliveries
that it puts back into the queue are claimed in the same transaction, as far as this worker has capacity for them.

A step that judges events, or calls the project's code, may end or stall its worker. It takes nothing else, is noted
before, and has a time limit: see ``risky``.
"""

from __future__ import annotations

import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from django.db import Error, OperationalError, connections
from django.dispatch import Signal
from django.utils import translation

from webhooks.delivery.claims import WorkerClaims
from webhooks.delivery.known_webhooks import webhooks_by_id
from webhooks.delivery.runs.kinds import (
    EVENTS,
    LEFT_OUT,
    Applied,
    Key,
    Pace,
    Portion,
    RunKind,
    RunRefused,
    TimeLeft,
    approve,
    kind_of,
)
from webhooks.delivery.runs.late import Late, is_waiting, ready
from webhooks.delivery.runs.risky import LOSSES_ALLOWED, Note, counting_loss, time_limit
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, atomically, elapsed, fetch_all, is_postgresql
from webhooks.ground.errors import describe_error, get_logger, is_missing_table, reraise_job_timeout
from webhooks.ground.text import clean
from webhooks.models import Run, RunState, Webhook
from webhooks.models.delivery import Handover
from webhooks.models.worker import begin_transaction

logger = get_logger(__name__)

T = TypeVar("T")

# Keys that a worker reads ahead for the next steps of a run: with one query, and for all webhooks together. A query for
# 2000 takes 10 ms. With live traffic it reads fewer, because live deliveries wait for it.
READ, READ_OF_ALL, READ_BESIDE_LIVE = 2000, 50_000, 200

# A step reads keys for about this long (seconds). Then it takes rows of the webhooks that have some.
READ_SECONDS = 0.02

# The most webhooks in one step.
WEBHOOKS = 50

# Batches of rows that a step takes. It writes the run and its cursors once for all of them.
BATCHES = 2

# Rows of a webhook that a step takes at most, and events to replay. Their locks last until its end.
MOST, MOST_REPLAYED = 500, 20

# Rows that a step takes of a webhook that is paused or disabled: they only go back into the queue.
UNCLAIMED = 100

# Rows that a step takes while there is live traffic, at most, and seconds after which it takes no other row. Live
# deliveries wait behind them.
BESIDE_LIVE, BESIDE_LIVE_SECONDS = 10, 0.25

# SQLite has one writer. After a step of more than so many seconds, a worker lets others write for as long.
LONG_WRITE, LONGEST_REST = 0.1, 1.0

# For so many seconds after a new event, there is live traffic.
LIVE_SECONDS = 2.0

# Seconds between two looks for runs.
LOOK_EVERY = 0.25

PROBLEM_LENGTH = 500

run_ended = Signal()
"""Sent with a ``run`` that is done or failed, in the transaction that ends it."""


class Step(NamedTuple):
    """What a transaction of a step did.

    ``run`` is as it is now, or None if it was paused or cancelled, or another worker is in a step. ``taken`` is the
    number of rows. The ``risky`` ones are noted, and not taken yet.
    """

    run: Run | None = None
    taken: int = 0
    risky: Portion | None = None


class ReadAlone(Exception):
    """A step ends with the rows that it has read: the next one takes them. Or PostgreSQL has stopped the query, and the
    next one looks at fewer events."""


class Runs:
    """The part of one worker process in all runs. Not thread-safe."""

    def __init__(self, worker: WorkerClaims) -> None:
        self._worker = worker
        self._open: dict[int, Run] = {}
        """The running runs by id, as this worker last saw them."""
        self._read: dict[tuple[int, int, int], list[Key]] = {}
        """Keys that were read ahead, by run, reading and webhook."""
        self._webhooks: dict[int, Webhook] = {}
        """The webhooks of the last steps by id, read since the last look."""
        self._pace = Pace()
        self._errors: dict[int, str] = {}
        """The errors of databases that the last steps met, by run."""
        self._approved: set[int] = set()
        """The runs with users who may still begin them, since the last look."""
        self._recorded = 0
        """Events that the last step has recorded, and that this worker has not dispatched."""
        self._turn = 0
        self._next_look = self._live_until = 0.0

    def saw_new(self, count: int) -> None:
        """Note so many new events, so that the next steps leave room for them. Not for those of the last step."""
        own, self._recorded = self._recorded, max(0, self._recorded - count)
        if count > own:
            self._live_until = time.monotonic() + LIVE_SECONDS

    def forget(self, webhooks: Iterable[int]) -> None:
        """Read these webhooks again before the next step: they are paused or disabled now."""
        for webhook in webhooks:
            self._webhooks.pop(webhook, None)

    @property
    def are_beside_live(self) -> bool:
        """Whether a run goes on while there is live traffic."""
        return bool(self._open) and time.monotonic() < self._live_until

    def step(self, may_send: bool = True) -> int:
        """Take one run forward, but none whose rows are sent unless the worker ``may_send``. Returns how many rows it
        took."""
        if time.monotonic() >= self._next_look:
            self._look()
        if not self._open:
            return 0
        self._turn += 1
        run = list(self._open.values())[self._turn % len(self._open)]
        if kind_of(run).is_sent and not may_send:
            return 0
        try:
            with translation.override("en"):  # problems are stored, and read in many languages
                if run.pk not in self._approved:
                    approve(run)
                    self._approved.add(run.pk)
                taken = self._take_step(run)
                self._errors.pop(run.pk, None)
                return taken
        except Exception as error:
            reraise_job_timeout(error)
            if isinstance(error, Error) and not self._is_met_again(run, error):
                return 0
            if not isinstance(error, RunRefused):
                logger.exception("The run %s cannot go on", run)
            problem = str(error)
            atomically(lambda: _end(run.pk, RunState.FAILED, problem), Run.objects.db)
            self._next_look = 0.0
            return 1

    def _is_met_again(self, run: Run, error: Error) -> bool:
        """Whether the last step of the run met the same error of a database. Raises it if the run may not be to blame:
        it is about a lock, the time or the connection to our database, or other statements fail, too."""
        if isinstance(error, OperationalError) and not is_missing_table(error) and not _is_other_away():
            raise error
        try:
            fetch_all(Run.objects.db, "SELECT 1")
        except Error:
            raise error from None
        before, self._errors[run.pk] = self._errors.get(run.pk), str(error)
        if before != str(error):
            logger.warning("The run %s met an error of a database, and tries again: %s", run, describe_error(error))
            return False
        return True

    def _look(self) -> None:
        # Mostly there is none. The ORM's query takes a tenth of the processor time of an idle worker.
        is_any = fetch_all(Run.objects.db, "SELECT 1 FROM rq_webhooks_run WHERE state = 'running' LIMIT 1")
        due = list(Run.objects.due().order_by("pk")) if is_any else []
        self._open = {run.pk: run for run in map(ready, due) if run}
        self._read = {place: keys for place, keys in self._read.items() if place[0] in self._open}
        self._webhooks.clear()
        self._approved.clear()
        self._next_look = time.monotonic() + LOOK_EVERY

    def _take_step(self, run: Run) -> int:
        """Returns how many rows it took."""
        step = self._in_transaction(run, lambda handover: self._step(run.pk, handover))
        if step.run and step.risky:
            step = self._take_risky(step.run, step.risky)
        if step.run is None or step.run.state != RunState.RUNNING or is_waiting(step.run):
            self._next_look = 0.0
        else:
            self._open[run.pk] = step.run
        return step.taken

    def _in_transaction(self, run: Run, work: Callable[[Handover], Step]) -> Step:
        """A transaction of a step. Then send what it has claimed. If the worker meets an error before, the lease of
        these rows ends."""
        using = Run.objects.db

        def begin_and_work() -> tuple[Handover, Step]:
            handover = Handover(token, may_claim=begin_transaction(using, token))
            return handover, work(handover)

        with self._worker.claiming() as token:
            try:
                handover, step = atomically(begin_and_work, using)
            except ReadAlone:
                return Step(run, 1)
            self._worker.add(handover.rows, token, self._webhooks)
        return step

    def _step(self, pk: int, handover: Handover) -> Step:
        """Take the next rows. Of rows that are risky, only note that this worker tries them."""
        run = _lock(pk)
        if run is None or is_waiting(run):
            return Step(run)
        kind = kind_of(run)
        if run.total is None:
            return self._count(run, kind)
        portions = self._portions(run, kind, handover)
        if run.cursors and not portions:
            return Step(run)
        if portions and portions[0].keys and kind.is_risky(portions[0].webhook):
            return _note(run, portions[0], handover.token)
        return Step(run, _take(run, portions, handover, self._time_of_step()))

    def _portions(self, run: Run, kind: RunKind, handover: Handover) -> list[Portion]:
        """The next rows: risky ones of one webhook, or others of many webhooks, from another one on each time.

        A worker holds few deliveries of each of many webhooks. So one step takes rows of many: it costs as much for
        five rows as for fifty.
        """
        left = BESIDE_LIVE if self.are_beside_live else BATCHES * conf.batch
        webhooks = [int(webhook) for webhook in run.cursors]
        turn = self._turn % max(1, len(webhooks))
        webhooks = webhooks[turn:] + webhooks[:turn]
        free = self._worker.capacity(webhooks, len(webhooks), BATCHES) if kind.is_sent else {}
        webhooks = [webhook for webhook in webhooks if free.get(webhook, 1) > 0][: min(left, WEBHOOKS)]
        if webhooks:
            is_risky = kind.is_risky(webhooks[0])
            webhooks = webhooks[:1] if is_risky else [webhook for webhook in webhooks if not kind.is_risky(webhook)]
        if unknown := (free.keys() & webhooks) - self._webhooks.keys():
            self._webhooks |= webhooks_by_id(Webhook.objects.db, unknown)
        portions, began = list[Portion](), elapsed()
        for webhook in webhooks:
            most = MOST_REPLAYED if webhook == EVENTS else MOST
            receiver = self._webhooks.get(webhook)  # a deleted webhook is missing
            if webhook in free and receiver and receiver.is_sendable:
                most = handover.free[webhook] = min(most, free[webhook])
            elif kind.is_sent:
                most = min(most, UNCLAIMED)
            portions.append(self._portion(run, kind, webhook, min(left, most)))
            left -= len(portions[-1].keys)
            if left <= 0 or elapsed() - began > READ_SECONDS:
                break
        return portions

    def _portion(self, run: Run, kind: RunKind, webhook: int, most: int) -> Portion:
        """The next rows of a webhook after its cursor, which another worker may have moved since they were read."""
        place, after, until = (run.pk, Late.of(run).reading, webhook), run.cursors[str(webhook)], run.last_event
        keys = self._read.pop(place, [])
        keys = keys[bisect_right(keys, after, key=lambda key: key.event_id) :]
        if not keys:
            until = min(after + self._pace.events * kind.stride, until)
            ahead = READ_BESIDE_LIVE if self.are_beside_live else READ
            limit = max(most, min(ahead, READ_OF_ALL // len(run.cursors)))
            keys = self._read_in_time(lambda: kind.keys(run, webhook, after, until, limit))
            if keys and self.are_beside_live:  # live deliveries go first
                self._read[place] = keys
                raise ReadAlone
        if keys:
            self._read[place], until = keys, keys[:most][-1].event_id
        return Portion(webhook, after, until, keys[:most])

    def _read_in_time(self, read: Callable[[], T]) -> T:
        """Read rows. Raises ReadAlone if PostgreSQL has stopped it: the lease must not end."""
        rows = self._pace.read(read)
        if rows is None:
            raise ReadAlone
        return rows

    def _take_risky(self, run: Run, portion: Portion) -> Step:
        """The rest of a step that may end or stall this worker. Another one then finds its note."""
        note, step = Note.of(run), Step(run, 1)
        if note.losses:
            portion = portion.first(1)
            self._worker.hand_back_waiting()  # if this worker ends, too, few others lose a lease
        time_left, began = self._time_of_step(), elapsed()
        with counting_loss(run.pk, note.token), time_limit(conf.lease / 3, last=conf.lease):
            portion = kind_of(run).prepare(run, portion, time_left)
            step = self._in_transaction(
                run, lambda handover: _take_noted(run.pk, portion, note.token, handover, time_left)
            )
        if step.run and portion.webhook == EVENTS:
            self._recorded = step.run.done - run.done
        if not is_postgresql(Run.objects.db) and (took := elapsed() - began) > LONG_WRITE:
            time.sleep(min(took, LONGEST_REST))
        return step

    def _time_of_step(self) -> TimeLeft:
        most = conf.lease / 6  # to judge and to serialize
        return TimeLeft(min(most, BESIDE_LIVE_SECONDS) if self.are_beside_live else most)

    def _count(self, run: Run, kind: RunKind) -> Step:
        """Count the rows of the next events. A webhook begins at the first of them. The last such step stores the
        total. Then webhooks that are paused for failures get a probe at once."""
        after = run.counted_event
        until = min(after + self._pace.events * kind.stride, run.last_event)
        counted = self._read_in_time(lambda: kind.count(run, after, until))
        if Late.of(run).reading > 1:
            counted = {key: count for key, count in counted.items() if key == kind.late_key(run)}
        more = {str(webhook): count for webhook, count in counted.items() if count and webhook != LEFT_OUT}
        run.save_step(
            counted_event=until,
            superseded=run.superseded + counted.get(LEFT_OUT, 0),
            counts=run.counts | {webhook: run.counts.get(webhook, 0) + count for webhook, count in more.items()},
            cursors=dict.fromkeys(more, after) | run.cursors,
        )
        if until >= run.last_event:
            run.save_step(total=sum(run.counts.values()))
            if kind.is_sent:
                paused = Webhook.objects.probed().filter(pk__in=run.counts)
                free = paused.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True)
                Webhook.objects.filter(pk__in=list(free)).probe()
        return Step(run, 1)


def _is_other_away() -> bool:
    """Whether another database of the host cannot be reached: its permissions may be there."""
    # Django's connection and errors_occurred: an error does not name its database.
    away = {known.alias for known in connections.all(True) if known.connection is None and known.errors_occurred}
    return bool(away - {Run.objects.db})


def _lock(pk: int) -> Run | None:
    """The run as it is now. None if it does not run any more, or another worker is in a step."""
    return Run.objects.running().select_for_update(skip_locked=True).filter(pk=pk).first()


def _note(run: Run, portion: Portion, token: uuid.UUID) -> Step:
    """Note that this worker tries risky rows, unless another one is in such a step. An event that was lost too often
    fails here."""
    before = Note.of(run)
    if before.is_of_other(token):
        return Step(run)
    note = before.begin(token.hex, portion.keys)
    if note.losses <= LOSSES_ALLOWED:
        run.save_step(note=note.as_dict())
        return Step(run, risky=portion)
    first = portion.first(1)
    problem = (
        f"{kind_of(run).name_of(first.keys[0])}: three workers ended or stalled while they took it; "
        "look for a crash, a memory limit or a slow serializer in the log of the worker"
    )
    logger.error("The run %s goes on without an event: %s", run, problem)
    run.save_step(
        note=note.ended(first.until).as_dict(),
        cursors=run.cursors | {str(first.webhook): first.until},
        failed=run.failed + 1,
        problem=clean(problem, PROBLEM_LENGTH),
    )
    return Step(run, 1)


def _take_noted(pk: int, portion: Portion, token: str, handover: Handover, time_left: TimeLeft) -> Step:
    """The transaction of a risky step, unless another worker has noted it since: then the lease of this one ended."""
    run = _lock(pk)
    if run is None or Note.of(run).token != token:
        return Step(run)
    return Step(run, _take(run, [portion], handover, time_left, Note.of(run)))


def _take(
    run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft, note: Note | None = None
) -> int:
    """Take these rows of a locked run. Returns how many. Risky ones have a ``note``, and are one portion.

    If there are no rows up to the last event, the webhook is done.
    """
    kind, late, cursors = kind_of(run), Late.of(run), run.cursors | {str(one.webhook): one.until for one in portions}
    for portion in portions:
        if not portion.keys and portion.until >= run.last_event:
            del cursors[str(portion.webhook)]
    portions = [portion for portion in portions if portion.keys]
    count = sum(len(portion.keys) for portion in portions)
    applied = kind.apply(run, portions, handover, time_left) if portions else Applied()
    if portions and applied.left == count:  # another session has locked what they need
        if note:
            run.save_step(note=note.ended(portions[0].after).as_dict())
        return 0
    count -= applied.left
    if note:
        taken = portions[0].first(count)
        cursors[str(taken.webhook)] = taken.until
        run.note = note.ended(taken.until).as_dict()
        if taken.webhook == kind.late_key(run):
            late = late.add(applied.done)
    done, failed, total = run.done + applied.done, run.failed + applied.failed, run.total or 0
    skipped = run.skipped + max(0, count - applied.done - applied.failed)  # rows may share a position
    if not cursors:  # some rows did not match any more before a step could read them
        total = max(total, done + failed + skipped)
        skipped = total - done - failed
    run.save_step(
        cursors=cursors,
        note=run.note,
        late=late.as_dict(),
        total=total,
        done=done,
        failed=failed,
        skipped=skipped,
        problem=clean(applied.problem, PROBLEM_LENGTH) or run.problem,
    )
    if not cursors and not late.open:
        run.state = _end(run.pk, RunState.DONE, run.problem)
    return count or 1


def _end(pk: int, state: RunState, problem: str) -> RunState:
    ended = {"state": state, "problem": clean(problem, PROBLEM_LENGTH), "finished_at": DatabaseNow()}
    if Run.objects.running().filter(pk=pk).update(**ended):
        run = Run.objects.get(pk=pk)
        run_ended.send(Run, run=run)
        run.announce()
    return state
