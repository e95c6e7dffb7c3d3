"""Send requests from one thread that does nothing but HTTP: no database. Receivers may be slow, so many are in flight.

The thread starts a few requests, goes on with the ones that have news, and starts a few more. So fast receivers get few
connections, and slow ones as many requests at once as the limits allow.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from django.db import close_old_connections, connections
from django.utils import translation

from webhooks.ground.db import elapsed
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.errors import get_logger
from webhooks.ground.outcome import Outcome
from webhooks.ground.text import clean
from webhooks.workers.fair_queue import FairQueue
from webhooks.workers.network.attempt import REASON_LENGTH, Refused, Request
from webhooks.workers.network.auth import exchange
from webhooks.workers.network.transport import Transport, utc_now
from webhooks.workers.one_core import OneCore
from webhooks.workers.receiver_rate import ReceiverRate

logger = get_logger(__name__)

T = TypeVar("T")

# Requests that are started before the thread looks for answers.
STARTED_AT_ONCE = 16

# The language of reasons: they are stored, and read in many languages.
STORED = "en"

# Outcomes that are worth waking the caller for while there is more to send.
MANY = 100

# While receivers are fast, the sender collects outcomes for this long (seconds): fewer, larger transactions cost less.
# They are fast if the last answer came less than FAST_SECONDS ago.
COLLECT_SECONDS = 0.08
FAST_SECONDS = 0.005


# For so many seconds, items of a webhook with a limit may wait here. Then an edit of the webhook counts soon.
HELD_SECONDS = 5

# How many requests of a webhook may be given up before their threads return. The next ones fail at once.
MOST_STUCK = 4


@dataclass(eq=False, slots=True)
class _Job(Generic[T]):
    """An item that is taken from the queue."""

    webhook: int
    item: T
    group: str
    until: float = math.inf
    """When it is given up (``elapsed``), while another thread makes its request."""
    is_prepared: bool = False
    result: Request | Outcome | None = None
    """None: it is too late to send it."""


class Sender(Generic[T]):
    """Sends the items of a queue. Only one thread may call the methods.

    ``compose`` makes the request of an item. It is called in the thread that sends. For an item with a group it is
    called in another thread, because it may wait for the process that renders, or for code of the project. If that
    takes more than ``longest(item)`` seconds, the attempt fails. ``now`` is the clock of outcomes. ``describe`` gives
    what the log says of an item (``ground.errors.about``). ``receiver`` is where it goes: what was learned of one
    webhook counts for as long as that stays the same.
    """

    def __init__(
        self,
        queue: FairQueue[T],
        compose: Callable[[T], Request],
        now: Callable[[], datetime] = utc_now,
        longest: Callable[[T], float] = lambda item: math.inf,
        describe: Callable[[T], dict[str, Any]] = lambda item: {},
        receiver: Callable[[T], str] = lambda item: "",
    ) -> None:
        self._queue, self._compose, self._now, self._longest = queue, compose, now, longest
        self._describe, self._receiver = describe, receiver
        self._transport: Transport  # from the first item on
        self._composed: deque[_Job[T]] = deque()  # by other threads
        self._jobs: dict[_Job[T], None] = {}  # in the order in which they began
        self._new: Counter[int] = Counter()  # items in flight since the last call of ``outcomes``, by webhook
        self._wants_new = False
        self._receivers: dict[int, str] = {}  # by webhook
        self._rates: dict[int, ReceiverRate] = {}  # of receivers that answered 429, by webhook
        self._resting: list[tuple[float, int]] = []  # a heap of when webhooks may go on (``elapsed``)
        self._stuck: Counter[int] = Counter()  # the threads of each webhook whose requests were given up
        self._ended: list[tuple[T, Outcome | None]] = []
        self._lock = threading.Lock()  # guards the attributes above, except for the transport
        self._has_news = threading.Condition(self._lock)
        self._sleeps = self._is_closed = self._is_refused = False
        self._last_end = 0.0
        self._thread: threading.Thread | None = None
        self.core = OneCore(lambda: self._thread.native_id if self._thread and self._thread.is_alive() else None)
        """The core that its thread shares with the one that calls it."""
        self._composers = _Composers(self._compose_in_group, self.core.free_this_thread)
        self.send_until = 0.0
        """Nothing is sent after this time (``elapsed``). If the process was stopped for longer than its leases, other
        workers may have the items by then."""

    @property
    def is_busy(self) -> bool:
        """Whether an outcome is there or to come."""
        with self._lock:
            return bool(self._ended or self._queue.in_flight or self._queue.ready())

    @property
    def is_alive(self) -> bool:
        """Whether its thread can still send, once there is something. A bug or a lack of memory may end it."""
        return self._thread is None or self._thread.is_alive()

    def ready(self) -> int:
        """How many items may be sent now."""
        with self._lock:
            return self._queue.ready()

    def capacity(self, webhook: int, share: int) -> int:
        """How many more items of a webhook to claim, see ``FairQueue``."""
        with self._lock:
            if (rate := self._rates.get(webhook)) and rate.interval:
                share = min(share, max(1, int(HELD_SECONDS / rate.interval)))
            return self._queue.capacity(webhook, share)

    def add(self, items: Iterable[tuple[int, T]]) -> None:
        """Queue items, each with its webhook. They come out of ``outcomes``."""
        with self._lock:
            for webhook, item in items:
                if self._receivers.get(webhook) != (receiver := self._receiver(item)):
                    self._receivers[webhook] = receiver
                    self._rates.pop(webhook, None)
                    self._queue.forget(webhook)
                self._queue.add(webhook, item)
        if self.is_busy:
            self._start()
        with self._lock:
            self._wake()

    def remove(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove the waiting items that are unwanted, and return them."""
        with self._lock:
            return self._queue.remove(is_unwanted)

    def outcomes(self, wait: float, collects: bool = True, only_new: bool = False) -> list[tuple[T, Outcome | None]]:
        """The items that have ended, with their outcomes; None for an item that it was too late to send.

        Waits up to ``wait`` seconds for many outcomes or for all. With ``only_new``, not for items that an earlier call
        has waited for: their receivers may hang. If it ``collects``, it waits a little longer while receivers are fast.
        """
        if self.is_busy:
            self._start()
        self._give_up_late()
        with self._lock:
            self._wants_new = only_new
            self._has_news.wait_for(self._is_news, wait)
            is_fast = self._queue.ready() and time.monotonic() - self._last_end < FAST_SECONDS
            if collects and wait > 0 and is_fast:
                self._has_news.wait_for(self._is_news, COLLECT_SECONDS)
            ended, self._ended = self._ended, []
            self._new.clear()
        return ended

    def close(self) -> None:
        """End the threads and abandon what is in flight."""
        with self._lock:
            self._is_closed = True
        self._composers.close()
        if self._thread:
            self._transport.wake()

    def _is_news(self) -> bool:
        is_sending = self._new if self._wants_new else self._queue.in_flight
        return len(self._ended) >= MANY or not (is_sending or self._queue.ready())

    def _wake(self) -> None:
        if self._sleeps:
            self._sleeps = False
            self._transport.wake()

    def _start(self) -> None:
        if self._thread is None:
            self._transport = Transport(self._now)
            thread = threading.Thread(target=self._work, name="webhooks-sender", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no more threads: the next call tries again
                if not self._is_refused:
                    logger.warning("The worker cannot start the thread that sends: %s", error)
                self._is_refused = True
                self._transport.close()
                return
            self._thread = thread
        elif not self.is_alive and not self._is_closed:
            raise RuntimeError("The thread that sends has ended")

    def _work(self) -> None:
        translation.activate(STORED)
        try:
            while not self._is_closed:
                # In this order: the poll closes the kept connections that receivers have closed.
                self._end_rests()
                self._transport.poll(0 if self._start_some() else self._seconds_of_rest())
        finally:
            self._transport.close()

    def _start_some(self) -> bool:
        """Start a few requests. Returns whether there were any."""
        started = 0
        while started < STARTED_AT_ONCE:
            with self._lock:
                job = self._composed.popleft() if self._composed else None
                taken = None if job else self._queue.take()
                if taken:
                    self._new[taken[0]] += 1
                    self._pace(taken[0])
                self._sleeps = not (started or job or taken)
            if taken:
                job = _Job(*taken)
                if job.group and self._begin(job):
                    continue
                job.result = self._composed_item(job, _refuse_stuck if job.group else self._compose)
            if not job:
                break
            if not isinstance(job.result, Request):
                self._end(job, job.result)
            elif elapsed() < self.send_until:  # composing may have taken time
                self._transport.start(job.result, partial(self._end, job))
            else:
                self._end(job, None)
            started += 1
        return bool(started)

    def _end(self, job: _Job[T], outcome: Outcome | None) -> None:
        webhook, waited = job.webhook, 0.0
        if outcome and outcome.succeeded and isinstance(job.result, Request):
            waited = outcome.duration_ms / 1000 / job.result.timeout
        with self._lock:
            overloaded, cost = (outcome.overloaded, outcome.cost) if outcome else (False, 0.0)
            if self._receiver(job.item) != self._receivers[webhook]:  # it says nothing about the one that is asked now
                self._queue.ended(webhook, timed_out=False)
            else:
                self._queue.ended(webhook, overloaded, cost, waited)
                if outcome:
                    self._note_rate(webhook, outcome)
            if self._new[webhook] > 1:
                self._new[webhook] -= 1
            else:
                del self._new[webhook]
            self._ended.append((job.item, outcome))
            self._last_end = time.monotonic()
            if self._is_news():
                self._has_news.notify()

    def _pace(self, webhook: int) -> None:
        """Note that a request begins. If its receiver has a limit, the next one waits."""
        if (rate := self._rates.get(webhook)) and rate.interval:
            rate.begun(elapsed())
            self._rest(webhook, rate)

    def _note_rate(self, webhook: int, outcome: Outcome) -> None:
        if outcome.is_too_fast:
            rate, now = self._rates.setdefault(webhook, ReceiverRate()), elapsed()
            outcome.repeats_refusal = not rate.refused(now - outcome.duration_ms / 1000, now, outcome.retry_after)
            self._rest(webhook, rate)
        elif outcome.succeeded and webhook in self._rates:
            self._rates[webhook].accepted(elapsed())

    def _rest(self, webhook: int, rate: ReceiverRate) -> None:
        self._queue.rest(webhook)
        heapq.heappush(self._resting, (rate.next_at, webhook))

    def _end_rests(self) -> None:
        """Let webhooks go on whose receivers may be asked again."""
        now = elapsed()
        with self._lock:
            while self._resting and self._resting[0][0] <= now:
                _at, webhook = heapq.heappop(self._resting)
                rate = self._rates.get(webhook)  # None if its URL was changed
                self._queue.rest(webhook, rate is not None and now < rate.next_at)

    def _seconds_of_rest(self) -> float:
        """Seconds until the next webhook may go on."""
        with self._lock:
            return max(0.0, self._resting[0][0] - elapsed()) if self._resting else math.inf

    def _begin(self, job: _Job[T]) -> bool:
        """Have another thread make a request. Returns False if too many threads of its webhook do not return."""
        with self._lock:
            if self._stuck[job.webhook] >= MOST_STUCK:
                self._queue.prepared(job.webhook, job.item, job.group)
                return False
            job.until = elapsed() + self._longest(job.item)
            self._jobs[job] = None
        self._composers.add(job)
        return True

    def _compose_in_group(self, job: _Job[T]) -> None:
        result = self._composed_item(job, self._compose)
        with self._lock:  # the next item of the group may be composed; it need not wait for the receiver of this one
            if self._is_given_up(job):
                return
            job.is_prepared = True
            self._queue.prepared(job.webhook, job.item, job.group)
            self._wake()
        if isinstance(result, Request) and result.converse and elapsed() < self.send_until:
            result = exchange(result, self._now)
        with self._lock:
            if not self._is_given_up(job):
                del self._jobs[job]
                job.result = result
                self._composed.append(job)
                self._wake()

    def _is_given_up(self, job: _Job[T]) -> bool:
        """Whether its attempt has failed meanwhile. Its thread has returned, and makes the next request."""
        if is_given_up := job not in self._jobs:
            self._stuck[job.webhook] -= 1
        return is_given_up

    def _give_up_late(self) -> None:
        """Fail the attempts whose requests take too long. Nothing can end their threads."""
        now = elapsed()
        with self._lock:
            for job in [job for job in self._jobs if job.until <= now]:
                del self._jobs[job]
                self._stuck[job.webhook] += 1
                if not job.is_prepared:
                    self._queue.prepared(job.webhook, job.item, job.group)
                self._queue.ended(job.webhook, timed_out=True)
                seconds = self._longest(job.item)
                reason = f"the code in AUTH or HOOKS did not return within {seconds:.0f} s"
                self._ended.append((job.item, self._refused(reason, ErrorKind.AUTH, seconds)))
                extra = self._describe(job.item)
                logger.error("The code in AUTH or HOOKS for webhook %s did not return", job.webhook, extra=extra)
                self._wake()

    def _refused(self, reason: str, kind: ErrorKind, seconds: float = 0) -> Outcome:
        return Outcome(self._now(), round(seconds * 1000), reason=clean(reason, REASON_LENGTH), kind=kind)

    def _composed_item(self, job: _Job[T], compose: Callable[[T], Request]) -> Request | Outcome | None:
        """Never raises: a request that cannot be made is a failed attempt, and must not end the thread."""
        if elapsed() >= self.send_until:
            return None
        try:
            return compose(job.item)
        except Refused as error:
            return self._refused(str(error), error.kind)
        except Exception as error:
            logger.exception("A request could not be made", extra=self._describe(job.item))
            return self._refused(f"the request could not be made: {error}", ErrorKind.OTHER)


def _refuse_stuck(item: object) -> Request:
    reason = f"the code in AUTH or HOOKS did not return from {MOST_STUCK} earlier calls"
    raise Refused(reason, ErrorKind.AUTH)


class _Composers(Generic[T]):
    """Threads that call ``work`` with each job. There are as many as there have been jobs at once."""

    def __init__(self, work: Callable[[T], None], begin: Callable[[], None]) -> None:
        """``begin`` is called first in each thread."""
        self._work, self._begin = work, begin
        self._jobs: SimpleQueue[T | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def add(self, job: T) -> None:
        """Only one thread may call this."""
        if not self._idle.acquire(blocking=False):
            try:
                threading.Thread(target=self._run, name="webhooks-composer", daemon=True).start()
                self._count += 1
            except RuntimeError as error:  # the system has no more threads
                logger.warning(
                    "The worker has %d threads that make requests and cannot start more: %s", self._count, error
                )
                self._work(job)
                return
        self._jobs.put(job)

    def close(self) -> None:
        for _ in range(self._count):
            self._jobs.put(None)

    def _run(self) -> None:
        self._begin()
        translation.activate(STORED)
        while (job := self._jobs.get()) is not None:
            self._work(job)
            close_old_connections()  # of this thread: code of the project may use a database, which may be restarted
            self._idle.release()
        connections.close_all()
