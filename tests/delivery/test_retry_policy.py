"""When to try again, and when to pause or disable a webhook."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from webhooks.conf import RETRY_SCHEDULE
from webhooks.delivery.retry_policy import Health, after_failures, is_healthy, next_wait
from webhooks.network.outcome import Outcome


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


# The health of a webhook

NOW = timezone.now()
FINE = Health(0, None, None, 0)


def outcome(reason: str = "HTTP 500", status: int = 500) -> Outcome:
    return Outcome(NOW, 1, reason=reason, status=status)


OK = Outcome(NOW, 1, status=200)


@pytest.mark.parametrize(
    ("before", "outcomes", "failures"),
    [
        (0, [outcome()], 1),
        (4, [outcome()] * 3, 7),
        (4, [outcome(), OK, outcome()], 1),
        (9, [OK, outcome(), outcome()], 2),
    ],
)
def test_failures_are_counted_from_the_last_success(before: int, outcomes: list[Outcome], failures: int) -> None:
    assert after_failures(Health(before, NOW, None, 0), outcomes, NOW).failures_in_a_row == failures


def test_enough_failures_pause_a_webhook_until_its_first_probe(webhooks_settings: Any) -> None:
    webhooks_settings(PAUSE_AFTER=3, PROBE_SCHEDULE=[60, 120])
    assert after_failures(FINE, [outcome()] * 2, NOW).probe_at is None
    assert after_failures(FINE, [outcome()] * 3, NOW).probe_at == NOW + timedelta(seconds=60)


@pytest.mark.parametrize(("probes", "wait"), [(0, 60), (1, 120), (2, 120), (50, 120)])
def test_probes_come_at_growing_intervals(webhooks_settings: Any, probes: int, wait: int) -> None:
    webhooks_settings(PAUSE_AFTER=3, PROBE_SCHEDULE=[60, 120])
    health = after_failures(Health(5, NOW, NOW, probes), [outcome()], NOW)
    assert health.probe_at == NOW + timedelta(seconds=wait)


def test_nothing_but_failures_for_too_long_disables(webhooks_settings: Any) -> None:
    webhooks_settings(DISABLE_AFTER=3600)
    since = NOW - timedelta(seconds=3500)
    assert not after_failures(Health(50, since, NOW, 3), [outcome()], NOW).disabled_reason
    late = after_failures(Health(50, since, NOW, 3), [outcome()], NOW + timedelta(seconds=200), "no answer within 10 s")
    assert "no answer within 10 s" in late.disabled_reason


@pytest.mark.parametrize(
    ("status", "healthy", "disabled", "wait"),
    [(200, True, False, None), (410, False, True, 5), (429, False, False, 60), (500, False, False, 5)],
)
def test_an_outcome_decides_about_the_delivery_and_its_webhook(
    status: int, healthy: bool, disabled: bool, wait: float | None
) -> None:
    one = OK if status == 200 else outcome(f"HTTP {status}", status)
    assert is_healthy([one]) == healthy
    if not healthy:
        assert ("410 Gone" in after_failures(FINE, [one], NOW).disabled_reason) == disabled
        assert next_wait([5], 1, overloaded=one.overloaded) == wait


def test_a_success_after_410_does_not_keep_a_webhook_enabled() -> None:
    assert not is_healthy([outcome("HTTP 410 Gone", 410), OK])
