"""Send requests from a pool of threads that do nothing but HTTP: no database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from webhooks.db import elapsed
from webhooks.delivery.fair_queue import FairQueue
from webhooks.logs import get_logger
from webhooks.network.outcome import REASON_LENGTH, Outcome, Refused
from webhooks.network.transport import Request, Transport
from webhooks.text import clean

logger = get_logger(__name__)

T = TypeVar("T")

# A request that is older than this (seconds) waits for its receiver and uses no CPU, so the limit ignores it.
YOUNG_SECONDS = 0.005

# The limit adapts this often (seconds). If more time has passed, the process was idle, and there is nothing to learn.
ADAPT_EVERY = 0.02
TOO_LONG = 0.2

# The share of one CPU core that the process should use, and the range in which the limit stays as it is.
CPU_TARGET = 0.85
CPU_LOW, CPU_HIGH = 0.75, 0.92

# While receivers are fast, the pool collects outcomes for this long (seconds): fewer, larger transactions cost less.
COLLECT_SECONDS = 0.08

# Outcomes that are worth waking the caller for while there is more to send.
MANY = 100


class ConcurrencyLimit:
    """A limit, from one to ``most``, on young requests, which use CPU. Pure.

    Python threads compute one at a time and slow each other down. If receivers answer at once, one thread sends most.
    If they take milliseconds, many threads do. docs/performance.md has figures.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = 1.0
        self._has_held_back = False
        self._now = self._cpu = 0.0

    def room(self, young: int, wanted: int) -> int:
        """How many of ``wanted`` requests may start while ``young`` ones run."""
        room = max(0, int(self._limit) - young)
        self._has_held_back = self._has_held_back or room < wanted
        return min(room, wanted)

    def adapt(self, now: float, cpu: float) -> None:
        """Adapt the limit to the CPU use since the last call; call it often. ``now`` is a time and ``cpu`` the CPU time
        of the process, both in seconds."""
        seconds = now - self._now
        if seconds < ADAPT_EVERY:
            return
        busy = (cpu - self._cpu) / seconds
        if seconds < TOO_LONG and (busy > CPU_HIGH or (busy < CPU_LOW and self._has_held_back)):
            self._limit = min(max(1.0, self._limit * CPU_TARGET / max(busy, 0.01)), self._most)
        self._has_held_back = False
        self._now, self._cpu = now, cpu


class SenderPool(Generic[T]):
    """At most ``most`` threads that send the items of a queue. Only one thread may call the methods.

    ``compose`` makes the request of an item, in the thread that sends it.
    """

    def __init__(self, most: int, queue: FairQueue[T], compose: Callable[[T], Request]) -> None:
        self._most, self._queue, self._compose = most, queue, compose
        self._transport = Transport(most)
        self._concurrency = ConcurrencyLimit(most)
        self._started: dict[int, float] = {}  # by thread
        self._ended: list[tuple[T, Outcome | None]] = []
        self._lock = threading.Lock()  # guards the attributes above
        self._has_work = threading.Condition(self._lock)
        self._has_news = threading.Condition(self._lock)
        self._threads = self._idle = 0
        self._is_refused = self._is_closed = False
        self._last_end = 0.0
        self.send_until = 0.0
        """Nothing is sent after this time (``elapsed``). If the process was stopped for longer than its leases, other
        workers may have the items by then."""

    @property
    def is_busy(self) -> bool:
        """Whether an outcome is there or to come."""
        with self._lock:
            return bool(self._ended or self._queue.in_flight or self._queue.ready())

    def capacity(self, webhook: int, share: int) -> int:
        """How many more items of a webhook to claim, see ``FairQueue``."""
        with self._lock:
            return self._queue.capacity(webhook, share)

    def add(self, webhook: int, item: T) -> None:
        """Queue an item. It comes out of ``outcomes``."""
        with self._lock:
            self._queue.add(webhook, item)
            if self._idle and self._may_start():
                self._has_work.notify()

    def remove(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove the waiting items that are unwanted, and return them."""
        with self._lock:
            return self._queue.remove(is_unwanted)

    def outcomes(self, wait: float) -> list[tuple[T, Outcome | None]]:
        """The items that have ended, with their outcomes; None for an item that it was too late to send.

        Waits up to ``wait`` seconds for many outcomes or for all, and a little longer while receivers are fast.
        """
        self._start_senders()
        self._wait_for_news(wait)
        with self._lock:
            is_fast = wait > 0 and self._queue.ready() and time.monotonic() - self._last_end < YOUNG_SECONDS
        if is_fast:
            self._wait_for_news(COLLECT_SECONDS)
        with self._lock:
            ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """End the threads after their current requests. They are daemon threads and do not block the exit."""
        with self._lock:
            self._is_closed = True
            self._has_work.notify_all()
        self._transport.close()

    def _wait_for_news(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with self._lock:
                if self._is_news():
                    return
                self._has_news.wait(min(left, YOUNG_SECONDS))
            self._start_senders()  # the running requests may have turned out to be slow

    def _is_news(self) -> bool:
        return len(self._ended) >= MANY or not (self._queue.in_flight or self._queue.ready())

    def _start_senders(self) -> None:
        """Wake or start as many threads as there are items that may start."""
        with self._lock:
            self._concurrency.adapt(time.monotonic(), time.process_time())
            count = self._may_start()
            self._has_work.notify(count)
            missing = min(count - self._idle, self._most - self._threads)
        for _ in range(missing):
            thread = threading.Thread(target=self._work, name=f"webhooks-sender-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no more threads: the next call tries again
                if not self._is_refused:
                    logger.warning("The worker has %d sender threads and cannot start more: %s", self._threads, error)
                self._is_refused = True
                return
            self._threads += 1
            self._is_refused = False

    def _may_start(self) -> int:
        """How many waiting items may start now."""
        latest = time.monotonic() - YOUNG_SECONDS
        young = sum(started > latest for started in self._started.values())
        return self._concurrency.room(young, self._queue.ready())

    def _work(self) -> None:
        while (job := self._next()) is not None:
            webhook, item, group = job
            outcome = self._send(webhook, item, group)
            with self._lock:
                del self._started[threading.get_ident()]
                self._queue.ended(webhook, outcome is not None and outcome.timed_out)
                self._ended.append((item, outcome))
                self._last_end = time.monotonic()
                if self._idle:
                    self._concurrency.adapt(self._last_end, time.process_time())
                    self._has_work.notify(max(0, self._may_start() - 1))  # this thread takes one itself
                if self._is_news():
                    self._has_news.notify()

    def _next(self) -> tuple[int, T, str] | None:
        """Wait for the next item. None if the pool is closed."""
        with self._lock:
            while not self._is_closed:
                if self._may_start() and (job := self._queue.take()):
                    self._started[threading.get_ident()] = time.monotonic()
                    return job
                self._idle += 1
                self._has_work.wait()
                self._idle -= 1
        return None

    def _send(self, webhook: int, item: T, group: str) -> Outcome | None:
        """Compose a request and send it. Returns None if it is too late to send."""
        composed = self._composed(item) if elapsed() < self.send_until else None
        if group:
            with self._lock:  # the next item of the group may start; it need not wait for the receiver of this one
                self._queue.prepared(webhook, item, group)
                if self._idle:
                    self._has_work.notify(self._may_start())
        if not isinstance(composed, Request):
            return composed
        return self._transport.send(composed) if elapsed() < self.send_until else None  # composing may take time

    def _composed(self, item: T) -> Request | Outcome:
        try:
            return self._compose(item)
        except Refused as error:
            reason = str(error)
        except Exception as error:  # a webhook's settings must not end the thread: this is a failed attempt
            logger.exception("A request could not be made")
            reason = f"the request could not be made: {error}"
        return Outcome(datetime.now(UTC), 0, reason=clean(reason, REASON_LENGTH))
