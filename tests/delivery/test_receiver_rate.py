"""How fast a receiver that answers 429 is asked."""

from __future__ import annotations

import pytest

from webhooks.delivery.receiver_rate import LONGEST_REST, NO_LIMIT, ReceiverRate


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


def ask(receiver: Limited, rate: ReceiverRate, seconds: float, now: float = 0.0) -> tuple[int, int]:
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
            rate.refused(now, None)
    return accepted, refused


@pytest.mark.parametrize("a_second", [0.2, 1, 5, 50, 200])
def test_a_receiver_gets_nearly_as_much_as_it_accepts_and_little_more(a_second: float) -> None:
    accepted, refused = ask(Limited(a_second), ReceiverRate(), 300)
    assert accepted > 0.8 * 300 * a_second
    assert refused < 0.2 * accepted


def test_a_limit_that_is_gone_is_forgotten() -> None:
    rate = ReceiverRate()
    ask(Limited(5), rate, 60)
    assert 0.15 < rate.interval < 0.25
    for number in range(2000):
        rate.accepted(60 + number)
    assert rate.interval == 0 < NO_LIMIT


def test_a_receiver_may_ask_for_a_longer_rest_but_not_for_hours() -> None:
    rests = []
    for wait in (None, 0.1, 7, 3600):
        rate = ReceiverRate()
        rate.refused(100, wait)
        rests.append(rate.next_at - 100)
    assert rests == [1, 1, 7, LONGEST_REST]


def test_refusals_after_each_other_double_the_rest_until_one_is_accepted() -> None:
    rate, now, rests = ReceiverRate(), 100.0, []
    for _ in range(8):
        rate.refused(now, None)
        rests.append(rate.next_at - now)
        now = rate.next_at
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    rate.accepted(now)
    rate.refused(now, None)
    assert rate.next_at == now + 1


def test_the_time_without_anything_to_send_does_not_count() -> None:
    receiver, rate = Limited(20), ReceiverRate()
    ask(receiver, rate, 2)  # until it was refused once
    rate.interval = 0.0
    accepted, refused = ask(receiver, rate, 10, now=1000)
    assert (accepted > 0.8 * 20 * 10, refused < 5) == (True, True)


def test_refusals_of_requests_that_were_under_way_change_nothing() -> None:
    rate = ReceiverRate()
    rate.refused(100, 3)
    for later in (100.1, 102.9):
        rate.refused(later, 30)
    assert (rate.next_at, rate.interval) == (103, 0)
