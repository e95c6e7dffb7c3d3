"""Fair turns between webhooks, and a cap on what is in flight for each."""

from __future__ import annotations

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from webhooks.delivery.fair_queue import Turns


def take_all(turns: Turns[str]) -> list[str]:
    taken = []
    while (job := turns.take()) is not None:
        taken.append(job[1])
    return taken


def test_nothing_waits_at_first() -> None:
    turns: Turns[str] = Turns(8)
    assert turns.take() is None
    assert turns.ready() == turns.waiting(1) == 0


def test_webhooks_take_turns_and_each_ones_items_keep_their_order() -> None:
    turns: Turns[str] = Turns(8)
    for item in ("a1", "a2", "a3"):
        turns.add(1, item)
    turns.add(2, "b1")
    assert take_all(turns) == ["a1", "b1", "a2"], "a third one of the same webhook is above its cap"


def test_a_cap_grows_with_each_answer_up_to_the_most() -> None:
    turns: Turns[str] = Turns(4)
    for number in range(100):
        turns.add(1, str(number))
    caps = [turns.ready()]
    for _ in range(5):
        turns.take()
        turns.ended(1, timed_out=False)
        caps.append(turns.ready())
    assert caps == [2, 3, 4, 4, 4, 4]


def test_a_cap_falls_to_one_on_a_timeout_and_grows_again() -> None:
    turns: Turns[str] = Turns(8)
    for _ in range(3):
        turns.add(1, "x")
        turns.take()
        turns.ended(1, timed_out=False)
    turns.add(1, "y")
    turns.take()
    turns.ended(1, timed_out=True)
    for item in ("a", "b", "c"):
        turns.add(1, item)
    assert take_all(turns) == ["a"]
    turns.ended(1, timed_out=False)
    assert take_all(turns) == ["b", "c"]


def test_a_webhook_at_its_cap_does_not_hold_up_the_others() -> None:
    turns: Turns[str] = Turns(8)
    for number in range(50):
        turns.add(1, f"hung {number}")
    assert take_all(turns) == ["hung 0", "hung 1"]
    turns.add(2, "fine")
    assert take_all(turns) == ["fine"]
    assert turns.waiting(1) == 48


def test_one_sender_is_shared_one_by_one() -> None:
    turns: Turns[str] = Turns(1)
    for item in ("a", "b"):
        turns.add(7, item)
    assert take_all(turns) == ["a"]


def test_a_group_prepares_no_more_at_once_than_its_limit() -> None:
    turns: Turns[str] = Turns(8, {"slow": 1})
    for webhook in (1, 2, 3):
        turns.add(webhook, f"slow {webhook}", "slow")
        turns.add(10 + webhook, f"plain {webhook}")
    assert turns.ready() == 4
    assert take_all(turns) == ["slow 1", "plain 1", "plain 2", "plain 3"]
    assert turns.ready() == 0
    turns.prepared(1, "slow", "slow")
    assert turns.ready() == 1
    assert take_all(turns) == ["slow 2"]
    turns.prepared(2, "slow", "slow")
    assert take_all(turns) == ["slow 3"]


def test_a_webhook_that_leaves_its_group_waits_for_it_no_more() -> None:
    turns: Turns[str] = Turns(8, {"slow": 1})
    for item in ("a", "b"):
        turns.add(1, item, "slow")
    turns.add(2, "c", "slow")
    assert take_all(turns) == ["a"]
    turns.prepared(1, "slow", "")
    assert turns.ready() == 2
    assert take_all(turns) == ["c", "b"]


def seconds_to_tell_what_is_ready(webhooks: int) -> float:
    turns: Turns[str] = Turns(8)
    for webhook in range(webhooks):
        turns.add(webhook, "x")
    began = time.thread_time()
    for _ in range(1000):
        assert turns.ready() == webhooks
    return time.thread_time() - began


def test_what_is_ready_is_told_as_quickly_among_a_thousand_webhooks_as_among_few() -> None:
    assert seconds_to_tell_what_is_ready(1000) < 20 * seconds_to_tell_what_is_ready(1)


def is_odd(item: tuple[int, int]) -> bool:
    return bool(item[1] % 2)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "drop"]), st.integers(1, 4))
    | st.tuples(st.just("remove"), st.none())
    | st.tuples(st.just("take"), st.none())
    | st.tuples(st.sampled_from(["answer", "timeout"]), st.integers(1, 4)),
    max_size=200,
)


@given(steps=STEPS, most=st.integers(1, 6))
def test_nothing_is_lost_doubled_or_reordered_and_no_cap_is_passed(steps: list[tuple[str, int]], most: int) -> None:
    turns: Turns[tuple[int, int]] = Turns(most)
    count = 0
    waiting: dict[int, list[tuple[int, int]]] = {webhook: [] for webhook in range(1, 5)}
    flying: Counter[int] = Counter()
    caps = dict.fromkeys(range(1, 5), min(2, most))
    for step, webhook in steps:
        if step == "add":
            count += 1
            waiting[webhook].append((webhook, count))
            turns.add(webhook, (webhook, count))
        elif step == "drop":
            assert turns.drop(webhook) == waiting[webhook]
            waiting[webhook] = []
        elif step == "remove":
            removed = [item for items in waiting.values() for item in items if is_odd(item)]
            assert sorted(turns.remove(is_odd)) == removed
            waiting = {one: [item for item in items if not is_odd(item)] for one, items in waiting.items()}
        elif step == "take":
            if job := turns.take():
                assert job[1] == waiting[job[0]].pop(0)
                flying[job[0]] += 1
                assert flying[job[0]] <= caps[job[0]]
            else:
                assert all(flying[w] >= caps[w] for w in range(1, 5) if turns.waiting(w))
        elif flying[webhook]:
            flying[webhook] -= 1
            turns.ended(webhook, timed_out=step == "timeout")
            caps[webhook] = 1 if step == "timeout" else min(caps[webhook] + 1, most)
        assert turns.in_flight == flying.total()
        assert all(turns.waiting(w) == len(waiting[w]) for w in range(1, 5))
        assert turns.ready() == sum(min(turns.waiting(w), max(0, caps[w] - flying[w])) for w in range(1, 5))


def test_an_item_goes_with_the_group_that_its_webhook_is_in_when_its_turn_comes() -> None:
    turns: Turns[str] = Turns(10, {"quick": 1, "slow": 1})
    for webhook, item in enumerate("abc"):
        turns.add(webhook, item, "quick")
    paces = {"a": "slow", "b": "slow", "c": "quick"}
    assert [turns.take(paces.get) for _ in range(3)] == [(0, "a", "slow"), (2, "c", "quick"), None]
    turns.prepared(0, "slow", "slow")
    assert turns.take(paces.get) == (1, "b", "slow")
