"""Costly answers take turns. The time here is that of a fake clock: each step says what it costs."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import pytest

from webhooks.workers.network import loop
from webhooks.workers.network.loop import (
    ALLOWANCE,
    MAX_PARTS,
    MIN_REST,
    PAUSE,
    READ,
    REST,
    SUSPECT_PARTS,
    SUSPECT_STEPS,
    Limits,
    Loop,
    Socket,
    Steps,
)

HOUR = 3600


class Clock:
    """All clocks of the loop. Nothing else uses the processor."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = thread_time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(loop, "time", fake)
    return fake


@pytest.fixture
def tasks(clock: Clock) -> Iterator[Loop]:
    with closing(Loop()) as opened:
        yield opened


@contextmanager
def readable() -> Iterator[Socket]:
    """A socket that always has something to read."""
    ours, theirs = socket.socketpair()
    with theirs, Socket(fileno=ours.detach()) as sock:
        theirs.send(b"x")
        yield sock


def costly() -> Limits:
    """The limits of an answer of a receiver whose last one was costly."""
    limits = Limits(HOUR)
    limits.expect(is_costly=True)
    return limits


def endless(clock: Clock, sock: Socket, event: int, cost: float, count: Callable[[], object]) -> Steps[None]:
    """Steps that cost so many seconds each."""
    while True:
        count()
        clock.now += cost
        yield sock, event


@pytest.mark.parametrize("event", [PAUSE, READ])
def test_costly_answers_share_a_fiftieth_of_the_thread_in_turns(clock: Clock, tasks: Loop, event: int) -> None:
    slices, cheap = Counter[int](), list[None]()
    with ExitStack() as stack:
        for number in range(20):
            sock = stack.enter_context(readable())
            tasks.add(endless(clock, sock, event, 0.0003, partial(slices.update, [number])), costly(), print)
        sock = stack.enter_context(readable())
        limits = Limits(HOUR)

        def begin_another() -> None:
            limits.begin_answer()
            cheap.append(None)

        tasks.add(endless(clock, sock, READ, 0.0001, begin_another), limits, print)
        clock.now, begin = 100.0, 100.0  # the steps that begin the answers take no turns
        slices.clear()
        cheap.clear()
        while clock.now < begin + 30:
            tasks.poll(0)
    assert 1 / (REST + 2) < slices.total() * 0.0003 / 30 <= 1 / (REST + 1)
    assert len(cheap) * 0.0001 == pytest.approx(30 * REST / (REST + 1), rel=0.01)
    assert max(slices.values()) - min(slices.values()) <= 1


def test_packets_of_one_byte_wait_for_turns_and_are_read_together(clock: Clock, tasks: Loop) -> None:
    """To read each at once would cost a turn of the loop for each."""
    steps = list[None]()
    with readable() as sock:
        tasks.add(endless(clock, sock, READ, 0.000_01, lambda: steps.append(None)), costly(), print)
        for _ in range(10_000):
            tasks.poll(0)
            clock.now += 0.0001
    assert clock.now == pytest.approx(1, rel=0.01)
    assert 0.9 / MIN_REST < len(steps) <= 1 / MIN_REST + 1


@pytest.mark.parametrize("unit", ["steps", "parts"])
def test_an_answer_of_many_small_pieces_is_costly_before_the_clock_shows_it(clock: Clock, unit: str) -> None:
    """Otherwise each answer could cost ten times its allowance, again and again."""
    limits = Limits(HOUR)
    limits.begin_answer()
    cost, most = ALLOWANCE / 10, SUSPECT_STEPS if unit == "steps" else SUSPECT_PARTS
    for count in range(1, most + 1):
        limits.parts -= unit == "parts"
        if unit == "steps" or count == most:
            step(clock, limits, cost / most)
    assert not limits.is_exact
    limits.parts -= unit == "parts"
    step(clock, limits, cost / most)
    assert (limits.is_exact, limits.is_costly) == (True, False)
    step(clock, limits, 0.9 * ALLOWANCE)
    assert not limits.is_costly
    step(clock, limits, 0.2 * ALLOWANCE)
    assert limits.is_costly


def step(clock: Clock, limits: Limits, cost: float) -> None:
    with readable() as sock:
        limits.step(endless(clock, sock, READ, cost, lambda: None))


def test_each_answer_begins_with_all_of_its_parts_and_steps(clock: Clock) -> None:
    limits = Limits(HOUR)
    for _ in range(10):
        for _ in range(SUSPECT_STEPS):
            limits.parts -= SUSPECT_PARTS // SUSPECT_STEPS
            step(clock, limits, 0)
        limits.begin_answer()
    assert (limits.parts, limits.is_exact) == (MAX_PARTS, False)


def test_steps_without_a_loop_rest_as_well(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request that code of the project sends in another thread, which runs beside the others."""
    slept = list[float]()
    monkeypatch.setattr(Clock, "sleep", lambda self, seconds: slept.append(seconds), raising=False)

    def answer() -> Steps[str]:
        for cost in (0.0, 0.001):
            clock.now += cost
            yield sock, PAUSE
        return "done"

    with readable() as sock:
        assert loop.run(answer(), costly()) == "done"
    assert slept == [MIN_REST, pytest.approx(REST * 0.001)]
