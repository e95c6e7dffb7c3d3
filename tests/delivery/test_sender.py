"""Threads that send, over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from tests.support.waiting import until
from webhooks.db import elapsed
from webhooks.delivery.sender import Senders
from webhooks.network.outcome import Outcome, Refused
from webhooks.network.transport import Request


class Sending:
    """Senders whose requests take as long as the test says, and are counted while they are made."""

    def __init__(self, most: int, seconds: float = 0.0, limits: dict[str, int] | None = None) -> None:
        self.seconds, self.limits = seconds, limits or {}
        self.at_once = self.peak = 0
        self.go_on = threading.Event()
        self._lock = threading.Lock()
        self.senders: Senders[str] = Senders(most, self._make, self._group_of, limits)
        self.senders.good_until = elapsed() + 60

    def _group_of(self, item: str) -> str:
        return item if item in self.limits else ""

    def _make(self, item: str) -> Request:
        with self._lock:
            self.at_once += 1
            self.peak = max(self.peak, self.at_once)
        if item in ("hangs", *self.limits):
            self.go_on.wait(60)
        else:
            time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
        raise Refused(item)

    def collect(self, count: int) -> list[str]:
        """Wait for so many outcomes, as a courier does, and return what ended."""
        ended: list[str] = []

        def more() -> bool:
            ended.extend(item for item, _ in self.senders.outcomes(0.02))
            return len(ended) >= count

        until(more, 20, f"{count} outcomes")
        return ended


@contextmanager
def sending(most: int, seconds: float = 0.0, limits: dict[str, int] | None = None) -> Iterator[Sending]:
    those = Sending(most, seconds, limits)
    try:
        yield those
    finally:
        those.go_on.set()
        those.senders.close()


def test_what_takes_its_time_is_sent_by_all_threads_at_once() -> None:
    with sending(most=8, seconds=0.05) as those:
        for number in range(200):
            those.senders.add(number % 20, "waits")
        those.collect(200)
        assert those.peak == 8


@pytest.mark.parametrize("hanging", [1, 5, 7])
def test_those_that_hang_leave_a_thread_to_the_others(hanging: int) -> None:
    with sending(most=8) as those:
        for webhook in range(hanging):
            those.senders.add(webhook, "hangs")
        until(lambda: those.senders.outcomes(0.01) == [] and those.at_once == hanging, 10, "those that hang")
        for number in range(100):
            those.senders.add(100 + number % 3, "quick")
        assert those.collect(100) == ["quick"] * 100


def test_what_waits_to_be_prepared_leaves_the_threads_to_the_others() -> None:
    with sending(most=4, limits={"templates": 2, "slow templates": 1}) as those:
        for webhook in range(20):
            those.senders.add(webhook, "templates")
            those.senders.add(100 + webhook, "slow templates")
        until(
            lambda: those.senders.outcomes(0.01) == [] and those.at_once == 3, 10, "as many as may be prepared at once"
        )
        for number in range(100):
            those.senders.add(200 + number % 3, "quick")
        assert those.collect(100) == ["quick"] * 100
        assert those.at_once == 3
        those.go_on.set()
        assert sorted(those.collect(40)) == ["slow templates"] * 20 + ["templates"] * 20


def test_one_that_is_prepared_lets_the_next_one_begin_while_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    go_on = threading.Event()

    def send(request: Request) -> Outcome:
        go_on.wait(60)
        return Outcome(datetime.now(UTC), 0)

    def make(webhook: int) -> Request:
        made.append(webhook)
        return Request("http://192.0.2.1/", {}, b"", 60)

    senders: Senders[int] = Senders(4, make, lambda item: "slow", {"slow": 1})
    monkeypatch.setattr(senders._transport, "send", send)
    senders.good_until = elapsed() + 60
    try:
        for webhook in range(3):
            senders.add(webhook, webhook)
        until(lambda: senders.outcomes(0.01) == [] and len(made) == 3, 10, "all of them to be made")
    finally:
        go_on.set()
        senders.close()


def test_what_was_prepared_too_slowly_is_not_sent() -> None:
    def make(item: str) -> Request:
        senders.good_until = elapsed() - 1
        return Request("http://192.0.2.1/", {}, b"", 60)

    senders: Senders[str] = Senders(1, make)
    senders.good_until = elapsed() + 60
    found: list[tuple[str, Outcome | None]] = []
    try:
        senders.add(1, "a")
        until(lambda: found.extend(senders.outcomes(0.02)) or bool(found), 10, "the outcome")
    finally:
        senders.close()
    assert found == [("a", None)]


def test_what_is_too_late_is_not_sent() -> None:
    with sending(most=2) as those:
        those.senders.good_until = elapsed() - 1
        those.senders.add(1, "late")
        until(lambda: those.senders.outcomes(0.02) == [("late", None)], 10, "the outcome")
        assert those.peak == 0


def test_a_request_that_cannot_be_made_has_an_outcome_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def broken(item: str) -> Request:
        raise KeyError(item)

    senders: Senders[str] = Senders(1, broken)
    senders.good_until = elapsed() + 60
    found: list[tuple[str, Outcome | None]] = []
    try:
        senders.add(1, "a")
        until(lambda: found.extend(senders.outcomes(0.02)) or bool(found), 10, "the outcome")
    finally:
        senders.close()
    [(_, outcome)] = found
    assert outcome is not None
    assert outcome.reason == "the request could not be made: 'a'"
