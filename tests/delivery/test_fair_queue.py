"""Fair turns between webhooks, and a cap on the requests in flight for each."""

from __future__ import annotations

import heapq
import itertools
import time
import timeit
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.workers.fair_queue import FairQueue


def take_all(queue: FairQueue[str]) -> list[str]:
    taken = []
    while (job := queue.take()) is not None:
        taken.append(job[1])
    return taken


def test_webhooks_take_turns_and_their_items_keep_their_order() -> None:
    queue: FairQueue[str] = FairQueue(8)
    assert queue.take() is None
    for item in ("a1", "a2", "a3"):
        queue.add(1, item)
    queue.add(2, "b1")
    assert take_all(queue) == ["a1", "b1", "a2"], "a third item of the same webhook is over its cap"


def test_a_cap_grows_with_each_answer_up_to_the_maximum() -> None:
    queue: FairQueue[str] = FairQueue(4)
    for number in range(100):
        queue.add(1, str(number))
    caps = [queue.ready()]
    for _ in range(5):
        queue.take()
        queue.ended(1, timed_out=False)
        caps.append(queue.ready())
    assert caps == [2, 3, 4, 4, 4, 4]


def test_a_cap_falls_to_one_on_a_timeout_and_grows_again() -> None:
    queue: FairQueue[str] = FairQueue(8)
    for timed_out in (False, False, True):
        queue.add(1, "x")
        queue.take()
        queue.ended(1, timed_out)
    for item in ("a", "b", "c"):
        queue.add(1, item)
    assert take_all(queue) == ["a"]
    queue.ended(1, timed_out=False)
    assert take_all(queue) == ["b", "c"]


def test_a_webhook_with_costly_answers_is_slow() -> None:
    queue: FairQueue[str] = FairQueue(64)
    for number in range(100):
        queue.add(1, str(number))
    caps = []
    for cost in (0.0, 0.001, 0.03, 0.02, 0.03, 0.001):
        queue.take()
        queue.ended(1, timed_out=False, cost=cost)
        caps.append(queue.ready())
    assert caps == [3, 4, 5, 6, 1, 2], "once they have cost more than 50 ms"


class Timed:
    """Requests to a receiver that has ``slots``, and takes ``seconds`` for each. All have the same timeout."""

    TIMEOUT = 10.0

    def __init__(self, seconds: float, slots: int, count: int) -> None:
        self.queue: FairQueue[str] = FairQueue(512)
        self.seconds, self._free = lambda: seconds, [0.0] * slots
        self._answers: list[tuple[float, float]] = []
        """The time of each answer, and how long it took."""
        self.now = 0.0
        self.timed_out = self.most = 0
        for _ in range(count):
            self.queue.add(1, "x")

    def send_all(self) -> None:
        while self.queue.in_flight or self.queue.waiting(1):
            while self.queue.take():
                end = max(self.now, heapq.heappop(self._free)) + self.seconds()
                heapq.heappush(self._free, end)
                took = min(end - self.now, self.TIMEOUT)
                heapq.heappush(self._answers, (self.now + took, took))
            self.most = max(self.most, self.queue.in_flight)
            self.now, took = heapq.heappop(self._answers)
            self.timed_out += took == self.TIMEOUT
            self.queue.ended(1, timed_out=took == self.TIMEOUT, waited=took / self.TIMEOUT)


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.2, 0.5, 1, 2, 3])
def test_a_receiver_with_few_slots_gets_no_more_than_it_answers_in_time(seconds: float, slots: int) -> None:
    sent = Timed(seconds, slots, 2000)
    sent.send_all()
    assert sent.timed_out == 0
    assert sent.now < 1.2 * 2000 * seconds / slots, "it nearly always has something to do"


@pytest.mark.parametrize("seconds", [0.001, 0.3, 3, 9])
def test_a_receiver_that_takes_long_but_handles_many_at_once_gets_many(seconds: float) -> None:
    sent = Timed(seconds, 1000, 2000)
    sent.send_all()
    assert (sent.timed_out, sent.most) == (0, 256)


def caps_after(*waited: float) -> list[int]:
    queue: FairQueue[str] = FairQueue(512)
    for _ in range(600):
        queue.add(1, "x")
    caps = []
    for share in waited:
        queue.take()
        queue.ended(1, timed_out=False, waited=share)
        caps.append(queue.ready())
    return caps


def test_a_cap_grows_slowly_with_late_answers_and_falls_with_very_late_ones() -> None:
    assert caps_after(0.05, 0.1, 0.11, 0.3, 0.5, 0.5, 0.51, 0.51, 0.11, 0.51) == [3, 4, 4, 4, 4, 5, 5, 4, 4, 4]


def test_answers_that_always_took_long_are_not_late() -> None:
    assert caps_after(0.3, 0.54, 0.54, 0.55, 0.55) == [3, 4, 5, 5, 4]


def test_a_receiver_that_became_slow_for_each_request_gets_more_once_it_got_one_at_a_time() -> None:
    assert caps_after(0.01, 0.6, 0.6, 0.6, 0.6, 0.6) == [3, 2, 1, 2, 3, 4]


def test_a_receiver_whose_answers_vary_much_gets_many() -> None:
    varied, sent = itertools.cycle([5.7, 1.0, 3.1, 4.4, 0.5, 2.6, 5.2]), Timed(0, 1000, 4000)
    sent.seconds = lambda: next(varied)
    sent.send_all()
    assert (sent.timed_out, sent.most) == (0, 256)


def test_a_webhook_that_rests_keeps_its_items_and_does_not_block_the_others() -> None:
    queue: FairQueue[str] = FairQueue(8)
    for webhook, item in ((1, "a"), (1, "b"), (2, "c")):
        queue.add(webhook, item)
    queue.rest(1)
    assert queue.ready() == 1
    queue.add(1, "d")
    assert take_all(queue) == ["c"]
    queue.rest(1, False)
    assert take_all(queue) == ["a", "b"]


def test_a_webhook_at_its_cap_does_not_block_the_others() -> None:
    queue: FairQueue[str] = FairQueue(8)
    for number in range(50):
        queue.add(1, f"hung {number}")
    assert take_all(queue) == ["hung 0", "hung 1"]
    queue.add(2, "fine")
    assert take_all(queue) == ["fine"]
    assert queue.waiting(1) == 48


def test_webhooks_that_grew_and_then_hang_leave_room_for_another_one() -> None:
    queue: FairQueue[str] = FairQueue(64)
    for webhook in range(9):
        for _ in range(100):
            queue.add(webhook, "grows")
        while queue.waiting(webhook) > 50:
            assert queue.take() is not None
            queue.ended(webhook, timed_out=False)
    hanging = len(take_all(queue))
    assert 48 < hanging < 64
    queue.add(100, "healthy")
    assert take_all(queue) == ["healthy"]


def test_one_webhook_alone_has_half_of_all_at_most() -> None:
    queue: FairQueue[str] = FairQueue(64)
    for _ in range(200):
        queue.add(1, "x")
    for _ in range(100):
        queue.take()
        queue.ended(1, timed_out=False)
    assert len(take_all(queue)) == 32


def test_items_that_a_webhook_must_leave_to_the_others_are_not_ready() -> None:
    queue: FairQueue[str] = FairQueue(512)
    for _ in range(800):
        queue.add(1, "fast")
    for _ in range(512):
        queue.take()
        queue.ended(1, timed_out=False)
    for _ in range(256):
        queue.add(1, "hangs")
    take_all(queue)
    assert (queue.in_flight, queue.waiting(1), queue.ready()) == (256, 288, 0)
    queue.add(2, "another")
    assert queue.ready() == 1
    queue.ended(1, timed_out=False)
    assert queue.ready() > 1, "there is room for the first one again"


def test_a_webhook_gets_another_share_unless_more_than_one_is_waiting() -> None:
    queue: FairQueue[str] = FairQueue(8)
    for number in range(5):
        queue.add(1, str(number))
    assert [queue.capacity(1, share) for share in (3, 4, 5, 6)] == [0, 0, 5, 6]


def test_one_sender_takes_one_item_at_a_time() -> None:
    queue: FairQueue[str] = FairQueue(1)
    for item in ("a", "b"):
        queue.add(7, item)
    assert take_all(queue) == ["a"]


def test_a_group_prepares_no_more_at_once_than_its_limit() -> None:
    queue: FairQueue[str] = FairQueue(8, lambda item: "slow" if "slow" in item else "", {"slow": 1})
    for webhook in (1, 2, 3):
        queue.add(webhook, f"slow {webhook}")
        queue.add(10 + webhook, f"plain {webhook}")
    assert queue.ready() == 4
    assert take_all(queue) == ["slow 1", "plain 1", "plain 2", "plain 3"]
    assert queue.ready() == 0
    queue.prepared(1, "slow 1", "slow")
    assert queue.ready() == 1
    assert take_all(queue) == ["slow 2"]


def test_an_item_belongs_to_the_group_that_its_webhook_has_when_it_is_taken() -> None:
    groups = dict.fromkeys("abc", "quick")
    queue: FairQueue[str] = FairQueue(10, lambda item: groups[item], {"quick": 1, "slow": 1})
    for webhook, item in enumerate("abc"):
        queue.add(webhook, item)
    groups |= {"a": "slow", "b": "slow"}
    assert [queue.take() for _ in range(3)] == [(0, "a", "slow"), (2, "c", "quick"), None]
    queue.prepared(0, "a", "slow")
    assert queue.take() == (1, "b", "slow")


def test_a_webhook_that_leaves_its_group_no_longer_waits_for_it() -> None:
    groups = dict.fromkeys("abc", "slow")
    queue: FairQueue[str] = FairQueue(8, lambda item: groups[item], {"slow": 1})
    for webhook, item in ((1, "a"), (1, "b"), (2, "c")):
        queue.add(webhook, item)
    assert take_all(queue) == ["a"]
    groups |= {"a": "", "b": ""}
    queue.prepared(1, "a", "slow")
    assert queue.ready() == 2
    assert take_all(queue) == ["c", "b"]


def seconds_of_ready(webhooks: int) -> float:
    """The least of some tries: in others, Python may have collected garbage."""
    queue: FairQueue[str] = FairQueue(8)
    for webhook in range(webhooks):
        queue.add(webhook, "x")
    assert queue.ready() == webhooks
    return min(timeit.repeat(queue.ready, timer=time.thread_time, number=1000, repeat=5))


@pytest.mark.cost
def test_counting_what_is_ready_takes_no_longer_with_a_thousand_webhooks() -> None:
    assert seconds_of_ready(1000) < 20 * seconds_of_ready(1)


def is_odd(item: tuple[int, int]) -> bool:
    return bool(item[1] % 2)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add"]), st.integers(1, 4))
    | st.tuples(st.sampled_from(["take", "remove"]), st.none())
    | st.tuples(st.sampled_from(["answer", "timeout"]), st.integers(1, 4)),
    max_size=200,
)


@given(steps=STEPS, most=st.integers(1, 6))
def test_no_item_is_lost_repeated_or_reordered_and_caps_hold(steps: list[tuple[str, int]], most: int) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue(most)
    count = 0
    waiting: dict[int, list[tuple[int, int]]] = {webhook: [] for webhook in range(1, 5)}
    flying: Counter[int] = Counter()
    caps = dict.fromkeys(range(1, 5), min(2, most))
    for step, webhook in steps:
        if step == "add":
            count += 1
            waiting[webhook].append((webhook, count))
            queue.add(webhook, (webhook, count))
        elif step == "remove":
            removed = [item for items in waiting.values() for item in items if is_odd(item)]
            assert sorted(queue.remove(is_odd)) == removed
            waiting = {one: [item for item in items if not is_odd(item)] for one, items in waiting.items()}
        elif step == "take":
            if job := queue.take():
                assert job[1] == waiting[job[0]].pop(0)
                flying[job[0]] += 1
                assert flying[job[0]] <= caps[job[0]]
            else:
                free = most - flying.total()
                assert all(flying[w] >= min(caps[w], free) for w in range(1, 5) if queue.waiting(w))
                assert queue.ready() == 0
        elif flying[webhook]:
            flying[webhook] -= 1
            queue.ended(webhook, timed_out=step == "timeout")
            caps[webhook] = 1 if step == "timeout" else min(caps[webhook] + 1, most)
        assert queue.in_flight == flying.total()
        assert all(queue.waiting(w) == len(waiting[w]) for w in range(1, 5))
        may_get = [w for w in range(1, 5) if flying[w] < most - flying.total()]
        assert queue.ready() == sum(min(queue.waiting(w), max(0, caps[w] - flying[w])) for w in may_get)
