"""The steps of runs, alongside live traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone

from tests.support.draining import drain, finished, sent, states, work_for
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.statements import statements_of
from tests.support.waiting import until
from tests.testapp.models import Thing
from users.models import User
from webhooks.delivery.claims import WorkerClaims
from webhooks.delivery.next_turn import Aim, Step
from webhooks.delivery.runs import kinds as run_kinds
from webhooks.delivery.runs import late, steps
from webhooks.delivery.runs.kinds import Key
from webhooks.delivery.runs.steps import Runs
from webhooks.ground.db import fetch_all
from webhooks.models import Attempt, Delivery, Event, QueuedDelivery, Run, RunState, State, Webhook
from webhooks.operations import kinds, runs
from webhooks.operations.kinds import OF_DELIVERIES
from webhooks.operations.retries import DeliveryKind
from webhooks.operations.webhooks import pause, resume
from webhooks.workers.runner import DeliveryRunner
from webhooks.workers.sender import Sender

pytestmark = pytest.mark.usefixtures("database")


def test_a_run_takes_no_event_that_happens_after_its_start(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 3)
    run = runs.start("resend", {}, takes_all=True)
    make_event(webhook, object_id="9")
    assert finished(run).done == 3
    assert Attempt.objects.count() == 7


def test_counting_begins_at_the_oldest_stored_event(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_kinds, "LOOK_AT", 1)
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    unstored = [make_event(webhook) for _ in range(50)]
    Event.objects.filter(pk__in=[event.pk for event in unstored]).delete()
    make_delivery(webhook, State.SUCCEEDED)
    run = runs.start("resend", {}, takes_all=True)
    take_steps(run, 1)
    assert run.total == 1


@pytest.fixture
def one_batch_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "BATCHES", 1)


@pytest.fixture
def small_steps(one_batch_in_a_step: None, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any) -> None:
    """Let a step take two rows, and read three ahead."""
    monkeypatch.setattr(steps, "READ", 3)
    monkeypatch.setattr(steps, "UNCLAIMED", 2)
    webhooks_settings(BATCH=2)


def take_steps(run: Run, count: int) -> None:
    """As many steps of a worker that sends nothing."""
    runner = DeliveryRunner("test")
    try:
        for _ in range(count):
            runner._runs.step()
    finally:
        runner.close(grace=0)
    run.refresh_from_db()


def test_a_paused_run_stays_where_it_is_and_goes_on_there(inbox: Inbox, small_steps: None, admin_user: User) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(7):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run = runs.start("retry", {}, admin_user, takes_all=True)
    take_steps(run, 3)
    assert (run.total, run.done) == (7, 3)
    assert runs.pause(run, admin_user)
    assert not runs.pause(run, admin_user), "it is paused already"
    take_steps(run, 5)
    assert (run.state, run.done) == (RunState.PAUSED, 3)
    assert runs.resume(run, admin_user)
    take_steps(run, 5)
    assert (run.state, run.done, run.percent) == (RunState.DONE, 7, 100)
    assert states() == [State.PENDING] * 7
    assert not runs.cancel(run, admin_user), "it has ended"


def test_a_cancelled_run_leaves_the_rest_as_it_is(inbox: Inbox, small_steps: None) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(7):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run = runs.start("discard", {}, takes_all=True)
    take_steps(run, 2)
    assert runs.cancel(run)
    take_steps(run, 5)
    assert (run.state, run.done, run.percent) == (RunState.CANCELLED, 2, 28)
    assert sorted(states()) == [State.DISCARDED] * 2 + [State.FAILED] * 5


def test_a_worker_that_is_killed_in_a_step_leaves_nothing_half_done(
    inbox: Inbox, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 9)
    run = runs.start("resend", {}, takes_all=True)
    take_steps(run, 2)
    assert run.done == 2

    def killed(self: Any, **columns: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save_step", killed)
        with pytest.raises(KeyboardInterrupt):
            take_steps(run, 1)
    run = finished(run)
    assert (run.state, run.done) == (RunState.DONE, 9)
    assert Attempt.objects.count() == 18
    assert not QueuedDelivery.objects.exists()


def test_two_workers_take_different_steps_of_one_run(inbox: Inbox, small_steps: None) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(9):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    run = runs.start("resend", {}, takes_all=True)
    first, second = DeliveryRunner("first"), DeliveryRunner("second")
    for _ in range(5):
        first._runs.step()
        second._runs.step()
    run.refresh_from_db()
    assert (run.state, run.done, run.skipped) == (RunState.DONE, 9, 0)
    first.close(grace=0)
    second.close(grace=0)


def test_the_rows_of_paused_webhooks_go_back_into_the_queue_and_they_are_probed(inbox: Inbox) -> None:
    for name in ("ok/first", "ok/second"):
        sent(make_webhook(Thing, url=inbox.url(name)), 3)
    Webhook.objects.update(probe_at=timezone.now() + timedelta(hours=1), failures_in_a_row=3)
    run = finished(runs.start("resend", {}, takes_all=True))
    assert (run.state, run.done) == (RunState.DONE, 6)
    assert len(inbox.received("ok/first")) == len(inbox.received("ok/second")) == 6


def test_a_run_that_meets_an_error_of_the_database_again_fails_and_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one of a user who may view some rows of another database."""
    make_delivery(make_webhook(Thing), State.FAILED)
    broken = runs.start("retry", {}, takes_all=True)
    other = runs.start("discard", {}, takes_all=True)
    monkeypatch.setattr(kinds.RETRY, "count", lambda *args: fetch_all(Run.objects.db, "SELECT 1 FROM elsewhere"))
    take_steps(other, 6)
    broken.refresh_from_db()
    assert other.state == RunState.DONE
    assert (broken.state, "elsewhere" in broken.problem) == (RunState.FAILED, True)


@pytest.fixture
def other_database_away() -> Iterator[str]:
    """The alias of another database of the host, which cannot be reached."""
    file = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/no/such/folder/database", "OPTIONS": {}}
    connections.settings["elsewhere"] = connections.settings["default"] | file
    yield "elsewhere"
    del connections["elsewhere"], connections.settings["elsewhere"]


def test_a_run_that_needs_another_database_fails_while_that_is_away(
    other_database_away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of a user whose permissions are stored there."""
    make_delivery(make_webhook(Thing), State.FAILED)
    broken = runs.start("retry", {}, takes_all=True)
    other = runs.start("discard", {}, takes_all=True)
    monkeypatch.setattr(kinds.RETRY, "count", lambda *args: fetch_all(other_database_away, "SELECT 1"))
    take_steps(other, 6)
    broken.refresh_from_db()
    assert other.state == RunState.DONE
    assert (broken.state, broken.problem) == (RunState.FAILED, "unable to open database file")


def test_a_run_goes_on_after_another_error_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    run = runs.start("discard", {}, takes_all=True)
    count, tables = OF_DELIVERIES["discard"].count, ["first", "second"]

    def fail_twice(*args: Any) -> Any:
        return fetch_all(Run.objects.db, f"SELECT 1 FROM {tables.pop()}") if tables else count(*args)

    monkeypatch.setattr(OF_DELIVERIES["discard"], "count", fail_twice)
    take_steps(run, 6)
    assert (run.state, run.done) == (RunState.DONE, 1)


@pytest.mark.parametrize("message", ["database is locked", "canceling statement due to lock timeout"])
def test_a_run_is_not_to_blame_for_a_lock(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    run = runs.start("discard", {}, takes_all=True)

    def locked(*args: Any) -> Any:
        raise OperationalError(message)

    monkeypatch.setattr(OF_DELIVERIES["discard"], "count", locked)
    for _ in range(3):
        with pytest.raises(OperationalError):
            take_steps(run, 1)
    run.refresh_from_db()
    assert run.state == RunState.RUNNING


def test_a_run_of_a_user_who_is_gone_fails_if_it_was_restricted() -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    run = runs.start("discard", {}, takes_all=True)
    Run.objects.filter(pk=run.pk).update(is_restricted=True, requested_by="nobody")
    take_steps(run, 2)
    assert (run.state, run.problem) == (RunState.FAILED, "there is no user nobody any more")


@pytest.mark.parametrize("is_superuser", [True, False])
@pytest.mark.parametrize("change", ["deactivated", "deleted", "without permission", "without permission for runs"])
def test_a_run_ends_with_its_user(is_superuser: bool, change: str, small_steps: None) -> None:
    user = User.objects.create_user("bob", is_superuser=is_superuser)
    user.user_permissions.set(Permission.objects.filter(codename__in=("discard_delivery", "add_run", "view_delivery")))
    webhook = make_webhook(Thing)
    for number in range(6):
        make_delivery(webhook, State.FAILED, object_id=str(number), event=make_event(webhook, object_type=""))
    run = runs.start("discard", {}, User.objects.get(), takes_all=True)
    take_steps(run, 2)
    assert (run.state, run.done) == (RunState.RUNNING, 2)
    match change:
        case "deactivated":
            User.objects.update(is_active=False)
        case "deleted":
            User.objects.all().delete()
        case "without permission":
            User.objects.update(is_superuser=False)
            user.user_permissions.remove(Permission.objects.get(codename="discard_delivery"))
        case _:
            User.objects.update(is_superuser=False)
            user.user_permissions.remove(Permission.objects.get(codename="add_run"))
    take_steps(run, 2)
    assert (run.state, run.done) == (RunState.FAILED, 2)
    assert "bob" in run.problem
    assert "any more" in run.problem


def test_a_run_of_a_program_ends_with_no_user(small_steps: None) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    run = runs.start("discard", {}, requested_by="manage.py webhooks_discard", takes_all=True)
    assert finished(run).state == RunState.DONE


@pytest.mark.usefixtures("one_batch_in_a_step")
@pytest.mark.parametrize(
    ("kind", "state", "filters", "later"),
    [
        ("retry", State.FAILED, {"state": ["failed"]}, "discard"),
        ("retry", State.FAILED, {}, "discard"),
        ("resend", State.FAILED, {}, "discard"),
        ("resend", State.SUCCEEDED, {"state": ["succeeded"]}, "resend"),
        ("discard", State.FAILED, {"state": ["failed"]}, "retry"),
        ("discard", State.FAILED, {}, "retry"),
        ("retry", State.DISCARDED, {"state": ["discarded"]}, "retry and discard"),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_run_leaves_alone_what_a_user_decided_after_its_rows_were_read(
    kind: str, state: State, filters: dict[str, Any], later: str, ordered: bool, webhooks_settings: Any
) -> None:
    webhooks_settings(BATCH=2)
    webhook = make_webhook(Thing, enabled=False, ordered=ordered)
    made = [make_delivery(webhook, state, object_id=str(number)) for number in range(8)]
    run = runs.start(kind, {"webhook": webhook.pk, **filters})
    runner = DeliveryRunner("test")
    try:
        runner._runs.step()
        runner._runs.step()  # reads all rows, takes two
        run.refresh_from_db()
        assert run.done == 2
        decided = Delivery.objects.filter(pk__in=[one.pk for one in made[2:7]])
        for step in later.split(" and "):
            assert (decided.discard() if step == "discard" else getattr(decided, step)("ann")) == 5
        before = states()[2:7]
        for _ in range(6):
            runner._runs.step()
    finally:
        runner.close(grace=0)
    run.refresh_from_db()
    assert (run.state, run.done, run.skipped) == (RunState.DONE, 3, 5)
    assert states()[2:7] == before


def test_a_run_goes_on_behind_many_events_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_kinds, "LOOK_AT", 4)
    monkeypatch.setattr(run_kinds, "QUICK_SECONDS", 0)  # so that no query looks at more
    webhook = make_webhook(Thing, enabled=False)
    first = make_delivery(webhook, State.FAILED)
    later = make_event(webhook, object_id="2", dispatched=True, id=first.event_id + 20)
    make_delivery(webhook, State.FAILED, object_id="2", event=later)
    run = finished(runs.start("retry", {"state": ["failed"]}))
    assert (run.state, run.total, run.done) == (RunState.DONE, 2, 2)


@pytest.mark.usefixtures("one_batch_in_a_step")
def test_a_step_leaves_alone_what_does_not_match_the_filters_any_more(webhooks_settings: Any) -> None:
    webhooks_settings(BATCH=2)
    webhook = make_webhook(Thing, enabled=False)
    for number in range(4):
        make_delivery(webhook, State.FAILED, object_id=str(number), error_kind="http_503")
    run = runs.start("retry", {"error_kind": "http_503"})
    runner = DeliveryRunner("test")
    try:
        for _ in range(2):
            runner._runs.step()
        Delivery.objects.filter(outcome="failed").update(error_kind="http_404")
        for _ in range(3):
            runner._runs.step()
    finally:
        runner.close(grace=0)
    run.refresh_from_db()
    assert (run.state, run.done, run.skipped) == (RunState.DONE, 2, 2)


def test_capacity_limits_what_a_step_takes(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(9):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    monkeypatch.setattr(WorkerClaims, "capacity", lambda self, sendable, *args: dict.fromkeys(sendable, 4))
    run = runs.start("resend", {}, takes_all=True)
    take_steps(run, 2)
    assert run.done == 4
    monkeypatch.setattr(WorkerClaims, "capacity", lambda self, sendable, *args: dict.fromkeys(sendable, 0))
    take_steps(run, 3)
    assert run.done == 4


@pytest.mark.parametrize("enabled", [True, False])
def test_a_step_takes_several_batches_of_rows(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    monkeypatch.setattr(steps, "BATCHES", 2)
    webhooks_settings(BATCH=3)
    webhook = make_webhook(Thing, url=inbox.url(), enabled=enabled)
    for number in range(9):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    run = runs.start("resend", {}, takes_all=True)
    take_steps(run, 2)  # the first step counts
    assert run.done == 6


def test_a_worker_with_live_traffic_reads_rows_in_one_step_and_takes_them_in_the_next(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    make_delivery(webhook, State.SUCCEEDED)
    run, runner, done = runs.start("resend", {}, takes_all=True), DeliveryRunner("test"), list[int]()
    try:
        runner._runs.saw_new(1)
        for _ in range(3):
            assert runner._runs.step() == 1, "so that the worker does not rest"
            run.refresh_from_db()
            done.append(run.done)
    finally:
        runner.close(grace=0)
    assert done == [0, 0, 1], "it counts, reads, and takes"


@pytest.mark.parametrize(("is_live", "most"), [(False, 5), (True, 2)])
def test_a_worker_with_live_traffic_reads_fewer_rows_with_a_query(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any, is_live: bool, most: int
) -> None:
    monkeypatch.setattr(steps, "READ", 5)
    monkeypatch.setattr(steps, "READ_BESIDE_LIVE", 2)
    webhooks_settings(BATCH=1)
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(9):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    runs.start("resend", {}, takes_all=True)
    runner, asked, read = DeliveryRunner("test"), list[int](), DeliveryKind.keys

    def keys(self: DeliveryKind, *args: Any) -> list[Key]:
        asked.append(args[-1])
        return read(self, *args)

    monkeypatch.setattr(DeliveryKind, "keys", keys)
    try:
        if is_live:
            runner._runs.saw_new(1)
        for _ in range(2):  # the first step counts
            runner._runs.step()
    finally:
        runner.close(grace=0)
    assert asked == [most]


@pytest.mark.cost
def test_a_step_takes_as_many_statements_for_many_rows_as_for_one(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LOOK_EVERY", 60)
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(12):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run, runner, counts = runs.start("retry", {}, takes_all=True), DeliveryRunner("test"), list[int]()
    try:
        for batch in (1, 1, 1, 10):  # the first step counts, the second one reads ahead
            webhooks_settings(BATCH=batch)
            counts.append(len(statements_of(runner._runs.step)))
    finally:
        runner.close(grace=0)
    run.refresh_from_db()
    assert run.done == 12
    assert counts[3] == counts[2] <= 12


@pytest.mark.cost
@pytest.mark.usefixtures("one_batch_in_a_step")
def test_a_step_takes_rows_of_many_webhooks_with_the_same_statements(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LOOK_EVERY", 60)
    monkeypatch.setattr(steps, "READ_SECONDS", 60)
    counts = list[int]()
    for number in (1, 4):
        webhooks = [make_webhook(Thing, url=inbox.url()) for _ in range(number)]
        for webhook in webhooks:
            for key in range(3):
                make_delivery(webhook, State.SUCCEEDED, object_id=str(key))
        webhooks_settings(BATCH=number)
        run, runner = runs.start("resend", {}, takes_all=True), DeliveryRunner("test")
        try:
            for _ in range(3):  # the first step counts, the second one reads ahead
                statements = statements_of(runner._runs.step)
            claimed = Delivery.objects.in_states(State.SENDING).filter(webhook__in=webhooks)
            assert claimed.values("webhook").distinct().count() == number
        finally:
            runner.close(grace=0)
        counts.append(len(statements))
        run.refresh_from_db()
        assert run.done == 2 * number
        assert runs.cancel(run)
        Webhook.objects.all().delete()
    assert counts[0] == counts[1]


def test_a_receiver_that_is_gone_gets_nothing_more_of_a_run(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LOOK_EVERY", 60)
    webhooks_settings(BATCH=2, SENDERS=1)
    webhook = make_webhook(Thing, url=inbox.url("status/410"))
    for key in range(20):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(key))
    run = finished(runs.start("resend", {}, takes_all=True))
    assert run.done == 20
    assert len(inbox.received()) <= 8, "two steps: the second one may come before the first answer is recorded"
    webhook.refresh_from_db()
    assert not webhook.enabled


def test_a_worker_takes_nothing_that_it_read_before_another_one_was_done(inbox: Inbox, small_steps: None) -> None:
    done, other = (make_webhook(Thing, url=inbox.url(), enabled=False) for _ in range(2))
    for key in range(3):
        make_delivery(done, State.SUCCEEDED, object_id=str(key))
    for key in range(9):
        make_delivery(other, State.SUCCEEDED, object_id=str(key))
    run, slow = runs.start("resend", {}, takes_all=True), DeliveryRunner("slow")
    try:
        for _ in range(3):  # it counts, and reads three rows of each webhook
            slow._runs.step()
        take_steps(run, 4)
        assert list(run.cursors) == [str(other.pk)]
        taken = Delivery.objects.in_states(State.PENDING).count()
        assert run.taken == taken
        for _ in range(9):
            slow._runs.step()
    finally:
        slow.close(grace=0)
    run.refresh_from_db()
    assert (run.state, run.done, run.skipped) == (RunState.DONE, 12, 0)


@pytest.mark.parametrize("part", ["claim", "step", "wait", "record"])
def test_a_new_event_waits_for_one_part_of_the_loop_only(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    old, live = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url("ok/live"))
    sent(old, 3)
    make_event(live, object_id="first")
    runs.start("resend", {}, takes_all=True)
    seen = list[bool]()

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if seen == [False]:
                seen[0] = Delivery.objects.filter(event__object_id="meanwhile").exists()
                seen.append(True)
            result = method(*args, **kwargs)
            if name == part and Run.objects.get().done and not seen:
                make_event(live, object_id="meanwhile")
                seen.append(False)
            return result

        return call

    parts = {"claim": (WorkerClaims, "claim_due"), "step": (Runs, "step")}
    parts |= {"wait": (Sender, "outcomes"), "record": (DeliveryRunner, "_record")}
    for name, (owner, method) in parts.items():
        monkeypatch.setattr(owner, method, watched(name, getattr(owner, method)))
    monkeypatch.setattr(steps, "LIVE_SECONDS", 60)
    runner = DeliveryRunner("test")
    try:
        runner.run(20)
    finally:
        runner.close(grace=5)
    assert seen == [True, True]


def test_a_run_counts_its_rows_step_by_step(small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_kinds, "LOOK_AT", 4)
    monkeypatch.setattr(run_kinds, "QUICK_SECONDS", 0)
    first, second = make_webhook(Thing, enabled=False), make_webhook(Thing, enabled=False)
    for number in range(10):
        make_delivery(second if number > 6 else first, State.FAILED, object_id=str(number))
    first_id = Event.objects.earliest("pk").pk
    run = runs.start("retry", {}, takes_all=True)
    for counts in ({first.pk: 4}, {first.pk: 7, second.pk: 1}, {first.pk: 7, second.pk: 3}):
        assert run.total is None
        take_steps(run, 1)
        assert run.counts == {str(pk): count for pk, count in counts.items()}
    assert run.total == 10
    assert run.cursors == {str(first.pk): first_id - 1, str(second.pk): first_id + 3}
    take_steps(run, 30)
    assert (run.state, run.done) == (RunState.DONE, 10)


def test_rows_that_two_workers_count_are_added_once(small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_kinds, "LOOK_AT", 4)
    monkeypatch.setattr(run_kinds, "QUICK_SECONDS", 0)
    webhook = make_webhook(Thing, enabled=False)
    for number in range(10):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run, slow = runs.start("retry", {}, takes_all=True), DeliveryRunner("slow")
    try:
        slow._runs.step()
        take_steps(run, 1)
        slow._runs.step()
        run.refresh_from_db()
        assert (run.total, run.counts) == (10, {str(webhook.pk): 10})
        Delivery.objects.filter(outcome="failed").update(outcome="succeeded")
        slow._runs.step()  # it takes rows, and counts no more
    finally:
        slow.close(grace=0)
    run.refresh_from_db()
    assert run.total == 10


def test_a_query_that_takes_too_long_is_tried_again_with_fewer_events(monkeypatch: pytest.MonkeyPatch) -> None:
    make_delivery(make_webhook(Thing, enabled=False), State.FAILED)
    run, act, asked = runs.start("retry", {}, takes_all=True), kinds.RETRY, list[int]()
    count, ids = act.count, Event.objects.latest("pk").pk
    Run.objects.filter(pk=run.pk).update(counted_event=ids - 100_000)

    def slow(run: Run, after: int, until: int) -> dict[int, int]:
        asked.append(until - after)
        if until - after > 1000:
            error = OperationalError("canceling statement due to statement timeout")
            error.__cause__ = type("QueryCanceled", (Exception,), {"sqlstate": "57014"})()
            raise error
        return count(run, after, until)

    monkeypatch.setattr(act, "count", slow)
    take_steps(run, 2)
    assert asked == [run_kinds.LOOK_AT, run_kinds.LOOK_AT // run_kinds.STOPPED_FACTOR]
    assert run.counted_event == ids - 100_000 + asked[1]
    assert run.state == RunState.RUNNING


def test_the_rows_of_a_webhook_that_a_user_paused_wait_until_it_is_resumed(inbox: Inbox, admin_user: User) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 3)
    pause(Webhook.objects.all(), admin_user)
    run = finished(runs.start("resend", {}, takes_all=True))
    assert (run.state, run.done) == (RunState.DONE, 3)
    assert set(states()) == {State.PENDING}
    assert not QueuedDelivery.objects.exclude(claim=None).exists()
    assert len(inbox.received()) == 3
    resume(Webhook.objects.all(), admin_user)
    drain()
    assert set(states()) == {State.SUCCEEDED}
    assert len(inbox.received()) == 6


def test_a_replay_run_goes_on_where_a_killed_worker_left_off(inbox: Inbox, small_steps: None) -> None:
    make_webhook(Thing, url=inbox.url())
    for number in range(5):
        Thing.objects.create(name=str(number))
    run = runs.start("replay", {"object_type": "testapp.thing"})
    take_steps(run, 2)
    assert run.done == 2
    run = finished(run)
    assert (run.state, run.done) == (RunState.DONE, 5)
    replayed = Event.objects.exclude(replay_of=None).values_list("replay_of", flat=True)
    assert sorted(replayed) == list(Event.objects.filter(replay_of=None).order_by("pk").values_list("pk", flat=True))


@pytest.mark.cost
@pytest.mark.sqlite
@pytest.mark.parametrize("kind", ["retry", "resend", "discard"])
@pytest.mark.parametrize("filters", [{"webhook": 1}, {"error_kind": "http_503"}, {"state": ["failed"]}])
def test_sqlite_looks_up_the_rows_of_a_step_by_their_events(kind: str, filters: dict[str, Any]) -> None:
    act, run = kinds.OF_DELIVERIES[kind], Run(kind=kind, filters=filters)
    for statement in statements_of(lambda: [act.count(run, 10, 20), act.keys(run, 1, 10, 20, 100)]):
        plan = " ".join(row[-1] for row in fetch_all("default", f"EXPLAIN QUERY PLAN {statement}"))
        assert "(event_id>? AND event_id<?)" in plan, "otherwise each step reads all deliveries of the webhook"


def test_a_replay_does_not_take_its_own_events_for_live_traffic() -> None:
    webhook = make_webhook(Thing, enabled=False)
    for number in range(60):
        Thing.objects.create(name=str(number))
    key = Thing.objects.first()
    assert key
    for _ in range(60):
        make_event(webhook, object_id=str(key.pk), dispatched=True)
    run, runner, live = runs.start("replay", {"webhook": webhook.pk, "each": True}), DeliveryRunner("test"), []
    try:
        for _ in range(30):
            runner._take_steps(Aim.WORK, Step.BEGIN, until=Step.WAIT)
            live.append(runner._runs.are_beside_live)
        make_event(webhook, object_id="live")
        run.refresh_from_db()
        assert (run.state, run.done) == (RunState.DONE, 60)
        assert not any(live)
        runner._dispatch()
        assert runner._runs._live_until > time.monotonic()
    finally:
        runner.close(grace=0)


def test_a_query_that_is_as_slow_for_fewer_events_looks_at_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(run_kinds, "elapsed", lambda: now[0])
    pace, looked_at = run_kinds.Pace(), list[int]()

    def read(seconds: float) -> None:
        looked_at.append(pace.events)
        now[0] += seconds

    for _ in range(20):
        pace.read(lambda: read(0.5))  # each query reads a whole partition
    assert max(looked_at[-5:]) > 100 * looked_at[0]
    for _ in range(30):
        pace.read(lambda: read(pace.events / 10_000))
    assert pace.events <= 2000, "it depends on the number again"


@pytest.fixture
def open_change(database: str) -> Iterator[Callable[..., Any]]:
    """Records the event of a change in a transaction of another session, which is returned."""
    if database != "postgresql":
        pytest.skip("SQLite has one writer")
    others = list[Any]()

    def change(**fields: str) -> Any:
        others.append(other := connection.copy())
        other.set_autocommit(False)
        columns = {"action": "updated", "object_type": "testapp.thing", "object_id": "late", "data": '{"id": "late"}'}
        columns |= fields
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        with other.cursor() as cursor:
            cursor.execute(f"INSERT INTO rq_webhooks_event ({names}) VALUES ({marks})", [*columns.values()])
        return other

    yield change
    for other in others:
        other.close()


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do not wait for short transactions before their first reading."""
    monkeypatch.setattr(late, "SHORT_SECONDS", 0)


def since_yesterday(webhook: Webhook) -> dict[str, Any]:
    return runs.since_filters(webhook, timezone.now() - timedelta(days=1))


def worked(run: Run) -> Run:
    """The run after a worker has found nothing more to do."""
    work_for(20)
    run.refresh_from_db()
    return run


def until_done(run: Run) -> Run:
    until(lambda: worked(run).state == RunState.DONE, 10, "the end of the run")
    return run


@pytest.mark.parametrize("comes_last", [False, True])
def test_a_backfill_takes_the_events_of_transactions_that_were_open_when_it_began(
    comes_last: bool, inbox: Inbox, open_change: Callable[..., Any], no_patience: None
) -> None:
    new = make_webhook(Thing, url=inbox.url(), conditions={"attr": "id", "value": "refused", "negate": True})
    if comes_last:
        make_event(object_id="there", dispatched=True)
    other = open_change()
    if not comes_last:
        make_event(object_id="there", dispatched=True)
    make_event(object_id="refused", dispatched=True)
    run = worked(runs.start("backfill", since_yesterday(new)))
    assert (run.state, run.total, run.done, run.skipped) == (RunState.RUNNING, 2, 1, 1)
    assert runs.time_left(run) == (
        "waits for 1 database transaction that was open when it began "
        f"(PostgreSQL process {other.connection.info.backend_pid})"
    )
    with other.cursor() as cursor:  # recorded as before the webhook was created
        cursor.execute(
            "INSERT INTO rq_webhooks_event (action, object_type, object_id, data) "
            "SELECT action, object_type, 'later', data FROM rq_webhooks_event WHERE object_id = 'late'"
        )
    other.commit()
    run = until_done(run)
    assert (run.total, run.done, run.skipped, runs.time_left(run)) == (4, 3, 1, "")
    assert len(inbox.received()) == 3


def test_a_run_that_waits_for_transactions_stops_nothing(
    inbox: Inbox, open_change: Callable[..., Any], no_patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late, "LOOK_EVERY", 600)
    webhook = make_webhook(Thing, url=inbox.url())
    open_change()
    waiting = runs.start("backfill", since_yesterday(webhook))
    drain()  # no worker has something to do
    statements = len(statements_of(lambda: take_steps(waiting, 20)))
    sent(webhook, 2)
    other = finished(runs.start("resend", {"webhook": webhook.pk}))
    waiting.refresh_from_db()
    assert (waiting.state, other.state, other.done) == (RunState.RUNNING, RunState.DONE, 2)
    assert statements < 20


def test_a_run_waits_for_no_process_of_the_database_itself(open_change: Callable[..., Any]) -> None:
    """Autovacuum has a transaction with an id while it analyzes a table, for minutes if that is large."""
    pid = open_change().connection.info.backend_pid
    assert pid in late.open_transactions("default").values()
    with connection.cursor() as cursor, transaction.atomic():
        # In place of the view of this name. A role that is no superuser does not see the type of the process.
        cursor.execute("CREATE TEMPORARY TABLE pg_stat_activity ON COMMIT DROP AS SELECT * FROM pg_stat_activity")
        cursor.execute("UPDATE pg_stat_activity SET usesysid = NULL, backend_type = NULL WHERE pid = %s", [pid])
        assert pid not in late.open_transactions("default").values()


def test_a_run_begins_after_short_transactions_and_reads_its_rows_once(
    inbox: Inbox, open_change: Callable[..., Any]
) -> None:
    new = make_webhook(Thing, url=inbox.url())
    other = open_change()
    run = worked(runs.start("backfill", since_yesterday(new)))
    assert (run.state, run.total) == (RunState.RUNNING, None)
    other.commit()
    run = until_done(run)
    assert (run.done, run.late["reading"]) == (1, 1)


def test_the_second_reading_of_a_recovery_takes_failed_events_alone(
    open_change: Callable[..., Any], no_patience: None
) -> None:
    webhook = make_webhook(Thing, enabled=False)
    gone = {"error": "boom", "webhook_ids": f"[{webhook.pk}]"}
    for number in range(2):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    make_event(webhook, error="boom", dispatched=True)
    other = open_change(**gone)
    run = worked(runs.start("recover", since_yesterday(webhook)))
    assert (run.state, run.total, run.done, run.failed) == (RunState.RUNNING, 3, 2, 1)
    Delivery.objects.all().discard()
    other.commit()
    run = until_done(run)
    assert (run.total, run.done, run.failed, run.skipped) == (4, 2, 2, 0)
    assert states() == [State.DISCARDED] * 2


def test_a_run_of_a_kind_of_a_newer_release_stops_no_delivery(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 1)
    run = runs.start("resend", {}, takes_all=True)
    Run.objects.filter(pk=run.pk).update(kind="resend_much_later")
    sent(webhook, 1)
    assert Attempt.objects.count() == 2


def test_a_worker_keeps_its_lease_while_it_reads_rows_beside_live_traffic(inbox: Inbox) -> None:
    make_delivery(make_webhook(Thing, url=inbox.url()), State.SUCCEEDED)
    runner = DeliveryRunner("test")
    runs.start("resend", {}, takes_all=True)
    try:
        runner._runs.step()
        token = runner._claims._token
        runner._runs.saw_new(1)
        runner._runs.step()  # it reads alone
        assert runner._claims._token == token
    finally:
        runner.close(grace=0)
