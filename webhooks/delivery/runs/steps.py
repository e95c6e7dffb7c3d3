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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from django.db import Error, OperationalError
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
from webhooks.delivery.runs.risky import (
    LOSSES_ALLOWED,
    Note,
    counting_loss,
    time_limit,
)
from webhooks.ground.conf import conf
from webhooks.ground.db import DatabaseNow, atomically, elapsed, fetch_all, is_postgresql
from webhooks.ground.errors import describe_error, get_logger, is_missing_table, reraise_job_timeout
from webhooks.ground.text import clean
from webhooks.models import Run, RunState, Webhook
from webhooks.models.queue import ClaimedRow
from webhooks.models.worker import begin_transaction, in_worker_transaction

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
    """What a step did.

    ``run`` is as it is now, or None if it was paused or cancelled, or another worker is in a step. ``taken`` is the
    number of rows, or None if another worker has taken the step.
    """

    run: Run | None
    taken: int | None = 0
    claimed: Sequence[ClaimedRow] = ()


class Runs:
    """The part of one worker process in all runs. Not thread-safe."""

    def __init__(self, worker: WorkerClaims) -> None:
        self._worker = worker
        self._open: dict[int, Run] = {}
        """The running runs by id, as this worker last saw them."""
        self._webhooks: dict[int, Webhook] = {}
        """The webhooks of the last steps by id, read since the last look."""
        self._read: dict[tuple[int, int, int], list[Key]] = {}
        """Keys that were read ahead, by run, reading and webhook."""
        self._pace = Pace()
        self._errors: dict[int, str] = {}
        """The errors of the database that the last steps met, by run."""
        self._approved: set[int] = set()
        """The runs with users who may still begin them, since the last look."""
        self._claimed: tuple[Sequence[ClaimedRow], uuid.UUID, dict[int, Webhook]] | None = None
        """What the last step has claimed, with the token and the webhooks."""
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
        """Take one run forward. Returns how many rows it took. Call ``send`` next."""
        self._claimed = None
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
                if taken is None:
                    taken = self._take_step(self._open[run.pk])
                self._errors.pop(run.pk, None)
                return taken or 0
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
        """Whether the last step of the run met the same error of the database. Raises it if the run may not be to
        blame: it is about a lock, the time or the connection, or other statements fail, too."""
        if isinstance(error, OperationalError) and not is_missing_table(error):
            raise error
        try:
            fetch_all(Run.objects.db, "SELECT 1")
        except Error:
            raise error from None
        before, self._errors[run.pk] = self._errors.get(run.pk), str(error)
        if before != str(error):
            logger.warning("The run %s met an error of the database, and tries again: %s", run, describe_error(error))
            return False
        return True

    def send(self) -> None:
        """Send what the last step has claimed. If the worker meets an error before, the lease of these rows ends."""
        if self._claimed:
            (rows, token, webhooks), self._claimed = self._claimed, None
            self._worker.add(rows, token, webhooks)

    def _look(self) -> None:
        # Mostly there is none. The ORM's query takes a tenth of the processor time of an idle worker.
        is_any = fetch_all(Run.objects.db, "SELECT 1 FROM rq_webhooks_run WHERE state = 'running' LIMIT 1")
        due = list(Run.objects.due().order_by("pk")) if is_any else []
        self._open = {run.pk: run for run in map(ready, due) if run}
        self._read = {key: keys for key, keys in self._read.items() if key[0] in self._open}
        self._webhooks.clear()
        self._approved.clear()
        self._next_look = time.monotonic() + LOOK_EVERY

    def _take_step(self, run: Run) -> int | None:
        """Returns how many rows it took. None if another worker has taken the step: the next one may be free."""
        kind = kind_of(run)
        if run.total is None:
            return self._count(run, kind)
        cursors = {int(webhook): after for webhook, after in run.cursors.items()}
        counts, receivers = self._choose(kind, list(cursors))
        if cursors and not counts:
            return 0
        portions, began = list[Portion](), elapsed()
        for webhook, count in counts.items():
            portion = self._portion(run, kind, webhook, cursors[webhook], count, webhook in receivers)
            if portion is None:
                return 1
            portions.append(portion)
            if elapsed() - began > READ_SECONDS:
                break
        risky = [portion for portion in portions if portion.keys and kind.is_risky(portion.webhook)]
        if risky and (len(risky) == len(portions) or self._turn % 2):
            return self._take_risky_step(run, kind, risky[0], receivers)
        portions = [portion for portion in portions if portion not in risky]
        with self._worker.claiming() as token:
            step = atomically(lambda: _take(run.pk, portions, token, self._time_of_step()), Run.objects.db)
        self._claimed = step.claimed, token, receivers
        return self._keep(run, step)

    def _take_risky_step(self, run: Run, kind: RunKind, portion: Portion, receivers: dict[int, Webhook]) -> int | None:
        """A step that may end or stall this worker. Another one then finds its note."""
        using = Run.objects.db
        with self._worker.claiming() as token:
            noted = atomically(lambda: _begin(run.pk, portion, token), using)
        if noted.run is None or noted.taken != 0:
            return self._keep(run, noted)
        if not Note.of(noted.run).token:
            return 0  # another worker is in it
        if Note.of(noted.run).losses:
            portion = portion.first(1)
            self._worker.hand_back_waiting()  # if this worker ends, too, few others lose a lease
        time_left, began = self._time_of_step(), elapsed()
        with (
            counting_loss(run.pk, Note.of(noted.run).token) as stalled,
            self._worker.claiming() as token,
            time_limit(conf.lease / 3, last=conf.lease),
        ):
            portion = kind.prepare(run, portion, time_left)
            step = atomically(lambda: _take(run.pk, [portion], token, time_left), using)
        if stalled:
            return 1
        if step.run and portion.webhook == EVENTS:
            self._recorded = step.run.done - noted.run.done
        self._claimed = step.claimed, token, receivers
        if not is_postgresql(using) and (took := elapsed() - began) > LONG_WRITE:
            time.sleep(min(took, LONGEST_REST))
        return self._keep(run, step)

    def _time_of_step(self) -> TimeLeft:
        most = conf.lease / 6  # to judge and to serialize
        return TimeLeft(min(most, BESIDE_LIVE_SECONDS) if self.are_beside_live else most)

    def _count(self, run: Run, kind: RunKind) -> int | None:
        """Count the rows of the next events. The last such step stores the total."""
        after = run.counted_event
        until = min(after + self._pace.events * kind.stride, run.last_event)
        counts = self._read_in_time(lambda: kind.count(run, after, until))
        if counts is None:
            return 1
        if Late.of(run).reading > 1:
            counts = {key: count for key, count in counts.items() if key == kind.late_key(run)}
        add = partial(_add_counts, run.pk, after, until, counts)
        return self._keep(run, in_worker_transaction(Run.objects.db, add))

    def _keep(self, run: Run, step: Step) -> int | None:
        """Keep the run as it is after the step, for the next one."""
        if step.run is None or step.run.state != RunState.RUNNING or is_waiting(step.run):
            self._next_look = 0.0
        else:
            self._open[run.pk] = step.run
        return step.taken

    def _read_in_time(self, read: Callable[[], T]) -> T | None:
        """Read rows in a transaction of the worker. None if PostgreSQL has stopped it: the lease must not end."""
        return self._pace.read(lambda: in_worker_transaction(Run.objects.db, read))

    def _choose(self, kind: RunKind, webhooks: Sequence[int]) -> tuple[dict[int, int], dict[int, Webhook]]:
        """Choose the webhooks of the next step. Returns how many rows it takes of each; empty if all are busy. Also
        returns the webhooks that it may claim for.

        A worker holds few deliveries of each of many webhooks. So one step takes rows of many: it costs as much for
        five rows as for fifty.
        """
        left = BESIDE_LIVE if self.are_beside_live else BATCHES * conf.batch
        turn = self._turn % max(1, len(webhooks))
        webhooks = [*webhooks[turn:], *webhooks[:turn]]
        free = self._worker.capacity(webhooks, len(webhooks), BATCHES) if kind.is_sent else {}
        webhooks = [webhook for webhook in webhooks if free.get(webhook, 1) > 0][: min(left, WEBHOOKS)]
        if unknown := [webhook for webhook in webhooks if webhook in free and webhook not in self._webhooks]:
            self._webhooks |= webhooks_by_id(Webhook.objects.db, unknown)
        known = self._webhooks  # deleted webhooks are missing
        receivers = {pk: known[pk] for pk in webhooks if pk in free and pk in known and known[pk].is_sendable}
        counts = {}
        for webhook in webhooks:
            most = free[webhook] if webhook in receivers else UNCLAIMED if kind.is_sent else left
            if count := min(left, most, MOST_REPLAYED if webhook == EVENTS else MOST):
                counts[webhook] = count
                left -= count
        return counts, receivers

    def _portion(
        self, run: Run, kind: RunKind, webhook: int, after: int, count: int, is_claimed: bool
    ) -> Portion | None:
        """The next ``count`` rows of a webhook after a cursor. None if reading them took too long, or if it has just
        read them, and live deliveries go first.

        Another worker may have moved the cursor since the last step.
        """
        place = run.pk, Late.of(run).reading, webhook
        known = self._read.get(place, [])
        known = known[bisect_right(known, after, key=lambda key: key.event_id) :]
        until, is_read_now = run.last_event, not known
        if is_read_now:
            until = min(after + self._pace.events * kind.stride, until)
            most = READ_BESIDE_LIVE if self.are_beside_live else READ
            limit = max(count, min(most, READ_OF_ALL // len(run.cursors)))
            found = self._read_in_time(lambda: kind.keys(run, webhook, after, until, limit))
            if found is None:
                return None
            known = found
        self._read[place] = known
        if known and is_read_now and self.are_beside_live:
            return None
        if known:
            until = known[:count][-1].event_id
        return Portion(webhook, after, until, known[:count], count if is_claimed else 0, place[1])


def _is_next(run: Run, portion: Portion) -> bool:
    """Whether no other worker has moved the cursor of the webhook since these rows were read."""
    return run.cursors.get(str(portion.webhook)) == portion.after and Late.of(run).reading == portion.reading


def _add_counts(pk: int, after: int, until: int, found: Mapping[int, int]) -> Step:
    """Store how many rows the events from ``after`` to ``until`` have. A webhook begins at the first of them.

    After the last events, webhooks that are paused for failures get a probe at once.
    """
    run = Run.objects.running().select_for_update(skip_locked=True).filter(pk=pk, total=None).first()
    if run is None or run.counted_event != after:
        return Step(run, None if run else 0)
    more = {str(webhook): count for webhook, count in found.items() if count and webhook != LEFT_OUT}
    run.save_step(
        counted_event=until,
        superseded=run.superseded + found.get(LEFT_OUT, 0),
        counts=run.counts | {webhook: run.counts.get(webhook, 0) + count for webhook, count in more.items()},
        cursors=dict.fromkeys(more, after) | run.cursors,
    )
    if until >= run.last_event:
        run.save_step(total=sum(run.counts.values()))
        if kind_of(run).is_sent:
            paused = Webhook.objects.probed().filter(pk__in=run.counts)
            free = paused.select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True)
            Webhook.objects.filter(pk__in=list(free)).probe()
    return Step(run, 1)


def _begin(pk: int, portion: Portion, token: uuid.UUID) -> Step:
    """The transaction before a risky step: note what this worker tries. ``taken`` is 0 if it may begin the step, or
    another worker is in it. An event that was lost too often fails here."""
    begin_transaction(Run.objects.db, token)
    run = Run.objects.running().select_for_update(skip_locked=True).filter(pk=pk).first()
    if run is None:
        return Step(None)
    if not _is_next(run, portion):
        return Step(run, None)
    before = Note.of(run)
    if before.is_of_other(token):
        run.note = {}
        return Step(run)
    note = before.begin(token.hex, portion.keys)
    if note.losses <= LOSSES_ALLOWED:
        run.save_step(note=note.as_dict())
        return Step(run)
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


def _take(pk: int, portions: Sequence[Portion], token: uuid.UUID, time_left: TimeLeft) -> Step:
    """The transaction of a step: take these rows, unless another worker has moved the cursor of their webhook.

    If there are no rows up to the last event, the webhook is done.
    """
    may_claim = begin_transaction(Run.objects.db, token)
    run = Run.objects.running().select_for_update(skip_locked=True).filter(pk=pk).first()
    if run is None:
        return Step(None)
    portions = [portion for portion in portions if _is_next(run, portion)]
    note, kind = Note.of(run), kind_of(run)
    is_risky = any(portion.keys and kind.is_risky(portion.webhook) for portion in portions)
    if (total := run.total) is None:  # another worker has begun its second reading
        return Step(run, None)
    if (run.cursors and not portions) or (is_risky and note.token != token.hex):
        return Step(run, None)
    cursors = run.cursors | {str(portion.webhook): portion.until for portion in portions}
    for portion in portions:
        if not portion.keys and portion.until >= run.last_event:
            del cursors[str(portion.webhook)]
    portions = [portion for portion in portions if portion.keys]
    count = sum(len(portion.keys) for portion in portions)
    claiming = token if may_claim else None
    applied = kind.apply(run, portions, claiming, time_left) if portions else Applied()
    if portions and applied.left == count:  # another session has locked what they need
        if is_risky:
            run.save_step(note=note.ended(portions[0].after).as_dict())
        return Step(run, 0)
    count -= applied.left
    if is_risky:  # then it is the only one
        [taken] = [portion.first(count) for portion in portions]
        cursors[str(taken.webhook)] = taken.until
        note = note.ended(taken.until)
    late = Late.of(run)
    if is_risky and taken.webhook == kind.late_key(run):
        late = late.add(applied.done)
    done, failed = run.done + applied.done, run.failed + applied.failed
    skipped = run.skipped + max(0, count - applied.done - applied.failed)  # rows may share a position
    if not cursors:  # some rows did not match any more before a step could read them
        total = max(total, done + failed + skipped)
        skipped = total - done - failed
    run.save_step(
        cursors=cursors,
        note=note.as_dict(),
        late=late.as_dict(),
        total=total,
        done=done,
        failed=failed,
        skipped=skipped,
        problem=clean(applied.problem, PROBLEM_LENGTH) or run.problem,
    )
    if not cursors and not late.open:
        run.state = _end(pk, RunState.DONE, run.problem)
    return Step(run, count or 1, applied.claimed)


def _end(pk: int, state: RunState, problem: str) -> RunState:
    ended = {"state": state, "problem": clean(problem, PROBLEM_LENGTH), "finished_at": DatabaseNow()}
    if Run.objects.running().filter(pk=pk).update(**ended):
        run = Run.objects.get(pk=pk)
        run_ended.send(Run, run=run)
        run.announce()
    return state
