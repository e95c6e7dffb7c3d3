"""A steady load of changes, and how it arrives before, during and after some trouble."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import django_rq
from django.db import DatabaseError, InterfaceError, connection, transaction
from redis.exceptions import RedisError
from rq import Queue

from scripts.benchmark import clients, sample_data
from scripts.benchmark.servers import Bench
from scripts.benchmark.targets import NotMeasured
from tests.support.waiting import until
from webhooks.models import Delivery, QueuedDelivery, State, Undispatched
from webhooks.workers import jobs

# Seconds between two transactions of the load.
TICK = 0.05

# Changes of a load that is late, such as after a stall of the machine, are committed together up to this many seconds.
CATCH_UP = 0.5


class Stream(ABC):
    """Changes for some receivers, sent in turn to one of them."""

    def __init__(self, bench: Bench, receivers: int = 1) -> None:
        self._inboxes = [bench.inbox() for _ in range(receivers)]
        self.own_urls = [inbox.url for inbox in self._inboxes]
        self.committed: dict[object, float] = {}
        """The time (monotonic) of each commit."""

    @abstractmethod
    def commit(self, count: int) -> None:
        """Commit changes. Without a database there are no changes."""

    @abstractmethod
    def redirect(self, urls: Sequence[str]) -> None:
        """Send to these URLs instead of the receivers' own."""

    def arrived(self) -> Mapping[Any, float]:
        """The time (monotonic) of the first request of each change to a receiver's own URL."""
        times = sorted((at, webhook_id) for inbox in self._inboxes for webhook_id, at in inbox.times())
        return {webhook_id: at for at, webhook_id in reversed(times)}

    def received_ids(self) -> set[str]:
        """The ids of the deliveries that have arrived, each once."""
        return {webhook_id for inbox in self._inboxes for webhook_id, _ in inbox.times()}

    def count_requests(self) -> int:
        """How many requests have arrived. Costs the same, however many there are."""
        return sum(inbox.received().count for inbox in self._inboxes)

    @abstractmethod
    def count_open(self) -> int:
        """How many changes of all streams are still to be sent."""


class Events(Stream):
    """Events of this app, each for one of several webhooks."""

    def __init__(self, bench: Bench, receivers: int = 1, **columns: str) -> None:
        super().__init__(bench, receivers)
        self._webhooks = [bench.webhook(url) for url in self.own_urls]
        self._columns = {"webhook_ids": f"jsonb_build_array(ids -> (g.n %% {receivers})::int)", **columns}

    def commit(self, count: int) -> None:
        try:
            with transaction.atomic():
                ids = [webhook.pk for webhook in self._webhooks]
                highest = sample_data.insert_events(count, ids, are_dispatched=False, **self._columns)
                with connection.cursor() as cursor:
                    cursor.execute("SELECT id FROM rq_webhooks_event WHERE id > %s", [highest])
                    events = [row[0] for row in cursor.fetchall()]
        except (DatabaseError, InterfaceError):
            connection.close()
            return
        self.committed |= dict.fromkeys(events, time.monotonic())
        jobs.wake_up()

    def redirect(self, urls: Sequence[str]) -> None:
        for webhook, url in zip(self._webhooks, urls, strict=True):
            type(webhook).objects.filter(pk=webhook.pk).update(payload_url=url)

    def arrived(self) -> Mapping[Any, float]:
        times = super().arrived()
        # Read after the requests: a delivery is committed before it is sent. The sweep may have deleted old ones.
        events = {str(pk): event for pk, event in Delivery.objects.values_list("pk", "event_id")}
        return {events[webhook_id]: at for webhook_id, at in times.items() if webhook_id in events}

    def count_open(self) -> int:
        return Undispatched.objects.count() + QueuedDelivery.objects.exclude(state=State.FAILED).count()


class RqJobs(Stream):
    """The usual way: one RQ job for each change, pushed after its commit."""

    def __init__(self, bench: Bench, receivers: int = 1) -> None:
        super().__init__(bench, receivers)
        self._urls = self.own_urls
        self._requests = bench.requests
        self._queue: Queue = django_rq.get_queue("webhooks", commit_mode="auto")

    def commit(self, count: int) -> None:
        for number in range(len(self.committed), len(self.committed) + count):
            try:
                # If Redis is away, the change is committed and its job is lost.
                with suppress(RedisError), transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    transaction.on_commit(partial(self._push, number))
            except (DatabaseError, InterfaceError):
                connection.close()

    def _push(self, number: int) -> None:
        self.committed[str(number)] = time.monotonic()
        request = self._requests[number % len(self._requests)]
        headers = {**request.headers, "webhook-id": str(number)}
        url = self._urls[number % len(self._urls)]
        self._queue.enqueue(clients.post, url, headers, request.body, result_ttl=0)

    def redirect(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)

    def count_open(self) -> int:
        return self._queue.count


@contextmanager
def load(rate: int, commit: Callable[[int], None]) -> Iterator[None]:
    """Call ``commit`` from another thread, so that it commits ``rate`` changes a second."""
    is_over = threading.Event()

    def run() -> None:
        started, done = time.monotonic(), 0
        try:
            while not is_over.wait(TICK):
                due = int((time.monotonic() - started) * rate) - done
                done += due
                if due:
                    commit(min(due, int(rate * CATCH_UP)))
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run)
        try:
            yield
        finally:
            is_over.set()
        running.result()


@dataclass(frozen=True)
class Phases:
    """Seconds: to warm up, of the clean run, of the trouble, and after it, all under load.

    A change that has not arrived ``quiet`` seconds after the last arrival is lost.
    """

    warm_up: float
    clean: float
    trouble: float
    after: float
    quiet: float


# The clean rate is back when this share of it arrives within one second.
IS_BACK = 0.95


@dataclass(frozen=True)
class Course:
    """When changes were committed and arrived. All times are monotonic.

    The clean run ends when the trouble begins. The measured time of trouble goes on until ``end``, even if the trouble
    is over before.
    """

    committed: Mapping[object, float]
    arrived: Mapping[object, float]
    clean: float
    begin: float
    over: float
    end: float
    watched: float
    lost: int

    @property
    def clean_rate(self) -> float:
        if not (rate := self._rate(self.clean, self.begin)):
            raise NotMeasured("nothing arrived in the clean run")
        return rate

    @property
    def rate(self) -> float:
        """Deliveries a second from the beginning of the trouble."""
        return self._rate(self.begin, self.end)

    @property
    def clean_delays(self) -> list[float]:
        return self._delays(self.clean, self.begin)

    @property
    def delays(self) -> list[float]:
        """Milliseconds from commit to receipt of the changes that were committed in the time of trouble."""
        return self._delays(self.begin, self.end)

    @property
    def recovery(self) -> float:
        """Seconds from the end of the trouble until the clean rate is back. At most the time that was watched."""
        at, times = self.over, sorted(self.arrived.values())
        while at < self.watched - 1:
            if _count(times, at, at + 1) >= IS_BACK * self.clean_rate:
                break
            at += 0.1
        return at - self.over

    @property
    def lost_percent(self) -> float:
        """The lost changes in percent of all that were committed in the time of trouble."""
        return 100 * self.lost / max(1, _count(sorted(self.committed.values()), self.begin, self.end))

    def _rate(self, begin: float, end: float) -> float:
        return _count(sorted(self.arrived.values()), begin, end) / (end - begin)

    def _delays(self, begin: float, end: float) -> list[float]:
        found = [
            1000 * (self.arrived[change] - at)
            for change, at in self.committed.items()
            if begin <= at < end and change in self.arrived
        ]
        if len(found) < 2:
            raise NotMeasured(f"{len(found)} changes were committed within {end - begin:.1f} s, and arrived")
        return found


def _count(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def follow(
    streams: Sequence[Stream], shares: Sequence[float], rate: int, phases: Phases, trouble: Callable[[float], object]
) -> Course:
    """Run the phases under a steady load. Returns the course of the first stream, with what all streams lost.

    ``shares`` are the parts of the load of each stream. ``trouble`` gets the seconds that it may take.
    """
    owed = [0.0] * len(streams)

    def commit(count: int) -> None:
        for index, (stream, share) in enumerate(zip(streams, shares, strict=True)):
            owed[index] += count * share
            if now := int(owed[index]):
                owed[index] -= now
                stream.commit(now)

    with load(rate, commit):
        time.sleep(phases.warm_up)
        until(streams[0].arrived, 15, "the first request")
        clean = time.monotonic()
        let_arrive(streams[0], phases.clean)
        begin = time.monotonic()
        trouble(phases.trouble)
        over = time.monotonic()
        end = max(over, begin + phases.trouble)
        time.sleep(end - over + phases.after)
        watched = time.monotonic()
    _wait_until_idle(streams[0], phases.quiet)
    missing = sum(len(stream.committed) - len(stream.arrived()) for stream in streams)
    lost = missing - streams[0].count_open()
    return Course(streams[0].committed, streams[0].arrived(), clean, begin, over, end, watched, max(0, lost))


def let_arrive(stream: Stream, seconds: float) -> None:
    """Sleep, on a slow machine until ten changes have arrived: a p99 needs some.

    To read which ones have arrived would take seconds of this process, and so delay the commits of the load.
    """
    before = stream.count_requests()
    time.sleep(seconds)
    until(lambda: stream.count_requests() >= before + 10, 30, "ten requests")


# A stream that has not come to its end after so many seconds is far behind.
MOST_SECONDS = 90


def _wait_until_idle(stream: Stream, quiet: float) -> None:
    """Wait until everything has arrived, or nothing has for ``quiet`` seconds."""
    deadline = time.monotonic() + MOST_SECONDS
    arrived, since = 0, time.monotonic()
    while time.monotonic() < min(deadline, since + quiet) and len(stream.committed) > arrived:
        time.sleep(0.2)
        if (now := len(stream.arrived())) > arrived:
            arrived, since = now, time.monotonic()
