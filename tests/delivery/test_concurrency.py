"""How many requests one process has in the making at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.delivery.concurrency import EVERY, TOO_LONG, Concurrency

MOST = 32


class Process:
    """A process whose requests take ``cpu`` seconds of its processor each, and ``wait`` seconds of the receiver's."""

    def __init__(self, cpu: float, wait: float, most: int = MOST) -> None:
        self._cpu, self._wait = cpu, wait
        self.concurrency = Concurrency(most)
        self._now = self._used = 0.0

    def run(self, looks: int, seconds: float = EVERY, waiting: int = 1000) -> int:
        """Let so many looks pass, so many seconds apart, with so many requests waiting. Returns how many may begin
        then, where none is young."""
        for _ in range(looks):
            at_once = self.concurrency.room(young=0, wanted=waiting)
            self._now += seconds
            self._used += seconds * min(1.0, at_once * self._cpu / (self._cpu + self._wait))
            self.concurrency.learn(self._now, self._used)
        return self.concurrency.room(young=0, wanted=MOST)


def test_one_request_is_made_at_a_time_where_receivers_answer_at_once() -> None:
    assert Process(cpu=0.0005, wait=0.00008).run(looks=100) == 1


@pytest.mark.parametrize(("wait", "least", "most"), [(0.001, 2, 4), (0.002, 3, 6), (0.004, 6, 10), (0.05, MOST, MOST)])
def test_the_longer_receivers_take_the_more_requests_are_made_at_once(wait: float, least: int, most: int) -> None:
    assert least <= Process(cpu=0.0005, wait=wait).run(looks=100) <= most


def test_slow_receivers_have_every_thread_after_a_few_looks() -> None:
    assert Process(cpu=0.0005, wait=0.05).run(looks=3) == MOST


def test_it_goes_back_to_one_when_receivers_become_fast() -> None:
    process = Process(cpu=0.0005, wait=0.05)
    process.run(looks=10)
    process._wait = 0.00008
    assert process.run(looks=100) == 1


def test_it_is_left_as_it_is_where_nothing_had_to_wait() -> None:
    assert Process(cpu=0.0005, wait=0.05).run(looks=100, waiting=1) == 1


def test_nothing_is_learnt_from_a_time_of_rest() -> None:
    assert Process(cpu=0.0005, wait=0.05).run(looks=100, seconds=2 * TOO_LONG) == 1


def test_nothing_is_learnt_from_a_moment() -> None:
    concurrency = Concurrency(MOST)
    concurrency.learn(now=1.0, cpu=0.0)
    concurrency.room(young=0, wanted=10)
    concurrency.learn(now=1.0 + EVERY / 2, cpu=0.0)
    assert concurrency.room(young=0, wanted=10) == 1


def test_young_requests_take_up_the_room() -> None:
    concurrency = Concurrency(MOST)
    assert concurrency.room(young=1, wanted=5) == 0
    assert concurrency.room(young=3, wanted=5) == 0


@given(
    most=st.integers(1, 100),
    looks=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 64), st.integers(0, 200)), max_size=50),
)
def test_there_is_room_for_one_and_never_for_more_than_all(most: int, looks: list[tuple[float, float, int]]) -> None:
    concurrency = Concurrency(most)
    now = cpu = 0.0
    for seconds, processors, wanted in looks:
        assert 0 <= concurrency.room(young=0, wanted=wanted) <= min(most, wanted)
        now, cpu = now + seconds, cpu + seconds * processors
        concurrency.learn(now, cpu)
        assert 1 <= concurrency.room(young=0, wanted=most) <= most
