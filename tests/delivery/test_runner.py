"""One worker, and several at once, with real receivers; then a state machine that checks the invariants."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DataError
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.draining import STATE, drain, states, sweep_step, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.tables import empty_all_tables
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.delivery import claims, sweep
from webhooks.delivery import outcomes as delivering
from webhooks.delivery.claims import ClaimedDelivery
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.next_turn import Aim, Step
from webhooks.ground.conf import conf
from webhooks.ground.db import elapsed
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.models import Attempt, Delivery, QueuedDelivery, State, Webhook, Worker
from webhooks.models.delivery import SUCCEEDED
from webhooks.models.queue import ENDED_STATES, HEAD_STATES, QUEUED_STATES
from webhooks.operations import kinds
from webhooks.testing import deliver
from webhooks.workers import runner as runner_module
from webhooks.workers import sender
from webhooks.workers.fair_queue import FairQueue
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

HOUR = 3600


@pytest.mark.parametrize("behaviour", ["hang", "drip-body", "endless"])
def test_a_misbehaving_receiver_does_not_delay_the_others(inbox: Inbox, webhooks_settings: Any, behaviour: str) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    bad = make_webhook(Thing, url=inbox.url(behaviour), timeout=HOUR)
    good = make_webhook(Thing, url=inbox.url())
    for number in range(20):
        make_event(bad, good, object_id=str(number))
    drain_until(good, 20)


def drain_until(webhook: Webhook, count: int) -> None:
    """Work like a worker that is stopped when one webhook has got all of its deliveries."""
    runner = DeliveryRunner("test")
    succeeded = webhook.deliveries.in_states(State.SUCCEEDED)
    try:
        until(lambda: runner.run(0.2) or succeeded.count() == count, 60, f"{count} deliveries")
    finally:
        runner.close(grace=0)


def test_hanging_receivers_do_not_hold_up_the_others(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(SENDERS=32, RETRY_SCHEDULE=[])
    hung = [make_webhook(Thing, url=inbox.url("hang"), timeout=HOUR) for _ in range(10)]
    good = make_webhook(Thing, url=inbox.url())
    for number in range(50):
        make_event(*hung, object_id=str(number))
    for number in range(30):
        make_event(good, object_id=str(number))
    drain_until(good, 30)


def test_a_fast_receiver_with_a_backlog_that_begins_to_hang_does_not_hold_up_the_others(
    inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(SENDERS=64, BATCH=32)
    fast = make_webhook(Thing, url=inbox.url("hang-after-first/100"), timeout=HOUR)
    good = make_webhook(Thing, url=inbox.url())
    for number in range(300):
        make_event(fast, object_id=str(number))
    runner = DeliveryRunner("test")
    queue = runner._sender._queue
    until(lambda: runner.run(0.2, wait=False) or queue.in_flight == 32, 20, "half of all requests, which hang")
    for _ in range(20):
        runner.run(0.2, wait=False)
    assert queue.waiting(fast.pk) >= 32
    make_event(good)
    dispatch()  # by another worker
    until(lambda: runner.run(0.2, wait=False) or inbox.received("ok"), 5, "the request to the other receiver")
    runner.close(grace=0)


def test_tests_of_hosts_wait_for_no_rest_of_a_receiver(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[])
    webhook = make_webhook(Thing, url=inbox.url("retry-after/429/3600"))
    for number in range(8):
        make_event(webhook, object_id=str(number))
    assert [one.status for one in deliver(seconds=10)] == [429] * 8


@pytest.fixture
def hung_runner(inbox: Inbox) -> Iterator[DeliveryRunner]:
    """A worker with a request in flight that does not end, and nothing else to do."""
    runner = DeliveryRunner("test")
    make_event(make_webhook(Thing, url=inbox.url("hang"), timeout=HOUR))
    until(lambda: runner.run(5, wait=False) or inbox.received(), 20, "the request")
    yield runner
    runner.close(grace=0)


def test_a_worker_whose_requests_all_hang_waits_for_a_wake_up_and_for_nothing_else(
    hung_runner: DeliveryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new event would have to wait, too."""
    waits = list[float]()
    outcomes = hung_runner._sender.outcomes
    monkeypatch.setattr(
        hung_runner._sender, "outcomes", lambda wait, **more: waits.append(wait) or outcomes(wait, **more)
    )
    hung_runner.run(60, wait=False)
    assert waits == [0]


def test_a_worker_waits_a_moment_for_others_after_requests_have_ended(
    hung_runner: DeliveryRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, ended = list[float](), iter([1, 0])
    monkeypatch.setattr(hung_runner, "_wait", lambda seconds: waits.append(seconds) or next(ended))
    hung_runner.run(60, wait=False)
    assert waits == [0, runner_module.SHORT_WAIT]


def test_a_worker_with_new_events_all_the_time_looks_for_due_deliveries_a_few_times_a_second(
    hung_runner: DeliveryRunner, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[bool]()
    due = hung_runner._claims._due
    monkeypatch.setattr(hung_runner._claims, "_due", lambda: looks.append(True) or due())

    def looks_of_a_turn(is_behind: bool = True) -> int:
        looks.clear()
        hung_runner._is_behind = is_behind
        hung_runner._take_steps(Aim.WORK, Step.BEGIN, until=Step.WAIT)
        return len(looks)

    hung_runner._take_steps(Aim.WORK, Step.BEGIN, until=Step.WAIT)
    assert looks_of_a_turn() == 0, "nothing was due a moment ago"
    assert looks_of_a_turn(is_behind=False) == 1
    monkeypatch.setattr(claims, "ASK_EVERY", 0.0)
    assert [looks_of_a_turn(is_behind=False), looks_of_a_turn()] == [1, 1], "that was a while ago"
    monkeypatch.setattr(claims, "ASK_EVERY", 3600.0)
    looks_of_a_turn(is_behind=False)
    make_event(make_webhook(Thing, url=inbox.url("ok")), make_webhook(Thing, enabled=False))
    assert looks_of_a_turn() == 0
    assert looks_of_a_turn() == 1, "a delivery of the disabled webhook was not claimed"


@pytest.mark.parametrize("is_woken", [True, False], ids=["woken", "found nothing before"])
def test_a_worker_that_is_woken_or_found_nothing_sends_new_events_before_it_looks_for_other_work(
    hung_runner: DeliveryRunner, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, is_woken: bool
) -> None:
    if not is_woken:
        hung_runner.run(60, wait=False)
    steps = list[str]()
    claim_due = hung_runner._claims.claim_due
    monkeypatch.setattr(runner_module, "dispatch", lambda *args: steps.append("dispatch") or dispatch(*args))
    monkeypatch.setattr(hung_runner._claims, "claim_due", lambda *given: steps.append("claim") or claim_due(*given))
    good = make_webhook(Thing, url=inbox.url("ok"))
    make_event(good)
    hung_runner.run(60, wait=False, is_woken=is_woken)
    assert steps[:2] == ["dispatch", "claim"]
    until(lambda: hung_runner.run(5, wait=False) or inbox.received("ok"), 20, "the request")


def test_a_slow_attempt_keeps_its_claim_by_renewing_it(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url("held")))
    runner = DeliveryRunner("test")
    runner.run(0.1)
    inbox.wait_for(1)
    Worker.objects.update(lease_until=timezone.now() + timedelta(seconds=1))
    runner._claims._renewed -= conf.lease / 3
    runner.poll()
    assert Worker.objects.get().lease_until > timezone.now() + timedelta(seconds=5)
    inbox.release()
    runner.close(grace=60)
    assert states() == [State.SUCCEEDED]


def test_a_slice_ends_with_its_requests_in_flight_and_hands_back_waiting_deliveries(
    inbox: Inbox, webhooks_settings: Any
) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    webhook = make_webhook(Thing, url=inbox.url("hang"), timeout=4)
    for number in range(14):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    runner.run(0.5)
    assert states() == [State.SENDING] * 14
    runner.finish()
    assert states() == [State.PENDING] * 14
    assert 2 <= Attempt.objects.count() <= 4
    assert QueuedDelivery.objects.filter(attempts=0, failures=0).count() >= 10
    runner.close(grace=0)


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (lambda webhook, url: webhook.delete(), 0),
        (lambda webhook, url: Webhook.objects.filter(pk=webhook.pk).delete(), 0),
        (lambda webhook, url: Webhook.objects.update(enabled=False), 0),
        (lambda webhook, url: Webhook.objects.all().pause(None), 0),
        (lambda webhook, url: Webhook.objects.update(payload_url=url), 8),
    ],
    ids=["delete", "delete many", "disable", "pause", "another URL"],
)
def test_what_waits_in_a_worker_is_not_sent_after_its_webhook_was_changed(
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Webhook, str], Any],
    sent: int,
) -> None:
    webhook = make_webhook(Thing, url=inbox.url("held"), timeout=60)
    for number in range(10):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    runner.run(0.5)
    inbox.wait_for(2)
    assert states() == [State.SENDING] * 10
    change(webhook, inbox.url("ok"))
    runner._claims._checked_edits -= claims.CHECK_EDITS_EVERY
    runner.run(0.5, wait=False)
    assert len(inbox.received("held")) == 2
    inbox.release()
    until(lambda: runner.run(0.5, wait=False) or runner.is_idle, 20, "the end of what is under way")
    assert [len(inbox.received(one)) for one in ("held", "ok")] == [2, sent]
    runner.close(grace=0)


def test_a_worker_that_looks_at_the_webhooks_of_what_it_holds_changes_no_delivery_whose_webhook_is_the_same(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make_webhook(Thing, url=inbox.url("held"), timeout=60, secret="a secret", custom_events=["one"])
    for number in range(10):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    runner.run(0.5)
    Webhook.objects.update(last_success_at=timezone.now(), failures_in_a_row=3)
    monkeypatch.setattr(runner._claims, "hand_back", lambda *args: pytest.fail("It handed deliveries back"))
    runner._claims._hand_back_changed()
    monkeypatch.undo()
    runner.close(grace=0)


def test_a_worker_that_wakes_up_after_its_lease_sends_nothing_and_hands_it_back(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    awake = elapsed
    # The machine was suspended, so the lease has ended for other workers.
    monkeypatch.setattr(sender, "elapsed", lambda: awake() + 3600)
    runner = DeliveryRunner("test")
    assert runner._dispatch() == 1
    assert states() == [State.SENDING]
    until(lambda: runner.poll() or not runner.is_busy, 10, "it to be handed back")
    assert states() == [State.PENDING]
    assert inbox.received() == []
    runner.close(grace=0)


def test_attempts_and_claims_name_the_host_and_the_process(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    runner = DeliveryRunner()
    runner.run(60)
    process = f"{socket.gethostname()}:{os.getpid()}"
    assert [worker.name for worker in Worker.objects.all()] == [process]
    runner.close(grace=0)
    assert [attempt.worker for attempt in Attempt.objects.all()] == [process]


def test_a_worker_that_closes_hands_back_unfinished_deliveries(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("slow/30"), timeout=60)
    for number in range(10):
        make_event(webhook, object_id=str(number))
    runner = DeliveryRunner("test")
    runner.run(0.5)
    assert State.SENDING in states()
    started = time.monotonic()
    runner.close(grace=0.2)
    assert time.monotonic() - started < 20
    assert states() == [State.PENDING] * 10
    assert not QueuedDelivery.objects.filter(attempts__gt=0).exists()


def test_a_worker_that_closes_records_requests_that_end_in_time(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url("held")))
    runner = DeliveryRunner("test")
    runner.run(0.1)
    inbox.wait_for(1)
    inbox.release()
    runner.close(grace=60)
    assert states() == [State.SUCCEEDED]


def test_an_attempt_that_the_database_refuses_does_not_stop_the_others(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    def refuse(using: str, outcomes: Any, *more: Any) -> None:
        if any(outcome.status == 418 for _, outcome in outcomes):
            raise DataError("no such text")
        insert(using, outcomes, *more)

    webhooks_settings(RETRY_SCHEDULE=[])
    insert = delivering._insert_attempts
    monkeypatch.setattr(delivering, "_insert_attempts", refuse)
    make_event(make_webhook(Thing, url=inbox.url("status/418")))
    make_event(make_webhook(Thing, url=inbox.url()))
    runner = DeliveryRunner("test")

    def have_ended() -> bool:
        runner.run(60)
        Worker.objects.exclude(token=runner._claims._token).update(lease_until=timezone.now() - timedelta(seconds=1))
        sweep_step(sweep.expire_leases)
        return sorted(states()) == [State.FAILED, State.SUCCEEDED]

    until(have_ended, 20, "both to end")
    runner.close(grace=0)
    assert Attempt.objects.get(succeeded=False).reason == ErrorKind.WORKER_ENDED.label
    assert "Attempts could not be stored" in app_log.text


class Scarce:
    """A system that refuses to start the thread that sends so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refused: float) -> None:
        start = threading.Thread.start
        self.refused = refused

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("webhooks-sender") and self.refused > 0:
                self.refused -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_thread_that_cannot_start_is_tried_again(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    Scarce(monkeypatch, refused=3)
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(5):
        make_event(webhook, object_id=str(number))
    drain()
    assert states() == [State.SUCCEEDED] * 5
    assert app_log.text.count("The worker cannot start the thread that sends") == 1


def test_a_slice_without_threads_hands_all_deliveries_back(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(monkeypatch, refused=float("inf"))
    make_event(make_webhook(Thing, url=inbox.url()))
    work_for(0.2)
    assert states() == [State.PENDING]
    assert not QueuedDelivery.objects.filter(attempts__gt=0).exists()


def test_two_workers_at_once_send_each_delivery_once_and_in_order(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(200):
        make_event(webhook, object_id=str(number % 10), data=json.dumps({"id": number % 10, "number": number}))
    for worker in [Beside(lambda: work_for(60)) for _ in range(3)]:
        worker.join(60)
    until(lambda: set(states()) == {State.SUCCEEDED}, 5, "all to succeed")
    received = [one.json["data"] for one in inbox.received()]
    assert len(received) == 200
    for object_id in range(10):
        numbers = [one["number"] for one in received if one["id"] == object_id]
        assert numbers == sorted(numbers)


# A state machine: two workers. Each request ends as the machine decides, or never. The rows are real.

RETRY_SCHEDULE = [100, 200]

ENDED = set(ENDED_STATES)

OUTCOMES: dict[str, dict[str, Any]] = {
    "success": {"status": 200},
    "error": {"status": 503, "reason": "HTTP 503"},
    "timeout": {"timed_out": True, "reason": "no answer"},
    "overload": {"status": 429, "reason": "HTTP 429", "retry_after": 5.0},
    "gone": {"status": 410, "reason": "HTTP 410"},
}

# What happens often is named often.
ANSWERS = st.sampled_from(["success"] * 5 + ["error"] * 4 + ["timeout", "overload", "gone"])


class Requests:
    """In the place of the senders: requests that end when the machine says so."""

    def __init__(self, most: int, sent: Callable[[ClaimedDelivery], None]) -> None:
        self._most, self._sent = most, sent
        self._queue: FairQueue[ClaimedDelivery] = FairQueue(most)
        self.capacity, self.remove, self.ready = self._queue.capacity, self._queue.remove, self._queue.ready
        self.under_way: list[ClaimedDelivery] = []
        self._ended: list[tuple[ClaimedDelivery, Outcome | None]] = []
        self.send_until = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self.under_way or self._ended)

    def add(self, items: Iterable[tuple[int, ClaimedDelivery]]) -> None:
        for webhook, item in items:
            self._queue.add(webhook, item)
        self._begin()

    def _begin(self) -> None:
        while len(self.under_way) < self._most and (taken := self._queue.take()):
            if elapsed() < self.send_until:
                self._sent(taken[1])
                self.under_way.append(taken[1])
            else:  # too late to be sent, as the senders have it
                self._queue.ended(taken[1].webhook.pk, timed_out=False)
                self._ended.append((taken[1], None))

    def end(self, which: int, how: str) -> None:
        claimed = self.under_way.pop(which % len(self.under_way))
        outcome = Outcome(datetime.now(UTC), 1, **OUTCOMES[how])
        self._queue.ended(claimed.webhook.pk, outcome.timed_out)
        self._ended.append((claimed, outcome))
        self._begin()

    def outcomes(
        self, wait: float, collects: bool = True, only_new: bool = False
    ) -> list[tuple[ClaimedDelivery, Outcome | None]]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        pass


def tokens_of(*workers: DeliveryRunner) -> set[uuid.UUID]:
    """The tokens of workers, and the tokens of earlier claims that they still hold."""
    held = {claimed.token for worker in workers for claimed in worker._claims.claimed.values()}
    return held | {worker._claims._token for worker in workers if worker._claims._token}


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        empty_all_tables()
        self.webhooks = [make_webhook(Thing), make_webhook(Thing, ordered=False)]
        self.first_sent: dict[tuple[int, int | None], list[int]] = defaultdict(list)
        self.sent: set[uuid.UUID] = set()
        self.ever_discarded: set[uuid.UUID] = set()
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> DeliveryRunner:
        runner = DeliveryRunner("worker")
        runner._sender = runner._claims._sender = Requests(3, self.on_sent)  # type: ignore[assignment]
        return runner

    def on_sent(self, claimed: ClaimedDelivery) -> None:
        row = Delivery.objects.get(pk=claimed.id)
        is_held = QueuedDelivery.objects.claimed([claimed.token]).filter(pk=claimed.id).exists()
        assert is_held, f"{row.state} was sent, by a claim of the past"
        lane = self.first_sent[row.webhook_id, row.lane]
        if row.pk not in self.sent and row.webhook.ordered and row.pk not in self.ever_discarded:
            assert not lane or row.event_id > lane[-1], "a later one of its lane was sent before it"
            lane.append(row.event_id)
        self.sent.add(row.pk)

    def turn(self, worker: DeliveryRunner) -> None:
        worker._recorded = float("-inf")  # record now, however fast this machine is
        worker._claims.renew()
        worker._claims.claim_due()
        worker._wait(0)
        worker._take_steps(Aim.WORK, Step.WAIT, until=Step.SWEEP)

    @rule(thing=st.integers(1, 2), wanted=st.sampled_from([[0], [1], [0, 1]]))
    def change(self, thing: int, wanted: list[int]) -> None:
        make_event(*[self.webhooks[number] for number in wanted], object_id=str(thing))

    @rule(which=st.integers(0, 2))
    def dispatch(self, which: int) -> None:
        """By a worker that claims at once, or by another one."""
        dispatch(self.workers[which]._claims if which < 2 else None)

    @rule(which=st.integers(0, 1))
    def work(self, which: int) -> None:
        self.turn(self.workers[which])

    @rule(which=st.integers(0, 1), request=st.integers(0, 10), how=ANSWERS, is_recorded=st.booleans())
    def answer(self, which: int, request: int, how: str, is_recorded: bool) -> None:
        requests: Any = self.workers[which]._sender
        if requests.under_way:
            requests.end(request, how)
            if is_recorded:
                self.turn(self.workers[which])

    @rule(which=st.integers(0, 1))
    def kill(self, which: int) -> None:
        self.workers[which] = self.worker()

    @rule(which=st.integers(0, 1))
    def stop_warmly(self, which: int) -> None:
        self.workers[which].close(grace=0)
        self.workers[which] = self.worker()

    @rule(which=st.integers(0, 1), is_taken_back=st.booleans())
    def stall(self, which: int, is_taken_back: bool) -> None:
        """A worker is stopped for longer than its lease."""
        worker = self.workers[which]
        worker._claims._renewed -= 1000
        worker._sender.send_until -= 1000
        Worker.objects.filter(pk__in=tokens_of(worker)).update(lease_until=timezone.now() - timedelta(seconds=1))
        if is_taken_back:
            sweep_step(sweep.expire_leases)

    @rule()
    def leases_of_the_dead_end(self) -> None:
        alive = tokens_of(*self.workers)
        Worker.objects.exclude(pk__in=alive).update(lease_until=timezone.now() - timedelta(seconds=1))
        sweep_step(sweep.expire_leases)

    @rule()
    def retries_fall_due(self) -> None:
        QueuedDelivery.objects.filter(state=State.PENDING).update(due_at=timezone.now())

    @rule()
    def probes_fall_due(self) -> None:
        Webhook.objects.paused().update(probe_at=timezone.now())

    @rule()
    def heads_overstay(self) -> None:
        failing = QueuedDelivery.objects.filter(failing_since__isnull=False)
        failing.update(failing_since=timezone.now() - timedelta(days=1))
        sweep_step(sweep.unblock_lanes)

    @rule()
    def sweep(self) -> None:
        sweep.sweep()

    @precondition(lambda self: Delivery.objects.exists())
    @rule(which=st.integers(0, 100))
    def retry(self, which: int) -> None:
        kinds.RETRY.perform(self.some(which))

    @precondition(lambda self: Delivery.objects.exists())
    @rule(which=st.integers(0, 100))
    def discard(self, which: int) -> None:
        chosen = self.some(which)
        self.ever_discarded |= set(chosen.values_list("pk", flat=True))
        kinds.DISCARD.perform(chosen)

    def some(self, which: int) -> Any:
        pks = list(Delivery.objects.order_by("pk").values_list("pk", flat=True))
        return Delivery.objects.filter(pk=pks[which % len(pks)])

    @rule()
    def resume(self) -> None:
        Webhook.objects.all().resume()

    @rule(which=st.integers(0, 1), enabled=st.booleans())
    def switch(self, which: int, enabled: bool) -> None:
        webhook = Webhook.objects.get(pk=self.webhooks[which].pk)
        webhook.enabled = enabled
        webhook.save()

    @invariant()
    def each_lane_has_a_head_and_no_more_than_one(self) -> None:
        heads: dict[tuple[int, int], int] = defaultdict(int)
        in_lanes = QueuedDelivery.objects.filter(state__in=HEAD_STATES, in_lane=True)
        for webhook, lane in in_lanes.values_list("webhook", "lane"):
            heads[webhook, lane] += 1
        assert set(heads.values()) <= {1}
        waiting = set(QueuedDelivery.objects.filter(state=State.WAITING).values_list("webhook", "lane"))
        assert waiting <= set(heads), "some wait behind nobody"

    @invariant()
    def rows_are_consistent(self) -> None:
        attempts: dict[uuid.UUID, list[tuple[int, bool]]] = defaultdict(list)
        for pk, number, succeeded in Attempt.objects.values_list("delivery", "number", "succeeded"):
            attempts[pk].append((number, succeeded))
        for row in Delivery.objects.select_related("queued"):
            mine = attempts[row.pk]
            assert [number for number, _ in mine] == list(range(1, row.attempt_count + 1)), "attempts are counted"
            queued = getattr(row, "queued", None)
            assert (row.state in QUEUED_STATES) == (queued is not None)
            assert (row.state == State.SENDING) == (queued is not None and queued.claim is not None)
            assert row.state not in ENDED or row.outcome == row.state
            assert (row.state == State.DISCARDED) == (row.discarded_at is not None)
            assert (row.state in ENDED) == (row.finished_at is not None)
            assert queued is None or queued.failures <= len(RETRY_SCHEDULE) + 1
            assert (row.state == State.SUCCEEDED) == any(succeeded for _, succeeded in mine), "a success is the end"
            if queued and row.state == State.FAILED:
                assert queued.failures == len(RETRY_SCHEDULE) + 1, "the whole schedule was tried"

    def teardown(self) -> None:
        """Every state has a way out: a good receiver, an admin and a few turns bring all to a good end."""
        for webhook in Webhook.objects.all():
            webhook.enabled = True
            webhook.save()
        Webhook.objects.all().resume()
        self.leases_of_the_dead_end()
        kinds.RETRY.perform(Delivery.objects.all())
        for _ in range(200):
            self.retries_fall_due()
            dispatch()
            for worker in self.workers:
                while worker._sender.under_way:  # type: ignore[attr-defined]
                    worker._sender.end(0, "success")  # type: ignore[attr-defined]
                self.turn(worker)
            Webhook.objects.all().resume()  # what had failed before may have been recorded only now
            kinds.RETRY.perform(Delivery.objects.all())
            Webhook.objects.update(enabled=True)
            if not Delivery.objects.exclude(SUCCEEDED).exists():
                break
        self.each_lane_has_a_head_and_no_more_than_one()
        self.rows_are_consistent()
        states = list(Delivery.objects.exclude(SUCCEEDED).values_list(STATE, "queued__in_lane"))
        assert not states, f"there is no way out for {states}"


def test_a_delivery_that_a_stalled_worker_sends_twice_is_recorded_once(database: str, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=RETRY_SCHEDULE, SENDERS=3)
    machine = Machine()
    machine.change(thing=1, wanted=[1])
    machine.dispatch(which=2)
    machine.work(which=0)
    machine.stall(which=0, is_taken_back=True)
    machine.work(which=0)
    requests: Any = machine.workers[0]._sender
    assert len(requests.under_way) == 2, "the same delivery, under two claims"
    requests.end(0, "error")
    requests.end(0, "success")
    machine.work(which=0)
    machine.rows_are_consistent()
    assert Delivery.objects.get().state == State.SUCCEEDED


@pytest.mark.slow
def test_the_invariants_hold_in_every_order_of_events(database: str, webhooks_settings: Any, is_long: bool) -> None:
    webhooks_settings(RETRY_SCHEDULE=RETRY_SCHEDULE, PAUSE_AFTER=3, BATCH=4, SENDERS=3)
    examples = 1000 if is_long else 10
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
