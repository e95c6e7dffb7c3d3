"""Threads that do nothing but HTTP: requests in, outcomes out."""

from __future__ import annotations

import queue
import threading
import time
from typing import Generic, TypeVar

from webhooks.outcomes import Outcome
from webhooks.transport import Request, Transport

K = TypeVar("K")

# Where requests take longer than this (seconds), others should not wait for them. Threads cost throughput
# where receivers are faster, so there is one until there is a reason for more.
PATIENCE = 0.005


class Senders(Generic[K]):
    """At most ``most`` threads. Only one thread may call the methods; the others only send."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inbox: queue.SimpleQueue[tuple[K, Request] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[tuple[K, Outcome | None]] = queue.SimpleQueue()
        self._threads = 0
        self._last_news = 0.0
        self._pace = 0.0
        self.in_flight = 0
        # Nothing is sent after this time (monotonic), which the caller keeps moving on: this process may have been
        # stopped for so long that what it was to send is somebody else's by now.
        self.good_until = 0.0

    @property
    def free(self) -> int:
        """How many more requests may be handed over."""
        return self._most - self.in_flight

    def send(self, key: K, request: Request) -> None:
        """Hand a request over; its outcome comes out of ``outcomes`` with this key."""
        self.in_flight += 1
        self._inbox.put((key, request))
        if not self._threads:
            self._start()

    def outcomes(self, wait: float) -> list[tuple[K, Outcome | None]]:
        """What has ended, with no outcome where it was too late to send it: waits up to ``wait`` seconds for the
        first one, and takes all that are there."""
        ended = []
        try:
            ended.append(self._outbox.get(timeout=wait) if wait > 0 else self._outbox.get_nowait())
            while True:
                ended.append(self._outbox.get_nowait())
        except queue.Empty:
            self._note(ended)
        return ended

    def _note(self, ended: list[tuple[K, Outcome | None]]) -> None:
        """Learn how fast requests end, and start another thread where that is too slow for what waits."""
        now = time.monotonic()
        if ended:
            self._pace = sum(outcome.duration_ms for _, outcome in ended if outcome) / len(ended) / 1000
            self._last_news = now
            self.in_flight -= len(ended)
        is_slow = max(self._pace, now - self._last_news) > PATIENCE
        if is_slow and self._threads < min(self._most, self.in_flight) and not self._inbox.empty():
            self._start()

    def close(self) -> None:
        """Let the threads end after what they are sending; they are daemons, and hold up nobody's exit."""
        for _ in range(self._threads):
            self._inbox.put(None)
        self._threads = 0

    def _start(self) -> None:
        self._threads += 1
        self._last_news = time.monotonic()
        threading.Thread(target=self._work, name=f"webhooks-sender-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        transport = Transport()
        while (job := self._inbox.get()) is not None:
            key, request = job
            is_good = time.monotonic() < self.good_until
            self._outbox.put((key, transport.send(request) if is_good else None))
        transport.close()
