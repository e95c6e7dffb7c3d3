"""Expired leases, blocked lanes, lanes without a head, and which worker sweeps."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, transaction
from django.utils import timezone

from tests.support.draining import states, sweep_step
from tests.support.makers import make_delivery, make_webhook
from tests.support.servers import SQLITE
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import policy, retention, sweep
from webhooks.delivery.runs.risky import Note
from webhooks.delivery.sweep import LaneCheck, Sweeper
from webhooks.ground.db import execute
from webhooks.ground.outcome import Outcome
from webhooks.models import Delivery, QueuedDelivery, Run, State, Sweep, Webhook, Worker
from webhooks.models.lanes import lane_of
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

AGO = timezone.now() - timedelta(days=365)


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


def test_an_expired_claim_is_returned_and_no_attempt_is_counted(webhook: Webhook) -> None:
    make_delivery(webhook, State.SENDING, object_id="dead", lease_until=timezone.now() - timedelta(seconds=1))
    make_delivery(webhook, State.SENDING, object_id="alive")
    assert sweep_step(sweep.expire_leases) == 1
    assert states() == [State.PENDING, State.SENDING]
    taken = Delivery.objects.in_states(State.PENDING).get()
    assert (taken.attempt_count, taken.queued.claim) == (0, None)


def test_the_claims_of_workers_that_died_are_found_in_parts_of_the_queue(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SEARCHED", 3)
    expired = timezone.now() - timedelta(seconds=1)
    dead = {4, 8, 14, 17}
    for number in range(20):
        one = make_delivery(webhook, State.SENDING if number in dead else State.PENDING, object_id=str(number))
        Worker.objects.filter(token=one.queued.claim).update(lease_until=expired)
    alive = make_delivery(webhook, State.SENDING, object_id="alive")
    assert sweep_step(sweep.expire_leases) == 0, "17 is not among the newest three"
    steps = [sweep_step(sweep.search_claims) for _ in range(4)]
    # Another worker dies while the search is on its way.
    late = Delivery.objects.order_by("pk")[19]
    worker = Worker.objects.create(token=uuid.uuid4(), name="late", lease_until=expired)
    QueuedDelivery.objects.filter(pk=late.pk).update(state=State.SENDING, claim=worker.pk)
    monkeypatch.setattr(sweep, "SEARCHED", 1)
    assert sweep_step(sweep.expire_leases) == 0
    monkeypatch.setattr(sweep, "SEARCHED", 3)
    steps += [sweep_step(sweep.search_claims) for _ in range(8)]
    assert [isinstance(one, sweep.More) for one in steps[:7]] == [True] * 7
    assert sum(steps) == 5
    assert not isinstance(steps[-1], sweep.More), "the search has ended"
    assert set(QueuedDelivery.objects.filter(state=State.SENDING).values_list("pk", flat=True)) == {alive.pk}
    assert sorted(QueuedDelivery.objects.order_by("event").values_list("lost_leases", flat=True)) == [0] * 16 + [1] * 5
    assert (Sweep.objects.get().lost_leases, Sweep.objects.get().ended_leases) == (5, {})


def test_a_search_for_the_claims_of_a_worker_goes_on_in_its_share_of_the_time(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SEARCHED", 1)
    for number in range(9):
        make_delivery(webhook, object_id=str(number))
    middle = QueuedDelivery.objects.order_by("pk")[4]
    worker = Worker.objects.create(token=uuid.uuid4(), name="dead", lease_until=AGO)
    QueuedDelivery.objects.filter(pk=middle.pk).update(state=State.SENDING, claim=worker.pk)
    sweeper = Sweeper()
    sum(step() for step in sweeper._urgent_steps())
    assert State.SENDING in states()
    for _ in range(10):
        sweeper.go_on()
    assert states() == [State.PENDING] * 9
    assert sweeper._unfinished == []


def test_the_deliveries_of_a_worker_that_ended_in_a_step_of_a_run_have_no_loss(webhook: Webhook) -> None:
    """The step has it. A receiver that is slow would have each of its deliveries in flight at each of three losses."""
    expired = timezone.now() - timedelta(seconds=1)
    in_step = make_delivery(webhook, State.SENDING, object_id="step", lease_until=expired)
    other = make_delivery(webhook, State.SENDING, object_id="other", lease_until=expired)
    QueuedDelivery.objects.update(lost_leases=2)
    Run.objects.create(kind="replay", note=Note(in_step.queued.claim.hex, 1, 1).as_dict())
    Run.objects.create(kind="replay", note=Note(losses=1).as_dict())
    assert sweep_step(sweep.expire_leases) == 2
    found = {one.pk: (one.attempt_count, one.queued.lost_leases) for one in Delivery.objects.all()}
    assert found == {in_step.pk: (0, 2), other.pk: (1, 0)}


def test_a_head_that_fails_for_too_long_leaves_its_lane(webhook: Webhook, webhooks_settings: Any) -> None:
    webhooks_settings(LANE_WAIT=100)
    later = timezone.now() + timedelta(hours=1)
    for object_id, age in (("old", 101), ("young", 90)):
        since = timezone.now() - timedelta(seconds=age)
        make_delivery(webhook, object_id=object_id, failures=3, failing_since=since, due_at=later)
        make_delivery(webhook, State.WAITING, object_id=object_id)
    assert sweep_step(sweep.unblock_lanes) == 1
    assert states() == [State.PENDING, State.PENDING, State.PENDING, State.WAITING]
    head = Delivery.objects.order_by("event_id")[0]
    assert (head.in_lane, head.queued.failures, head.queued.failing_since) == (False, 3, None)
    assert sweep_step(sweep.unblock_lanes) == 0


def enable(webhook: Webhook) -> None:
    Webhook.objects.update(enabled=False)
    webhook.refresh_from_db()
    webhook.enabled = True
    webhook.save()


def resume(webhook: Webhook) -> None:
    Webhook.objects.update(probe_at=timezone.now())
    Webhook.objects.resume()


def probe(webhook: Webhook, *answers: Outcome) -> None:
    Webhook.objects.update(probe_at=timezone.now(), failures_in_a_row=9)
    webhook.refresh_from_db()
    with transaction.atomic():
        policy.update_all({webhook: answers})


OK, NOT_OK = Outcome(AGO, 1, status=200), Outcome(AGO, 1, reason="HTTP 500", status=500)


@pytest.mark.parametrize(
    "end_of_stop",
    [enable, resume, lambda webhook: probe(webhook, OK), lambda webhook: probe(webhook, OK, NOT_OK)],
    ids=["enabled", "resumed", "probed", "probed-and-failed"],
)
def test_the_time_of_a_pause_does_not_count_for_its_lanes(
    webhook: Webhook, webhooks_settings: Any, end_of_stop: Callable[[Webhook], None]
) -> None:
    webhooks_settings(LANE_WAIT=100)
    make_delivery(webhook, failures=3, failing_since=AGO)
    make_delivery(webhook, State.WAITING)
    end_of_stop(webhook)
    assert sweep_step(sweep.unblock_lanes) == 0
    Webhook.objects.update(resumed_at=timezone.now() - timedelta(seconds=101))
    assert sweep_step(sweep.unblock_lanes) == 1


def test_all_failed_heads_are_due_after_a_resume_however_many_there_are(webhook: Webhook) -> None:
    later = timezone.now() + timedelta(days=1)
    for number in range(1300):
        since = AGO + timedelta(seconds=number // 10)  # recorded together
        make_delivery(webhook, object_id=str(number), failures=3, failing_since=since, due_at=later)
    probe(webhook, OK)
    due = QueuedDelivery.objects.filter(due_at__lt=timezone.now())
    assert due.count() == 1000
    # These have been sent again and have failed again, another one later than the resume.
    due.update(due_at=later)
    make_delivery(webhook, object_id="new", failures=1, failing_since=timezone.now(), due_at=later)
    assert sum(sweep_step(sweep.hasten_heads) for _ in range(3)) < 320
    left = QueuedDelivery.objects.filter(due_at=later, failing_since__lt=AGO + timedelta(seconds=130))
    assert left.count() == pytest.approx(1000, abs=20)
    assert QueuedDelivery.objects.order_by("event_id").last().due_at == later
    assert set(Webhook.objects.values_list("hastened_to", flat=True)) == {None}


def test_one_step_makes_few_heads_of_all_resumed_webhooks_due(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.models.queue.MOST_HASTENED", 3)
    later = timezone.now() + timedelta(days=1)
    webhooks = [webhook, make_webhook(Thing), make_webhook(Thing)]
    for number in range(6):
        make_delivery(webhooks[number // 2], object_id=str(number), failures=3, failing_since=AGO, due_at=later)
    Webhook.objects.update(resumed_at=timezone.now())
    with transaction.atomic():
        assert QueuedDelivery.objects.hasten_heads([one.pk for one in webhooks]) == 3
    counts = [sweep_step(sweep.hasten_heads) for _ in range(4)]
    assert max(counts) <= 3
    assert not QueuedDelivery.objects.filter(due_at=later).exists()
    assert set(Webhook.objects.values_list("hastened_to", flat=True)) == {None}


@pytest.mark.parametrize("stopped", [{"enabled": False}, {"probe_at": AGO}, {"paused_at": AGO}])
def test_no_more_heads_are_due_while_their_webhook_is_stopped_again(webhook: Webhook, stopped: dict[str, Any]) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO, due_at=timezone.now() + timedelta(days=1))
    Webhook.objects.update(hastened_to=AGO, resumed_at=timezone.now(), **stopped)
    assert sweep_step(sweep.hasten_heads) == 0


def test_a_success_of_a_running_webhook_makes_no_lane_wait_longer(webhook: Webhook) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO)
    Webhook.objects.update(failures_in_a_row=2)
    webhook.refresh_from_db()
    with transaction.atomic():
        policy.update_all({webhook: [OK]})
    webhook.refresh_from_db()
    webhook.save()
    assert (webhook.failures_in_a_row, webhook.resumed_at) == (0, None)
    assert sweep_step(sweep.unblock_lanes) == 1


@pytest.mark.postgresql
def test_a_lane_is_unblocked_while_its_webhook_is_locked(webhook: Webhook) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO)
    with transaction.atomic():
        Webhook.objects.select_for_update(no_key=True).get()
        assert Beside(lambda: sweep_step(sweep.unblock_lanes)).join(5) == 1


@pytest.mark.parametrize("stopped", [{"enabled": False}, {"probe_at": AGO}])
def test_a_lane_of_a_stopped_webhook_is_not_unblocked(webhook: Webhook, stopped: dict[str, Any]) -> None:
    make_delivery(webhook, failures=3, failing_since=AGO)
    Webhook.objects.update(**stopped)
    assert sweep_step(sweep.unblock_lanes) == 0


def test_a_head_that_has_not_failed_keeps_its_lane(webhook: Webhook) -> None:
    make_delivery(webhook, failures=0)
    assert sweep_step(sweep.unblock_lanes) == 0


def test_a_head_that_meanwhile_does_not_fail_any_more_keeps_its_lane(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_delivery(webhook, failures=3, failing_since=AGO)
    lock = sweep.lanes.try_lock

    def lock_after_another(using: str, locked: Any) -> set[int]:
        """The head was given up, and a user retried it."""
        QueuedDelivery.objects.update(failing_since=None, failures=0)
        return lock(using, locked)

    monkeypatch.setattr(sweep.lanes, "try_lock", lock_after_another)
    assert sweep_step(sweep.unblock_lanes) == 0
    head.queued.refresh_from_db()
    assert head.queued.in_lane


def test_a_sweep_of_nothing_changes_nothing() -> None:
    assert sweep.sweep() == 0


# Lanes without a head


@pytest.mark.parametrize("has_retried", [False, True], ids=["", "retried"])
def test_a_lane_whose_head_was_deleted_by_code_goes_on(has_retried: bool) -> None:
    webhook = make_webhook(Thing)
    if has_retried:
        make_delivery(webhook, State.WAITING, overtaken=True)
    head, *_ = [make_delivery(webhook, state) for state in (State.PENDING, State.WAITING, State.WAITING)]
    sweeper = Sweeper()
    assert sweeper.sweep() == 0
    QueuedDelivery.objects.filter(pk=head.pk).delete()
    assert sweeper.sweep() == 1
    queued = QueuedDelivery.objects.order_by("event_id").values_list("state", flat=True)
    assert list(queued) == [State.PENDING, *[State.WAITING] * (2 if has_retried else 1)]
    assert sweeper.sweep() == 0


def test_a_lane_whose_only_delivery_between_attempts_has_left_it_goes_on() -> None:
    webhook = make_webhook(Thing)
    make_delivery(webhook, in_lane=False)
    make_delivery(webhook, State.WAITING)
    assert sweep_step(LaneCheck().check_lanes) == 1
    assert states() == [State.PENDING, State.PENDING]


def test_each_check_of_the_lanes_goes_on_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CHECKED_LANES", 2)
    monkeypatch.setattr(sweep, "CHECK_SECONDS", 1000)
    for webhook in (make_webhook(Thing), make_webhook(Thing)):
        for number in range(3):
            make_delivery(webhook, State.WAITING, object_id=str(number))
    assert [sweep_step(LaneCheck().check_lanes) for _ in range(5)] == [2, 2, 2, 0, 0], "a stock worker keeps no memory"
    assert states() == [State.PENDING] * 6


def test_a_check_looks_at_few_webhooks_without_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CHECKED_LANES", 2)
    monkeypatch.setattr(sweep, "CHECK_SECONDS", 1000)
    *_, last = [make_webhook(Thing) for _ in range(5)]
    make_delivery(last, State.WAITING)
    assert [sweep_step(LaneCheck().check_lanes) for _ in range(3)] == [0, 0, 1]


def test_a_check_of_the_lanes_that_is_slow_looks_at_fewer_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(step=10)
    monkeypatch.setattr(sweep, "elapsed", lambda: next(times))
    monkeypatch.setattr(sweep, "CHECKED_LANES", 3)
    webhook = make_webhook(Thing)
    for number in range(6):
        make_delivery(webhook, State.WAITING, object_id=str(number))
    check = LaneCheck().check_lanes
    assert [check() for _ in range(4)] == [3, 1, 1, 1]


def test_the_lane_of_an_object_may_be_the_lowest_number() -> None:
    webhook = make_webhook(Thing)
    make_delivery(webhook, State.WAITING, lane=-(2**63))
    make_delivery(webhook, State.WAITING, lane=lane_of("a", "1"))
    assert LaneCheck().check_lanes() == 2


def test_a_step_that_fails_stops_no_other_and_rests(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    def expire_leases() -> int:
        tries.append(1)
        raise ValueError("a row that cannot be read")

    tries = list[int]()
    monkeypatch.setattr(sweep, "expire_leases", expire_leases)
    make_delivery(make_webhook(Thing), State.WAITING)
    sweeper = Sweeper()
    assert sweeper.sweep() == 1
    assert states() == [State.PENDING]
    assert sweeper.sweep() == 0
    assert len(tries) == 1
    [record] = app_log.records
    assert record.getMessage() == "The sweep failed at “expire leases”, and tries it again in 60 s"


@pytest.mark.postgresql
def test_a_step_that_takes_too_long_rests_for_many_times_as_long(
    monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    def expire_leases() -> int:
        tries.append(now)
        execute("default", "SET LOCAL statement_timeout = '10ms'")
        monkeypatch.setattr(sweep, "elapsed", lambda: now + 3)
        execute("default", "SELECT pg_sleep(60)")
        return 0

    tries = list[float]()
    monkeypatch.setattr(sweep, "expire_leases", expire_leases)
    sweeper = Sweeper()
    for now in (100.0, 103.0, 162.0, 164.0):
        monkeypatch.setattr(sweep, "elapsed", lambda now=now: now)
        sweeper.sweep()
    assert tries == [100.0, 164.0]
    message = "The sweep stopped “expire leases” after 3.0 s, and tries it again in 60 s"
    assert [record.getMessage() for record in app_log.records] == [message] * 2


def test_a_step_that_finds_no_database_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def expire_leases() -> int:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(sweep, "expire_leases", expire_leases)
    with pytest.raises(OperationalError):
        Sweeper().sweep()


# Who sweeps


def test_workers_take_turns_at_sweeping() -> None:
    assert Sweep.begin(interval=100)
    assert not Sweep.begin(interval=100)
    Sweep.objects.update(swept_at=timezone.now() - timedelta(seconds=101))
    assert Sweep.begin(interval=100)
    assert Sweep.objects.exists()


@pytest.mark.parametrize("wrong", [timedelta(days=-400), timedelta(days=400)], ids=["behind", "ahead"])
def test_a_worker_whose_clock_is_wrong_ends_no_sweeping_and_deletes_nothing(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, django_db_setup: str, wrong: timedelta
) -> None:
    if django_db_setup == SQLITE:  # lives in the process of the worker, and so does its clock
        assert Sweep.begin(interval=100)
        Sweep.objects.update(swept_at=timezone.now() + wrong)
    else:
        make_delivery(webhook, State.SUCCEEDED)
        Webhook.objects.update(previous_secret="x", previous_secret_until=timezone.now() + timedelta(days=1))
        now = timezone.now
        with monkeypatch.context() as patch:
            patch.setattr(timezone, "now", lambda: now() + wrong)
            assert Sweep.begin(interval=100)
            assert sweep.sweep() == 0
            assert not Sweep.begin(interval=100)
        assert not Sweep.begin(interval=100)
        Sweep.objects.update(swept_at=now() + timedelta(days=400))
    assert Sweep.begin(interval=100)
    assert not Sweep.begin(interval=100)


def test_a_worker_that_starts_with_its_machine_sweeps_at_once(
    webhook: Webhook, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(SWEEP_INTERVAL=3600)
    monkeypatch.setattr(sweep, "elapsed", lambda: 5.0)
    make_delivery(webhook, State.SUCCEEDED, finished_at=AGO)
    Sweeper().run_due(idle=0)
    assert not Delivery.objects.exists()


def test_a_busy_worker_delivers_between_the_steps_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(Sweeper, "_run", lambda self, step: ran.append(sweep.describe_step(step)) or 0)
    Sweeper().sweep()
    every, sweeper = list(ran), Sweeper()
    ran.clear()
    for count in (1, 2, 3):
        sweeper.run_due(idle=0, is_busy=True)
        assert len(ran) == count
    sweeper.run_due(idle=0)
    assert ran == every


def test_a_process_that_ends_with_its_work_ends_the_sweep_that_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    runner = DeliveryRunner("test")
    runner._sweeper._due.extend([lambda: ran.append("one") or 0, lambda: ran.append("another") or 0])
    runner.finish()
    runner.close(grace=0)
    assert ran == ["one", "another"]


def test_only_one_of_several_workers_sweeps() -> None:
    Sweep.begin(interval=0)
    Sweep.objects.update(swept_at=AGO)
    turns = [worker.join() for worker in [Beside(lambda: Sweep.begin(interval=100)) for _ in range(4)]]
    assert sorted(turns) == [False, False, False, True]


def test_the_command_sweeps_and_wakes_a_worker_for_what_is_due(webhook: Webhook, redis: Any, capsys: Any) -> None:
    call_command("webhooks_sweep")
    assert redis.llen("rq:queue:webhooks") == 0
    make_delivery(webhook, State.SENDING, lease_until=AGO)
    call_command("webhooks_sweep")
    assert states() == [State.PENDING]
    assert redis.llen("rq:queue:webhooks") == 1
    assert "1 row changed" in capsys.readouterr().out
    assert Sweep.objects.exists()


@pytest.mark.one_database
@pytest.mark.parametrize("cost", [0.004, 0.02, 0.2])
@pytest.mark.parametrize(("idle", "share"), [(0, 0.1), (5, 0.5)])
def test_old_rows_take_a_tenth_of_a_worker_and_half_of_an_idle_one(
    cost: float, idle: float, share: float, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(SWEEP_INTERVAL=1000)
    now = spent = 0.0
    monkeypatch.setattr(sweep, "elapsed", lambda: now)

    def purge() -> int:
        nonlocal now, spent
        now, spent = now + cost, spent + cost
        return retention.PIECE

    sweeper = Sweeper()
    sweeper._unfinished, sweeper._swept = [purge], 0
    while now < 20:
        sweeper.run_due(idle=idle)
        now += 0.0005
    assert spent / now == pytest.approx(share, rel=0.15)
