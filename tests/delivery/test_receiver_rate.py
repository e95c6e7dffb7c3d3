"""How fast a receiver that answers 429 is asked."""

from __future__ import annotations

import random

import pytest

from webhooks.workers.receiver_rate import LONGEST_REST, NO_LIMIT, ReceiverRate


class Limited:
    """A receiver that accepts so many requests ``a_second``, and as many at once after it had none for long."""

    def __init__(self, a_second: float) -> None:
        self._a_second = a_second
        self._tokens, self._at = max(1.0, a_second), 0.0

    def accepts(self, now: float) -> bool:
        self._tokens = min(max(1.0, self._a_second), self._tokens + (now - self._at) * self._a_second)
        self._at = now
        is_accepted = self._tokens >= 1
        self._tokens -= is_accepted
        return is_accepted


def ask(receiver: Limited | Random, rate: ReceiverRate, seconds: float, now: float = 0.0) -> tuple[int, int]:
    """One request after another, each answered after a millisecond. How many were accepted, and refused."""
    end, accepted, refused = now + seconds, 0, 0
    while (now := max(now, rate.next_at)) < end:
        if rate.interval:
            rate.begun(now)
        is_accepted = receiver.accepts(now)
        now += 0.001
        if is_accepted:
            accepted += 1
            rate.accepted(now)
        else:
            refused += 1
            rate.refused(now - 0.001, now, None)
    return accepted, refused


@pytest.mark.parametrize(("a_second", "share"), [(0.2, 0.5), (1, 0.1), (5, 0.1), (50, 0.1), (200, 0.1)])
def test_a_receiver_gets_nearly_as_much_as_it_accepts_and_little_more(a_second: float, share: float) -> None:
    accepted, refused = ask(Limited(a_second), ReceiverRate(), 300)
    assert accepted > 0.8 * 300 * a_second
    assert refused < share * accepted


class Random:
    """A receiver that refuses a share of the requests at random, however few they are."""

    def __init__(self, share: float) -> None:
        self._share, self._random = share, random.Random(1)

    def accepts(self, now: float) -> bool:
        return self._random.random() >= self._share


def test_a_receiver_that_refuses_a_few_requests_at_random_gets_as_many_as_its_rests_allow() -> None:
    accepted, refused = ask(Random(0.01), ReceiverRate(), 600)
    assert accepted > 50 * 600, "with a rest of a second after each hundred, 90 a second would be all"
    assert refused < 0.02 * accepted


def test_a_limit_that_is_gone_is_forgotten() -> None:
    rate = ReceiverRate()
    ask(Limited(5), rate, 60)
    assert 0.15 < rate.interval < 0.25
    for number in range(2000):
        rate.accepted(60 + number)
    assert rate.interval == 0 < NO_LIMIT


def test_a_receiver_that_was_away_has_its_full_rate_within_minutes() -> None:
    rate, now = ReceiverRate(), 0.0
    for wait in (None, 20, 60, None):
        rate.refused(now, now, wait)
        now = rate.next_at
        rate.accepted(now)
    assert 1 < seconds_to_full_speed(rate, now) < 300


def seconds_to_full_speed(rate: ReceiverRate, begin: float) -> float:
    now = begin
    while rate.interval:
        rate.begun(now)
        now = rate.next_at
        rate.accepted(now)
    return now - begin


def test_a_long_interval_is_shortened_by_time() -> None:
    rate = ReceiverRate()
    rate.interval = 60
    assert seconds_to_full_speed(rate, 0) < 1500


def test_a_lower_rate_is_learned_step_by_step() -> None:
    rate = ReceiverRate()
    ask(Limited(10), rate, 60)
    known = rate.interval
    rate.accepted(60)
    rate.refused(90, 90, 30)
    assert rate.interval == pytest.approx(2 * known, rel=0.01)


def test_a_receiver_may_ask_for_a_longer_rest_but_not_for_hours() -> None:
    rests = []
    for wait in (None, 0.1, 7, 3600):
        rate = ReceiverRate()
        rate.refused(100, 100, wait)
        rests.append(rate.next_at - 100)
    assert rests == [1, 1, 7, LONGEST_REST]


def test_refusals_after_each_other_double_the_rest_until_one_is_accepted() -> None:
    rate, now, rests = ReceiverRate(), 100.0, []
    for _ in range(8):
        rate.refused(now, now, None)
        rests.append(rate.next_at - now)
        now = rate.next_at
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    assert rate.interval == 0, "a rest is no rate"
    rate.accepted(now)
    rate.refused(now, now, None)
    assert rate.next_at == now + 1


@pytest.mark.parametrize("is_accepted_first", [True, False])
def test_the_time_without_anything_to_send_does_not_count(is_accepted_first: bool) -> None:
    rate = ReceiverRate()
    rate.refused(0, 0, None)
    for number in range(10):
        rate.accepted(1 + number / 10)
    if is_accepted_first:
        rate.accepted(5000)
    rate.refused(5000.1, 5000.1, None)
    assert rate.interval < (1.2 if is_accepted_first else 0.4)


def test_refusals_of_requests_that_were_under_way_change_nothing() -> None:
    rate = ReceiverRate()
    assert rate.refused(99, 100, 3)
    for later in (100.1, 105):
        assert not rate.refused(99.9, later, 30)
    assert (rate.next_at, rate.interval) == (103, 0)
