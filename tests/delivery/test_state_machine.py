"""Whatever happens to deliveries, in whatever order, the invariants hold: a state machine by Hypothesis.

Two workers, whose requests end as the machine says, or never. The rows are real.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.makers import make_event, make_webhook
from tests.support.tables import empty_all_tables
from tests.testapp.models import Thing
from webhooks.db import elapsed
from webhooks.delivery import maintenance
from webhooks.delivery.claims import Claimed
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.fair_queue import FairQueue
from webhooks.delivery.worker import DeliveryRunner
from webhooks.models import Attempt, Delivery, State, Webhook
from webhooks.network.outcome import Outcome
from webhooks.operations import retries

RETRY_SCHEDULE = [100, 200]

ENDED = {State.SUCCEEDED, State.FAILED, State.DISCARDED}

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

    def __init__(self, most: int, sent: Callable[[Claimed], None]) -> None:
        self._most, self._sent = most, sent
        self._queue: FairQueue[Claimed] = FairQueue(most)
        self.capacity, self.remove = self._queue.capacity, self._queue.remove
        self.under_way: list[Claimed] = []
        self._ended: list[tuple[Claimed, Outcome | None]] = []
        self.send_until = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self.under_way or self._ended)

    def add(self, webhook: int, item: Claimed) -> None:
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

    def outcomes(self, wait: float) -> list[tuple[Claimed, Outcome | None]]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        pass


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        empty_all_tables()
        self.webhooks = [make_webhook(Thing), make_webhook(Thing, ordered=False)]
        self.first_sent: dict[tuple[int, str], list[int]] = defaultdict(list)
        self.sent: set[uuid.UUID] = set()
        self.ever_discarded: set[uuid.UUID] = set()
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> DeliveryRunner:
        runner = DeliveryRunner("worker")
        runner._pool = runner._claims._pool = Requests(3, self.on_sent)  # type: ignore[assignment]
        return runner

    def on_sent(self, claimed: Claimed) -> None:
        row = Delivery.objects.get(pk=claimed.id)
        assert (row.state, row.claim) == (State.SENDING, claimed.token), f"{row.state} was sent, by a claim of the past"
        lane = self.first_sent[row.webhook_id, row.lane]
        if row.pk not in self.sent and row.webhook.ordered and row.pk not in self.ever_discarded:
            assert not lane or row.event_id > lane[-1], "a later one of its lane was sent before it"
            lane.append(row.event_id)
        self.sent.add(row.pk)

    def turn(self, worker: DeliveryRunner) -> None:
        worker._recorded = float("-inf")  # record now, however fast this machine is
        worker._claims.renew()
        worker._claims.claim_due()
        worker._collect(wait=0, claim_next=True)

    @rule(thing=st.integers(1, 2), wanted=st.sampled_from([[0], [1], [0, 1]]))
    def change(self, thing: int, wanted: list[int]) -> None:
        make_event(*[self.webhooks[number] for number in wanted], object_id=str(thing))

    @rule()
    def dispatch(self) -> None:
        dispatch()

    @rule(which=st.integers(0, 1))
    def work(self, which: int) -> None:
        self.turn(self.workers[which])

    @rule(which=st.integers(0, 1), request=st.integers(0, 10), how=ANSWERS, is_recorded=st.booleans())
    def answer(self, which: int, request: int, how: str, is_recorded: bool) -> None:
        requests: Any = self.workers[which]._pool
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
        worker._pool.send_until -= 1000
        for claimed in worker._claims.held():
            held = Delivery.objects.filter(pk=claimed.id).held(claimed.token)
            held.update(lease_until=timezone.now() - timedelta(seconds=1))
        if is_taken_back:
            maintenance.expire_leases()

    @rule()
    def leases_of_the_dead_end(self) -> None:
        held = {claimed.id for worker in self.workers for claimed in worker._claims.held()}
        orphans = Delivery.objects.filter(state=State.SENDING).exclude(pk__in=held)
        orphans.update(lease_until=timezone.now() - timedelta(seconds=1))
        maintenance.expire_leases()

    @rule()
    def retries_fall_due(self) -> None:
        Delivery.objects.filter(state=State.PENDING).update(next_attempt_at=timezone.now())

    @rule()
    def probes_fall_due(self) -> None:
        Webhook.objects.paused().update(probe_at=timezone.now())

    @rule()
    def heads_overstay(self) -> None:
        Delivery.objects.filter(failures__gt=0).update(head_since=timezone.now() - timedelta(days=1))
        maintenance.sweep()

    @rule()
    def sweep(self) -> None:
        maintenance.sweep()

    @precondition(lambda self: Delivery.objects.exists())
    @rule(which=st.integers(0, 100))
    def retry(self, which: int) -> None:
        retries.retry(self.some(which))

    @precondition(lambda self: Delivery.objects.exists())
    @rule(which=st.integers(0, 100))
    def discard(self, which: int) -> None:
        chosen = self.some(which)
        self.ever_discarded |= set(chosen.values_list("pk", flat=True))
        retries.discard(chosen)

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
        heads: dict[tuple[int, str], int] = defaultdict(int)
        for webhook, lane in Delivery.objects.filter(
            state__in=(State.PENDING, State.SENDING), in_lane=True, webhook__ordered=True
        ).values_list("webhook", "lane"):
            heads[webhook, lane] += 1
        assert set(heads.values()) <= {1}
        waiting = set(Delivery.objects.filter(state=State.WAITING).values_list("webhook", "lane"))
        assert waiting <= set(heads), "some wait behind nobody"

    @invariant()
    def rows_are_consistent(self) -> None:
        attempts: dict[uuid.UUID, list[tuple[int, bool]]] = defaultdict(list)
        for pk, number, succeeded in Attempt.objects.values_list("delivery", "number", "succeeded"):
            attempts[pk].append((number, succeeded))
        for row in Delivery.objects.all():
            mine = attempts[row.pk]
            assert [number for number, _ in mine] == list(range(1, row.attempt_count + 1)), "attempts are counted"
            assert (row.state == State.SENDING) == (row.claim is not None) == (row.lease_until is not None)
            assert (row.state in ENDED) == (row.finished_at is not None)
            assert row.failures <= len(RETRY_SCHEDULE) + 1
            assert (row.state == State.SUCCEEDED) == any(succeeded for _, succeeded in mine), "a success is the end"
            if row.state == State.FAILED:
                assert row.failures == len(RETRY_SCHEDULE) + 1, "the whole schedule was tried"

    def teardown(self) -> None:
        """Every state has a way out: a good receiver, an admin and a few turns bring all to a good end."""
        for webhook in Webhook.objects.all():
            webhook.enabled = True
            webhook.clear_failures()
            webhook.save()
        self.leases_of_the_dead_end()
        retries.retry(Delivery.objects.all())
        for _ in range(200):
            self.retries_fall_due()
            dispatch()
            for worker in self.workers:
                while worker._pool.under_way:  # type: ignore[attr-defined]
                    worker._pool.end(0, "success")  # type: ignore[attr-defined]
                self.turn(worker)
            Webhook.objects.all().resume()  # what had failed before may have been recorded only now
            retries.retry(Delivery.objects.all())
            Webhook.objects.update(enabled=True)
            if not Delivery.objects.exclude(state=State.SUCCEEDED).exists():
                break
        self.each_lane_has_a_head_and_no_more_than_one()
        self.rows_are_consistent()
        states = list(Delivery.objects.exclude(state=State.SUCCEEDED).values_list("state", "in_lane"))
        assert not states, f"there is no way out for {states}"


def test_what_a_worker_sent_again_after_a_stall_is_recorded_once(database: str, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=RETRY_SCHEDULE, SENDERS=3)
    machine = Machine()
    machine.change(thing=1, wanted=[1])
    machine.dispatch()
    machine.work(which=0)
    machine.stall(which=0, is_taken_back=True)
    machine.work(which=0)
    requests: Any = machine.workers[0]._pool
    assert len(requests.under_way) == 2, "the same delivery, under two claims"
    requests.end(0, "error")
    requests.end(0, "success")
    machine.work(which=0)
    machine.rows_are_consistent()
    assert Delivery.objects.get().state == State.SUCCEEDED


@pytest.mark.slow
def test_invariants_hold_whatever_happens(
    database: str, webhooks_settings: Any, request: pytest.FixtureRequest
) -> None:
    webhooks_settings(RETRY_SCHEDULE=RETRY_SCHEDULE, PAUSE_AFTER=3, BATCH=4, SENDERS=3)
    examples = 1000 if request.config.getoption("--long") else 10
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
