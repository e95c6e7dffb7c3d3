"""Threads that do nothing but HTTP: requests in, outcomes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Generic, TypeVar

from webhooks.db import elapsed
from webhooks.delivery.concurrency import PATIENCE, Concurrency
from webhooks.delivery.fair_queue import Turns
from webhooks.logs import get_logger
from webhooks.network.outcome import REASON_LENGTH, Outcome, Refused
from webhooks.network.transport import Request, Transport
from webhooks.text import clean

logger = get_logger(__name__)

K = TypeVar("K")

# Seconds for which it does not matter that nobody claims or records, as long as receivers are fast: fewer and larger
# transactions cost less.
FLOWING = 0.08

# Outcomes that are worth waking the caller for while there is more to send.
MANY = 100


class Senders(Generic[K]):
    """At most ``most`` threads, which take what waits in fair turns between the webhooks.

    ``request_of`` makes the request of an item, in the thread that sends it. ``group_of`` names the group of an item,
    and ``limits`` how many requests of a group may be made at once. Only one thread may call the methods.
    """

    def __init__(
        self,
        most: int,
        request_of: Callable[[K], Request],
        group_of: Callable[[K], str] = lambda item: "",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._most = most
        self._request_of, self._group_of = request_of, group_of
        self._transport = Transport(most)
        self._turns: Turns[K] = Turns(most, limits)
        self._concurrency = Concurrency(most)
        self._begun: dict[int, float] = {}  # by thread
        self._ended: list[tuple[K, Outcome | None]] = []
        self._lock = threading.Lock()  # guards what stands above
        self._work_is_there = threading.Condition(self._lock)
        self._news_is_there = threading.Condition(self._lock)
        self._threads = self._idle = 0
        self._is_refused = False
        self._last_end = 0.0
        self._is_closed = False
        # Nothing is sent after this time (``elapsed``), which the caller keeps moving on: this process may have been
        # stopped for so long that what it was to send is somebody else's by now.
        self.good_until = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether an outcome is there or to come."""
        with self._lock:
            return bool(self._ended or self._turns.in_flight or self._turns.ready())

    def room(self, webhook: int, share: int) -> int:
        """How many more of a webhook to take in at once."""
        with self._lock:
            return self._turns.room(webhook, share)

    def add(self, webhook: int, item: K) -> None:
        """Line an item up to be sent; it comes out of ``outcomes``."""
        with self._lock:
            self._turns.add(webhook, item, self._group_of(item))
            if self._idle and self._may_begin():
                self._work_is_there.notify()
        if not self._threads:
            self._start()

    def drop(self, webhook: int) -> list[K]:
        """Take out what waits for one webhook."""
        with self._lock:
            return self._turns.drop(webhook)

    def remove(self, is_unwanted: Callable[[K], bool]) -> list[K]:
        """Take out what waits and is unwanted."""
        with self._lock:
            return self._turns.remove(is_unwanted)

    def outcomes(self, wait: float) -> list[tuple[K, Outcome | None]]:
        """What has ended, with no outcome where it was too late to send it. Waits up to ``wait`` seconds until many
        have ended, or everything has, and for longer while the threads get on quickly with what is there."""
        self._wait_for_news(wait)
        if wait > 0 and self._is_flowing():
            self._wait_for_news(FLOWING)
        self._let_more_begin()
        with self._lock:
            ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Let the threads end after what they are sending; they are daemons, and hold up nobody's exit."""
        with self._lock:
            self._is_closed = True
            self._work_is_there.notify_all()
        self._transport.close()

    def _wait_for_news(self, seconds: float) -> None:
        """Meanwhile, what waits is let go where what is under way turns out to take its time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            with self._lock:
                if self._is_news():
                    return
                self._news_is_there.wait(min(left, PATIENCE))
            self._let_more_begin()

    def _is_news(self) -> bool:
        return len(self._ended) >= MANY or not (self._turns.in_flight or self._turns.ready())

    def _is_flowing(self) -> bool:
        with self._lock:
            return bool(self._turns.ready()) and time.monotonic() - self._last_end < PATIENCE

    def _let_more_begin(self) -> None:
        """Wake threads for what may begin now, and start those that are missing."""
        with self._lock:
            self._concurrency.learn(time.monotonic(), time.process_time())
            count = self._may_begin()
            self._work_is_there.notify(count)
            missing = min(count - self._idle, self._most - self._threads)
        for _ in range(missing):
            if not self._start():
                break

    def _may_begin(self) -> int:
        """How many of those that wait."""
        ready, latest = self._turns.ready(), time.monotonic() - PATIENCE
        young = sum(begun > latest for begun in self._begun.values())
        return self._concurrency.room(young, ready)

    def _start(self) -> bool:
        """Start another thread. Returns whether the system gave one: if not, it is asked again with the outcomes."""
        thread = threading.Thread(target=self._work, name=f"webhooks-sender-{self._threads + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._is_refused:  # said once
                logger.warning("A thread to send with, beside %d, could not be started: %s", self._threads, error)
            self._is_refused = True
            return False
        self._threads += 1
        self._is_refused = False
        return True

    def _work(self) -> None:
        while (job := self._next()) is not None:
            webhook, item, group = job
            request = self._request(item) if self._is_good() else None
            if group:
                self._prepared(webhook, item, group)
            outcome = self._send(request) if isinstance(request, Request) else request
            with self._lock:
                del self._begun[threading.get_ident()]
                self._turns.ended(webhook, outcome is not None and outcome.timed_out)
                self._ended.append((item, outcome))
                self._last_end = time.monotonic()
                if self._idle:
                    self._concurrency.learn(self._last_end, time.process_time())
                    self._work_is_there.notify(max(0, self._may_begin() - 1))  # one is for this thread
                if self._is_news():
                    self._news_is_there.notify()

    def _prepared(self, webhook: int, item: K, group: str) -> None:
        """Let the next one of its group begin, which need not wait for what this one is sent to."""
        with self._lock:
            self._turns.prepared(webhook, group, self._group_of(item))
            if self._idle:
                self._work_is_there.notify(self._may_begin())

    def _send(self, request: Request) -> Outcome | None:
        return self._transport.send(request) if self._is_good() else None  # making it may have taken its time

    def _is_good(self) -> bool:
        return elapsed() < self.good_until

    def _request(self, item: K) -> Request | Outcome:
        try:
            return self._request_of(item)
        except Refused as error:
            return Outcome(datetime.now(UTC), 0, reason=clean(str(error), REASON_LENGTH))
        except Exception as error:
            # What one webhook is set to must not end the thread: it is a failed attempt, with its reason.
            logger.exception("A request could not be made")
            return Outcome(datetime.now(UTC), 0, reason=clean(f"the request could not be made: {error}", REASON_LENGTH))

    def _next(self) -> tuple[int, K, str] | None:
        """What to send next; waits for it. None when there is nothing any more."""
        with self._lock:
            while not self._is_closed:
                if self._may_begin() and (job := self._turns.take(self._group_of)):
                    self._begun[threading.get_ident()] = time.monotonic()
                    return job
                self._idle += 1
                self._work_is_there.wait()
                self._idle -= 1
        return None
