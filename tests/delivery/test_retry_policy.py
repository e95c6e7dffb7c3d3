"""When to try again, and when to give up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.delivery.policy import next_wait
from webhooks.ground.conf import RETRY_SCHEDULE


@pytest.mark.parametrize(
    ("attempts", "wait"),
    [(1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18000), (6, 36000), (7, 50400), (8, 72000), (9, 86400), (10, None)],
)
def test_the_standard_schedule_is_followed_to_its_end(attempts: int, wait: float | None) -> None:
    assert next_wait(RETRY_SCHEDULE, attempts) == wait


def test_without_a_schedule_the_first_failure_is_the_last() -> None:
    assert next_wait([], 1) is None


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 80), (0.5, 100), (1.0, 120)])
def test_jitter_spreads_a_wait_around_the_plan(chance: float, wait: float) -> None:
    assert next_wait([100], 1, jitter=0.2, chance=chance) == pytest.approx(wait)


@pytest.mark.parametrize(
    ("planned", "asked", "wait"),
    [(100, 50, 100), (100, 150, 150), (100, 1000, 200), (100, 0, 100), (5, 60, 10)],
)
def test_what_a_receiver_asks_for_is_obeyed_within_bounds(planned: float, asked: float, wait: float) -> None:
    assert next_wait([planned], 1, retry_after=asked) == wait


@pytest.mark.parametrize(
    ("planned", "chance", "wait"),
    [(5, 0.5, 60), (5, 0.0, 60), (5, 1.0, 72), (70, 0.0, 60), (300, 0.5, 300), (300, 0.0, 240)],
)
def test_a_receiver_that_is_overloaded_is_given_a_minute(planned: float, chance: float, wait: float) -> None:
    assert next_wait([planned], 1, jitter=0.2, chance=chance, overloaded=True) == pytest.approx(wait)


@given(
    schedule=st.lists(st.floats(0, 1e6), max_size=10),
    attempts=st.integers(1, 12),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1),
    overloaded=st.booleans(),
    asked=st.none() | st.floats(0, 1e9),
)
def test_a_wait_is_never_negative_nor_more_than_twice_the_plan(
    schedule: list[float], attempts: int, jitter: float, chance: float, overloaded: bool, asked: float | None
) -> None:
    wait = next_wait(schedule, attempts, jitter=jitter, chance=chance, overloaded=overloaded, retry_after=asked)
    if attempts > len(schedule):
        assert wait is None
        return
    planned = max(schedule[attempts - 1], 60.0 if overloaded else 0.0)
    assert wait is not None
    assert 0 <= wait <= 2 * planned + 1e-6
    if asked is not None:
        assert wait >= planned
