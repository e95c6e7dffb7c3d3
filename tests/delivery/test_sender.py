"""The threads that send, and how many of them send at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import until
from webhooks.db import elapsed
from webhooks.delivery.fair_queue import FairQueue
from webhooks.delivery.sender import ADAPT_EVERY, TOO_LONG, ConcurrencyLimit, SenderPool
from webhooks.network.outcome import Outcome, Refused
from webhooks.network.transport import Request

REQUEST = Request("http://192.0.2.1/", {}, b"", 60)


@contextmanager
def open_pool(
    most: int, compose: Callable[[str], Request], limits: dict[str, int] | None = None
) -> Iterator[SenderPool[str]]:
    """A pool for an hour. The name of a limited group is the item, too."""
    limits = limits or {}
    queue = FairQueue[str](most, lambda item: item if item in limits else "", limits)
    pool = SenderPool(most, queue, compose)
    pool.send_until = elapsed() + 3600
    try:
        yield pool
    finally:
        pool.close()


def collect(pool: SenderPool[str], count: int) -> list[tuple[str, Outcome | None]]:
    """Wait for as many outcomes, as a worker does."""
    ended: list[tuple[str, Outcome | None]] = []
    until(lambda: ended.extend(pool.outcomes(0.02)) or len(ended) >= count, 20, f"{count} outcomes")
    return ended


class Requests:
    """Requests that take some time to compose, and are not sent. It counts how many are composed at once."""

    def __init__(self, seconds: float = 0.0, blocked: tuple[str, ...] = ("hangs",)) -> None:
        self._seconds, self._blocked = seconds, blocked
        self._lock = threading.Lock()
        self.at_once = self.peak = 0
        self.go_on = threading.Event()

    def compose(self, item: str) -> Request:
        with self._lock:
            self.at_once += 1
            self.peak = max(self.peak, self.at_once)
        if item in self._blocked:
            self.go_on.wait(60)
        else:
            time.sleep(self._seconds)
        with self._lock:
            self.at_once -= 1
        raise Refused(item)


def test_all_threads_send_at_once_if_receivers_are_slow() -> None:
    requests = Requests(seconds=0.05)
    with open_pool(8, requests.compose) as pool:
        for number in range(100):
            pool.add(number % 20, "waits")
        collect(pool, 100)
    assert requests.peak == 8


@pytest.mark.parametrize("hanging", [1, 7])
def test_receivers_that_hang_leave_a_thread_to_the_others(hanging: int) -> None:
    requests = Requests()
    with open_pool(8, requests.compose) as pool:
        for webhook in range(hanging):
            pool.add(webhook, "hangs")
        until(lambda: pool.outcomes(0.01) == [] and requests.at_once == hanging, 10, "the hanging requests")
        for number in range(100):
            pool.add(100 + number % 3, "quick")
        assert {item for item, _ in collect(pool, 100)} == {"quick"}
        requests.go_on.set()


def test_items_that_wait_to_be_prepared_leave_the_threads_to_the_others() -> None:
    requests = Requests(blocked=("template", "slow template"))
    with open_pool(4, requests.compose, {"template": 2, "slow template": 1}) as pool:
        for webhook in range(20):
            pool.add(webhook, "template")
            pool.add(100 + webhook, "slow template")
        until(lambda: pool.outcomes(0.01) == [] and requests.at_once == 3, 10, "as many as the limits allow")
        for number in range(100):
            pool.add(200 + number % 3, "quick")
        assert {item for item, _ in collect(pool, 100)} == {"quick"}
        assert requests.at_once == 3
        requests.go_on.set()
        assert sorted(item for item, _ in collect(pool, 40)) == ["slow template"] * 20 + ["template"] * 20


def test_the_next_item_of_a_group_is_prepared_while_the_first_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[str] = []
    go_on = threading.Event()

    def compose(item: str) -> Request:
        composed.append(item)
        return REQUEST

    def send(request: Request) -> Outcome:
        go_on.wait(60)
        return Outcome(datetime.now(UTC), 0)

    with open_pool(4, compose, {"slow": 1}) as pool:
        monkeypatch.setattr(pool._transport, "send", send)
        for webhook in range(3):
            pool.add(webhook, "slow")
        until(lambda: pool.outcomes(0.01) == [] and len(composed) == 3, 10, "all requests to be composed")
        go_on.set()


@pytest.mark.parametrize("is_late_at_first", [True, False], ids=["before", "while it is composed"])
def test_an_item_is_not_sent_after_the_lease_has_ended(is_late_at_first: bool) -> None:
    def compose(item: str) -> Request:
        assert not is_late_at_first
        pool.send_until = elapsed() - 1
        return REQUEST

    with open_pool(1, compose) as pool:
        if is_late_at_first:
            pool.send_until = elapsed() - 1
        pool.add(1, "a")
        assert collect(pool, 1) == [("a", None)]


def test_a_request_that_cannot_be_composed_is_an_outcome_with_the_reason() -> None:
    def compose(item: str) -> Request:
        raise KeyError(item)

    with open_pool(1, compose) as pool:
        pool.add(1, "a")
        [(_, outcome)] = collect(pool, 1)
    assert outcome is not None
    assert outcome.reason == "the request could not be made: 'a'"


# How many requests are young at once

MOST = 32


class Process:
    """Each request uses ``cpu`` seconds of CPU, and waits ``wait`` seconds for the receiver."""

    def __init__(self, cpu: float, wait: float) -> None:
        self._cpu, self.wait = cpu, wait
        self._limit = ConcurrencyLimit(MOST)
        self._now = self._used = 0.0

    def run(self, looks: int, seconds: float = ADAPT_EVERY, waiting: int = 1000) -> int:
        """Adapt this often, every ``seconds``, with ``waiting`` requests. Returns how many may start then."""
        for _ in range(looks):
            at_once = self._limit.room(young=0, wanted=waiting)
            self._now += seconds
            self._used += seconds * min(1.0, at_once * self._cpu / (self._cpu + self.wait))
            self._limit.adapt(self._now, self._used)
        return self._limit.room(young=0, wanted=MOST)


@pytest.mark.parametrize(
    ("wait", "least", "most"), [(0.00008, 1, 1), (0.001, 2, 4), (0.002, 3, 6), (0.004, 6, 10), (0.05, MOST, MOST)]
)
def test_slower_receivers_get_more_requests_at_once(wait: float, least: int, most: int) -> None:
    assert least <= Process(cpu=0.0005, wait=wait).run(looks=100) <= most


def test_the_limit_follows_receivers_that_become_slow_and_fast() -> None:
    process = Process(cpu=0.0005, wait=0.05)
    assert process.run(looks=3) == MOST
    process.wait = 0.00008
    assert process.run(looks=100) == 1


@pytest.mark.parametrize(
    "how", [{"waiting": 1}, {"seconds": 2 * TOO_LONG}, {"seconds": ADAPT_EVERY / 200}], ids=["few", "idle", "moments"]
)
def test_the_limit_stays_if_there_is_nothing_to_learn(how: dict[str, float]) -> None:
    assert Process(cpu=0.0005, wait=0.05).run(looks=100, **how) == 1  # type: ignore[arg-type]


def test_young_requests_use_up_the_limit() -> None:
    limit = ConcurrencyLimit(MOST)
    assert [limit.room(young, wanted=5) for young in (0, 1, 3)] == [1, 0, 0]


@given(
    most=st.integers(1, 100),
    looks=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 64), st.integers(0, 200)), max_size=50),
)
def test_there_is_always_room_for_one_request_and_never_for_too_many(
    most: int, looks: list[tuple[float, float, int]]
) -> None:
    limit = ConcurrencyLimit(most)
    now = cpu = 0.0
    for seconds, cores, wanted in looks:
        assert 0 <= limit.room(young=0, wanted=wanted) <= min(most, wanted)
        now, cpu = now + seconds, cpu + seconds * cores
        limit.adapt(now, cpu)
        assert 1 <= limit.room(young=0, wanted=most) <= most
