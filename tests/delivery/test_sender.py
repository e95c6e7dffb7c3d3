"""The thread that sends, and what it keeps in flight."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.support.inbox import Inbox
from tests.support.waiting import until
from webhooks.ground.db import elapsed
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.workers import receiver_rate
from webhooks.workers.fair_queue import FairQueue
from webhooks.workers.network.attempt import Refused, Request
from webhooks.workers.network.transport import Transport
from webhooks.workers.receiver_rate import ReceiverRate
from webhooks.workers.sender import HELD_SECONDS, MOST_STUCK, STARTED_AT_ONCE, Sender

# Seconds that no test waits: longer than its time limit.
HOUR = 3600

REQUEST = Request("http://192.0.2.1/", {}, b"", 60)


@contextmanager
def open_sender(
    most: int, compose: Callable[[str], Request], limits: dict[str, int] | None = None, longest: float = 3600
) -> Iterator[Sender[str]]:
    """A sender for an hour. The name of a limited group is the item, too."""
    limits = limits or {}
    queue = FairQueue[str](most, lambda item: item if item in limits else "", limits)
    sender = Sender(queue, compose, longest=lambda item: longest)
    sender.send_until = elapsed() + 3600
    try:
        yield sender
    finally:
        sender.close()


def collect(sender: Sender[str], count: int) -> list[tuple[str, Outcome | None]]:
    """Wait for as many outcomes, as a worker does."""
    ended: list[tuple[str, Outcome | None]] = []
    until(lambda: ended.extend(sender.outcomes(0.02)) or len(ended) >= count, 20, f"{count} outcomes")
    return ended


def sending_to(inbox: Inbox) -> Callable[[str], Request]:
    """Compose requests. The item is the behaviour of the receiver."""
    return lambda item: Request(inbox.url(item), {}, b"{}", 30)


class Requests:
    """Requests that take some time to compose, and are not sent. It counts how many are composed at once."""

    def __init__(self, blocked: tuple[str, ...]) -> None:
        self._blocked = blocked
        self._lock = threading.Lock()
        self.at_once = 0
        self.go_on = threading.Event()

    def compose(self, item: str) -> Request:
        with self._lock:
            self.at_once += 1
        if item in self._blocked:
            self.go_on.wait(60)
        with self._lock:
            self.at_once -= 1
        raise Refused(item, ErrorKind.BLOCKED)


def threads_except(others: Collection[threading.Thread]) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread not in others]


def test_requests_to_slow_receivers_are_in_flight_at_once_without_a_thread_each(inbox: Inbox) -> None:
    others = threading.enumerate()  # another test may have left some
    with open_sender(200, sending_to(inbox)) as sender:
        sender.add([(webhook, "hang") for webhook in range(100)])
        until(lambda: sender.outcomes(0.01) == [] and len(inbox.received()) == 100, 20, "all to be sent")
        until(lambda: threads_except(others) == ["webhooks-sender"], 5, lambda: f"one of {threads_except(others)}")
        sender.add([(1000 + number % 3, "ok") for number in range(100)])
        assert {item for item, _ in collect(sender, 100)} == {"ok"}


def test_the_queue_learns_how_much_of_its_timeout_each_success_took(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[int, float]] = []

    def ended(self: FairQueue[str], webhook: int, timed_out: bool, cost: float = 0.0, waited: float = 0.0) -> None:
        noted.append((webhook, waited))
        original(self, webhook, timed_out, cost, waited)

    original = FairQueue.ended
    monkeypatch.setattr(FairQueue, "ended", ended)
    with open_sender(200, sending_to(inbox)) as sender:  # with a timeout of 30 s
        sender.add([(1, "slow/0.3"), (2, "status/500")])
        collect(sender, 2)
    assert sorted(noted) == [(1, pytest.approx(0.01, rel=9)), (2, 0.0)]
    assert dict(noted)[1] >= 0.01


def test_a_webhook_rests_after_429_while_the_others_go_on(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_rate, "REST", 0.3)
    with open_sender(200, sending_to(inbox)) as sender:
        sender.add([(1, "status/429")])
        collect(sender, 1)
        sender.add([(1, "ok/first"), (1, "ok/second"), (2, "ok/other")])
        collect(sender, 3)
    refused, other, first, _second = sorted(inbox.received(), key=lambda one: one.at)
    assert (other.path.endswith("other"), first.at - refused.at >= 0.3) == (True, True)


def test_a_refusal_of_requests_that_were_under_way_is_marked(inbox: Inbox) -> None:
    with open_sender(200, sending_to(inbox)) as sender:
        sender.add([(1, "status/429"), (1, "status/429")])
        refused = collect(sender, 2)
    assert sorted(outcome.repeats_refusal for _, outcome in refused if outcome) == [False, True]


def test_requests_to_a_receiver_with_a_limit_begin_at_its_interval(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted, original = [], ReceiverRate.accepted

    def noted(self: ReceiverRate, now: float) -> None:
        accepted.append(now)
        original(self, now)

    monkeypatch.setattr(receiver_rate, "REST", 0.1)
    monkeypatch.setattr(ReceiverRate, "accepted", noted)
    with open_sender(200, sending_to(inbox)) as sender:
        for item in ("status/429", "ok", "status/429"):
            sender.add([(1, item)])
            collect(sender, 1)
        sender.add([(1, f"ok/{number}") for number in range(4)])
        collect(sender, 4)
        for item in ("retry-after/429/1", "ok"):
            sender.add([(1, item)])
            collect(sender, 1)
        sender._queue._webhooks[1].cap = 500  # as after many answers
        assert 0 < sender.capacity(1, 1000) <= HELD_SECONDS / 0.09
    assert len(accepted) == 6
    *times, refused, last = (one.at for one in inbox.received()[-6:])
    assert last - refused >= 1, "the end of an interval does not end a rest"
    assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(times))


def test_what_was_learned_of_a_receiver_does_not_count_for_the_next_one(inbox: Inbox) -> None:
    queue = FairQueue[str](64)
    sender = Sender(queue, sending_to(inbox), receiver=lambda item: item)
    sender.send_until = elapsed() + HOUR
    sender.add([(1, "retry-after/429/3600"), (1, "held")])
    collect(sender, 1)
    sender.add([(1, "ok")] * 50)
    assert Counter(item for item, _ in collect(sender, 50)) == {"ok": 50}
    inbox.release()
    collect(sender, 1)
    sender.close()


def test_a_receiver_that_answers_at_once_gets_few_connections(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    start, poll = Transport.start, Transport.poll
    in_flight: list[Request] = []

    def start_noted(self: Transport, request: Request, done: Callable[[Outcome], None]) -> None:
        def noted(outcome: Outcome) -> None:
            in_flight.remove(request)
            done(outcome)

        in_flight.append(request)
        start(self, request, noted)

    def poll_until_answered(self: Transport, seconds: float) -> None:
        while in_flight:  # so the receiver is fast on any machine
            poll(self)
        poll(self, seconds)

    monkeypatch.setattr(Transport, "start", start_noted)
    monkeypatch.setattr(Transport, "poll", poll_until_answered)
    with open_sender(200, sending_to(inbox)) as sender:
        sender.add([(number % 20, "ok") for number in range(600)])
        assert all(outcome and outcome.succeeded for _, outcome in collect(sender, 600))
    assert len({one.connection for one in inbox.received()}) == STARTED_AT_ONCE


def test_who_waits_for_new_items_does_not_wait_for_earlier_ones_that_hang(inbox: Inbox) -> None:
    with open_sender(8, sending_to(inbox)) as sender:
        sender.add([(1, "hang"), (2, "hang")])
        until(lambda: len(inbox.received()) == 2, 20, "the requests that hang")
        assert sender.outcomes(0, only_new=True) == []
        sender.add([(1, "ok"), (3, "ok")])
        began = elapsed()
        ended = sender.outcomes(HOUR, only_new=True)
        assert sorted(item for item, _ in ended) == ["ok", "ok"]
        assert sender.outcomes(HOUR, only_new=True) == []
        assert elapsed() - began < HOUR / 2


def test_items_that_wait_to_be_prepared_do_not_hold_up_the_others() -> None:
    made = Requests(blocked=("template", "slow template"))
    with open_sender(4, made.compose, {"template": 2, "slow template": 1}) as sender:
        for webhook in range(20):
            sender.add([(webhook, "template")])
            sender.add([(100 + webhook, "slow template")])
        until(lambda: sender.outcomes(0.01) == [] and made.at_once == 3, 10, "as many as the limits allow")
        for number in range(100):
            sender.add([(200 + number % 3, "quick")])
        assert {item for item, _ in collect(sender, 100)} == {"quick"}
        assert made.at_once == 3
        made.go_on.set()
        assert sorted(item for item, _ in collect(sender, 40)) == ["slow template"] * 20 + ["template"] * 20


def test_the_next_item_of_a_group_is_prepared_while_the_first_is_sent(inbox: Inbox) -> None:
    with open_sender(8, lambda item: Request(inbox.url("hang"), {}, b"{}", 30), {"slow": 1}) as sender:
        sender.add([(webhook, "slow") for webhook in range(3)])
        until(lambda: sender.outcomes(0.01) == [] and len(inbox.received()) == 3, 20, "all to be sent")


def test_requests_that_code_of_the_project_does_not_return_fail_and_the_next_ones_are_made() -> None:
    requests = Requests(blocked=("hangs",))
    with open_sender(100, requests.compose, {"hangs": 2, "quick": 2}, longest=0.1) as sender:
        sender.add([(1, "hangs") for _ in range(20)])
        sender.add([(2, "hangs"), (3, "quick")])
        ended = collect(sender, 22)
        reasons = Counter(outcome and (outcome.kind, outcome.reason) for _, outcome in ended)
        late = (ErrorKind.AUTH, "the code in AUTH or HOOKS did not return within 0 s")
        stuck = (ErrorKind.AUTH, f"the code in AUTH or HOOKS did not return from {MOST_STUCK} earlier calls")
        assert reasons == {late: MOST_STUCK + 1, stuck: 20 - MOST_STUCK, (ErrorKind.BLOCKED, "quick"): 1}
        assert requests.at_once == MOST_STUCK + 1
        requests.go_on.set()
        until(lambda: requests.at_once == 0, 10, "the threads to return")
        assert not sender.is_busy
        sender.add([(1, "hangs")])
        [(_, outcome)] = collect(sender, 1)
        assert outcome
        assert outcome.kind == ErrorKind.BLOCKED


def test_if_the_thread_that_sends_has_ended_the_worker_ends_too(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leases end, and other workers send what it held."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with open_sender(8, sending_to(inbox)) as sender:
        monkeypatch.setattr(Transport, "start", None)
        sender.add([(1, "ok")])
        with pytest.raises(RuntimeError, match="has ended"):
            collect(sender, 1)


@pytest.mark.parametrize("is_late_at_first", [True, False], ids=["before", "while it is composed"])
def test_an_item_is_not_sent_after_the_lease_has_ended(is_late_at_first: bool) -> None:
    def compose(item: str) -> Request:
        assert not is_late_at_first
        sender.send_until = elapsed() - 1
        return REQUEST

    with open_sender(1, compose) as sender:
        if is_late_at_first:
            sender.send_until = elapsed() - 1
        sender.add([(1, "a")])
        assert collect(sender, 1) == [("a", None)]


def test_an_item_with_credentials_of_the_host_is_not_sent_after_the_lease_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread sends it itself."""

    def compose(item: str) -> Request:
        sender.send_until = elapsed() - 1
        return replace(REQUEST, converse=lambda request, conversation: None)

    sent: list[Request] = []
    monkeypatch.setattr("webhooks.workers.sender.exchange", lambda request, now: sent.append(request))
    with open_sender(1, compose, {"auth": 1}) as sender:
        sender.add([(1, "auth")])
        assert collect(sender, 1) == [("auth", None)]
    assert not sent


def test_a_request_that_cannot_be_composed_is_an_outcome_with_the_reason() -> None:
    def compose(item: str) -> Request:
        raise KeyError(item)

    with open_sender(1, compose) as sender:
        sender.add([(1, "a")])
        [(_, outcome)] = collect(sender, 1)
    assert outcome is not None
    assert outcome.reason == "the request could not be made: 'a'"
