"""Runs: acts on many rows that workers execute in the background."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.draining import drain, states
from tests.support.inbox import Inbox
from tests.support.makers import events, make_delivery, make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.db import atomically
from webhooks.delivery import run_acts, run_pace
from webhooks.delivery import run_steps as engine
from webhooks.delivery.claims import WorkerClaims
from webhooks.delivery.run_acts import Key, Portion
from webhooks.delivery.run_steps import Runs
from webhooks.delivery.runner import DeliveryRunner
from webhooks.delivery.sender import SenderPool
from webhooks.models import Attempt, Delivery, Event, QueuedDelivery, Run, RunKind, RunState, State, Webhook
from webhooks.models.event import LOOP_PROTECTION
from webhooks.models.selection import select_events
from webhooks.operations import runs
from webhooks.operations.runs import NEEDED, RefusedFilter
from webhooks.operations.webhooks import pause, resume

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def user() -> User:
    return User.objects.create_superuser("ann")


def sent(webhook: Webhook, count: int, objects: int = 3) -> None:
    """Let a webhook deliver as many events, of a few objects in turn."""
    for number in range(count):
        make_event(webhook, object_id=str(number % objects))
    drain()


def since_long_ago(webhook: Webhook) -> dict[str, Any]:
    return runs.since_filters(webhook, timezone.now() - timedelta(days=1))


def finished(run: Run) -> Run:
    drain()
    run.refresh_from_db()
    return run


def test_a_run_resends_all_chosen_deliveries_once_and_in_order(inbox: Inbox, user: User) -> None:
    webhook, other = (
        make_webhook(Thing, url=inbox.url(), name="CMDB sync"),
        make_webhook(Thing, url=inbox.url("ok/other")),
    )
    sent(webhook, 30)
    sent(other, 2)
    before = len(inbox.received("ok"))
    run = finished(runs.start(RunKind.RESEND, {"webhook": webhook.pk}, user))
    assert (run.state, run.total, run.done, run.failed, run.skipped) == (RunState.DONE, 30, 30, 0, 0)
    again = inbox.received("ok")[before:]
    assert len(again) == len({one.headers["webhook-id"] for one in again}) == 30
    for key in ("0", "1", "2"):
        sequences = [one.json["sequence"] for one in again if one.json["data"]["id"] == key]
        assert sequences == sorted(sequences)
    assert len(inbox.received("ok/other")) == 2
    assert set(states()) == {State.SUCCEEDED}
    assert Attempt.objects.filter(requested_by="ann").count() == 30
    assert [entry.object_repr for entry in LogEntry.objects.order_by("pk")] == [
        "resend of deliveries of CMDB sync",
        "Resent 30 deliveries of CMDB sync",
    ]


@pytest.mark.parametrize(
    ("kind", "state", "after"),
    [
        (RunKind.RETRY, State.FAILED, State.SUCCEEDED),
        (RunKind.RETRY, State.DISCARDED, State.SUCCEEDED),
        (RunKind.RESEND, State.SUCCEEDED, State.SUCCEEDED),
        (RunKind.DISCARD, State.FAILED, State.DISCARDED),
        (RunKind.DISCARD, State.WAITING, State.DISCARDED),
    ],
)
def test_each_kind_takes_the_states_that_it_can(kind: RunKind, state: State, after: State, inbox: Inbox) -> None:
    # The sweep would promote what waits behind nothing, and a worker would send it.
    webhook = make_webhook(Thing, url=inbox.url(), enabled=state != State.WAITING)
    taken = [make_delivery(webhook, state, object_id=str(number)) for number in range(3)]
    run = finished(runs.start(kind, {}, takes_all=True))
    assert (run.state, run.total, run.done) == (RunState.DONE, 3, 3)
    assert states() == [after] * len(taken)


def test_a_run_takes_no_event_that_happens_after_its_start(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 3)
    run = runs.start(RunKind.RESEND, {}, takes_all=True)
    make_event(webhook, object_id="9")
    assert finished(run).done == 3
    assert Attempt.objects.count() == 7


def test_counting_begins_at_the_oldest_stored_event(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_pace, "LOOK_AT", 1)
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    unstored = [make_event(webhook) for _ in range(50)]
    Event.objects.filter(pk__in=[event.pk for event in unstored]).delete()
    make_delivery(webhook, State.SUCCEEDED)
    run = runs.start(RunKind.RESEND, {}, takes_all=True)
    steps(run, 1)
    assert run.total == 1


def test_a_dry_run_counts_and_shows_the_oldest_rows(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 12)
    found = runs.preview(RunKind.RESEND, {"webhook": webhook.pk, "object_type": "testapp.thing"})
    assert found.count == 12
    assert [one.id for one in found.sample] == list(
        Delivery.objects.order_by("event_id").values_list("pk", flat=True)[: runs.SAMPLE]
    )
    assert not Run.objects.exists()
    assert runs.preview(RunKind.RETRY, {}, takes_all=True).count == 0


def test_a_dry_run_without_time_says_how_many_rows_it_found_so_far(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_pace, "LOOK_AT", 4)
    sent(make_webhook(Thing, url=inbox.url(), name="CMDB sync"), 12)
    found = runs.preview(RunKind.RESEND, {}, takes_all=True, seconds=0)
    assert (found.count, found.is_complete) == (4, False)
    assert [one.name for one in found.sample] == [f"testapp.thing {key} updated → CMDB sync" for key in (0, 1, 2, 0)]


@pytest.mark.parametrize("kind", list(RunKind))
def test_a_preview_takes_as_many_queries_for_many_webhooks_as_for_two(kind: RunKind) -> None:
    counts = []
    for number in (2, 20):
        for _ in range(number):
            webhook = make_webhook(Thing)
            make_delivery(webhook, State.FAILED)
        filters = since_long_ago(webhook) if kind in NEEDED else {}
        runs.preview(kind, filters, takes_all=True)  # the first one reads content types, too
        with CaptureQueriesContext(connection) as captured:
            runs.preview(kind, filters, takes_all=True)
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_a_preview_takes_few_queries_for_each_range_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook, counts = make_webhook(Thing), []
    for number in range(8):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    monkeypatch.setattr(runs, "SAMPLE", 1)
    monkeypatch.setattr(run_pace, "QUICK_SECONDS", 0)
    for events_each in (8, 1):
        monkeypatch.setattr(run_pace, "LOOK_AT", events_each)
        with CaptureQueriesContext(connection) as captured:
            assert runs.preview(RunKind.RETRY, {}, takes_all=True).count == 8
        counts.append(len(captured))
    each = 3 if connection.vendor == "postgresql" else 1  # with a savepoint: PostgreSQL may stop the query
    assert counts[1] - counts[0] == 7 * each


@pytest.mark.parametrize(
    ("kind", "filters", "reason"),
    [
        (RunKind.RESEND, {"colour": "red"}, "no filter colour"),
        (RunKind.RESEND, {}, "at least one filter"),
        (RunKind.RETRY, {"webhook": 999}, "There is no webhook 999"),
        (RunKind.RETRY, {"webhook": "CMDB"}, "There is no webhook CMDB"),
        (RunKind.RETRY, {"object_type": "testapp.thingy"}, "has the label testapp.thingy"),
        (RunKind.REPLAY, {"action": "painted"}, "“painted” is not one of these: created, updated, deleted, ping"),
        (RunKind.RETRY, {"error_kind": "http_999"}, "“http_999” is not one of these"),
        (RunKind.RETRY, {"state": ["failed", "lost"]}, "“lost” is not one of these: waiting, pending"),
        (RunKind.RETRY, {"state": ["succeeded"]}, "only these states: failed, discarded, pending"),
        (RunKind.DISCARD, {"state": ["sending", "succeeded"]}, "only these states: waiting, pending, failed"),
        (RunKind.RETRY, {"object_id": "7"}, "Give object_type as well"),
        (RunKind.BACKFILL, {"webhook": 1}, "needs this filter"),
    ],
)
def test_a_run_with_a_filter_that_can_choose_nothing_is_refused(
    kind: RunKind, filters: dict[str, Any], reason: str
) -> None:
    for begin in (runs.start, runs.preview, runs.act):
        with pytest.raises(RefusedFilter, match=reason):
            begin(kind, filters)
    assert not Run.objects.exists()


def test_a_preview_says_if_nothing_matches_because_no_user_has_the_name(user: User) -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    notes = [runs.preview(RunKind.RETRY, {"user": name}).note for name in ("jone", user.username)]
    assert notes == ["There is no user “jone”.", ""]
    make_delivery(make_webhook(Thing), State.FAILED, event=make_event(username="script", dispatched=True))
    assert runs.preview(RunKind.RETRY, {"user": "script"}).note == ""


def test_a_run_takes_deliveries_of_a_model_that_is_not_registered_any_more() -> None:
    make_delivery(make_webhook(Thing), State.FAILED, event=make_event(object_type="gone.rack", dispatched=True))
    assert runs.preview(RunKind.RETRY, {"object_type": "gone.rack", "state": ["failed", "succeeded"]}).count == 1


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch, webhooks_settings: Any) -> None:
    """Let a step take two rows, and read three ahead."""
    monkeypatch.setattr(engine, "READ", 3)
    monkeypatch.setattr(engine, "UNCLAIMED", 2)
    webhooks_settings(BATCH=2)


def steps(run: Run, count: int) -> None:
    """As many steps of a worker that sends nothing."""
    runner = DeliveryRunner("test")
    try:
        for _ in range(count):
            runner._runs.step()
            runner._runs.send()
    finally:
        runner.close(grace=0)
    run.refresh_from_db()


def test_a_paused_run_stays_where_it_is_and_goes_on_there(inbox: Inbox, small_steps: None, user: User) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(7):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run = runs.start(RunKind.RETRY, {}, user, takes_all=True)
    steps(run, 3)
    assert (run.total, run.done) == (7, 3)
    assert runs.pause(run, user)
    assert not runs.pause(run, user), "it is paused already"
    steps(run, 5)
    assert (run.state, run.done) == (RunState.PAUSED, 3)
    assert runs.resume(run, user)
    steps(run, 5)
    assert (run.state, run.done, run.percent) == (RunState.DONE, 7, 100)
    assert states() == [State.PENDING] * 7
    assert not runs.cancel(run, user), "it has ended"


def test_a_cancelled_run_leaves_the_rest_as_it_is(inbox: Inbox, small_steps: None) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(7):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run = runs.start(RunKind.DISCARD, {}, takes_all=True)
    steps(run, 2)
    assert runs.cancel(run)
    steps(run, 5)
    assert (run.state, run.done, run.percent) == (RunState.CANCELLED, 2, 28)
    assert sorted(states()) == [State.DISCARDED] * 2 + [State.FAILED] * 5


def test_a_worker_that_is_killed_in_a_step_leaves_nothing_half_done(
    inbox: Inbox, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 9)
    run = runs.start(RunKind.RESEND, {}, takes_all=True)
    steps(run, 2)
    assert run.done == 2

    def killed(self: Any, **columns: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save_step", killed)
        with pytest.raises(KeyboardInterrupt):
            steps(run, 1)
    run = finished(run)
    assert (run.state, run.done) == (RunState.DONE, 9)
    assert Attempt.objects.count() == 18
    assert not QueuedDelivery.objects.exists()


def test_two_workers_take_different_steps_of_one_run(inbox: Inbox, small_steps: None) -> None:
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(9):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    run = runs.start(RunKind.RESEND, {}, takes_all=True)
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
    run = finished(runs.start(RunKind.RESEND, {}, takes_all=True))
    assert (run.state, run.done) == (RunState.DONE, 6)
    assert len(inbox.received("ok/first")) == len(inbox.received("ok/second")) == 6


def test_a_run_of_a_user_who_is_gone_fails_if_it_was_restricted() -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    run = runs.start(RunKind.DISCARD, {}, takes_all=True)
    Run.objects.filter(pk=run.pk).update(is_restricted=True, requested_by="nobody")
    steps(run, 2)
    assert (run.state, run.problem) == (RunState.FAILED, "there is no user nobody any more")


def test_capacity_limits_what_a_step_takes(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    for number in range(9):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(number))
    monkeypatch.setattr(WorkerClaims, "capacity", lambda self, sendable, among: dict.fromkeys(sendable, 4))
    run = runs.start(RunKind.RESEND, {}, takes_all=True)
    steps(run, 2)
    assert run.done == 4
    monkeypatch.setattr(WorkerClaims, "capacity", lambda self, sendable, among: dict.fromkeys(sendable, 0))
    steps(run, 3)
    assert run.done == 4


def test_a_step_takes_as_many_statements_for_many_rows_as_for_one(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK_EVERY", 60)
    webhook = make_webhook(Thing, url=inbox.url(), enabled=False)
    for number in range(12):
        make_delivery(webhook, State.FAILED, object_id=str(number))
    run, runner, counts = runs.start(RunKind.RETRY, {}, takes_all=True), DeliveryRunner("test"), list[int]()
    try:
        for batch in (1, 1, 1, 10):  # the first step counts, the second one reads ahead
            webhooks_settings(BATCH=batch)
            with CaptureQueriesContext(connection) as captured:
                runner._runs.step()
            counts.append(len(captured))
    finally:
        runner.close(grace=0)
    run.refresh_from_db()
    assert run.done == 12
    assert counts[3] == counts[2] <= 11


def test_a_step_takes_rows_of_many_webhooks_with_the_same_statements(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK_EVERY", 60)
    monkeypatch.setattr(engine, "READ_SECONDS", 60)
    counts = list[int]()
    for number in (1, 4):
        webhooks = [make_webhook(Thing, url=inbox.url()) for _ in range(number)]
        for webhook in webhooks:
            for key in range(3):
                make_delivery(webhook, State.SUCCEEDED, object_id=str(key))
        webhooks_settings(BATCH=number)
        run, runner = runs.start(RunKind.RESEND, {}, takes_all=True), DeliveryRunner("test")
        try:
            for _ in range(3):  # the first step counts, the second one reads ahead
                with CaptureQueriesContext(connection) as captured:
                    runner._runs.step()
        finally:
            runner.close(grace=0)
        counts.append(len(captured))
        claimed = Delivery.objects.filter(webhook__in=webhooks, state=State.SENDING)
        assert claimed.values("webhook").distinct().count() == number
        run.refresh_from_db()
        assert run.done == 2 * number
        assert runs.cancel(run)
        Webhook.objects.all().delete()
    assert counts[0] == counts[1]


def test_a_receiver_that_is_gone_gets_nothing_more_of_a_run(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK_EVERY", 60)
    webhooks_settings(BATCH=2)
    webhook = make_webhook(Thing, url=inbox.url("status/410"))
    for key in range(20):
        make_delivery(webhook, State.SUCCEEDED, object_id=str(key))
    run = finished(runs.start(RunKind.RESEND, {}, takes_all=True))
    assert run.done == 20
    assert len(inbox.received()) <= 4, "what the worker held already"
    webhook.refresh_from_db()
    assert not webhook.enabled


def test_a_step_that_comes_too_late_takes_nothing_of_a_webhook_that_is_done(inbox: Inbox, small_steps: None) -> None:
    done, other = (make_webhook(Thing, url=inbox.url(), enabled=False) for _ in range(2))
    late = make_delivery(done, State.SUCCEEDED, object_id="1")
    for key in range(9):
        make_delivery(other, State.SUCCEEDED, object_id=str(key))
    run = runs.start(RunKind.RESEND, {}, takes_all=True)
    steps(run, 1)
    portion = Portion(done.pk, run.cursors[str(done.pk)], run.last_event, [Key(late.event_id, late.pk)], 0)
    steps(run, 4)
    assert list(run.cursors) == [str(other.pk)]
    before = run.taken
    assert atomically(lambda: engine._take(run.pk, [portion], uuid.uuid4()), Run.objects.db).taken is None
    run.refresh_from_db()
    assert run.taken == before


@pytest.mark.parametrize("part", ["claim", "step", "wait", "record"])
def test_a_new_event_waits_for_one_part_of_the_loop_only(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    old, live = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url("ok/live"))
    sent(old, 3)
    make_event(live, object_id="first")
    runs.start(RunKind.RESEND, {}, takes_all=True)
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

    parts = {"claim": (DeliveryRunner, "_claim"), "step": (Runs, "step")}
    parts |= {"wait": (SenderPool, "outcomes"), "record": (DeliveryRunner, "_record")}
    for name, (owner, method) in parts.items():
        monkeypatch.setattr(owner, method, watched(name, getattr(owner, method)))
    monkeypatch.setattr(engine, "LIVE_SECONDS", 60)
    runner = DeliveryRunner("test")
    try:
        runner.run(20)
    finally:
        runner.close(grace=5)
    assert seen == [True, True]


def test_a_run_counts_its_rows_step_by_step(small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_pace, "LOOK_AT", 4)
    monkeypatch.setattr(run_pace, "QUICK_SECONDS", 0)
    first, second = make_webhook(Thing, enabled=False), make_webhook(Thing, enabled=False)
    for number in range(10):
        make_delivery(second if number > 6 else first, State.FAILED, object_id=str(number))
    first_id = Event.objects.earliest("pk").pk
    run = runs.start(RunKind.RETRY, {}, takes_all=True)
    for counts in ({first.pk: 4}, {first.pk: 7, second.pk: 1}, {first.pk: 7, second.pk: 3}):
        assert run.total is None
        steps(run, 1)
        assert run.counts == {str(pk): count for pk, count in counts.items()}
    assert run.total == 10
    assert run.cursors == {str(first.pk): first_id - 1, str(second.pk): first_id + 3}
    steps(run, 30)
    assert (run.state, run.done) == (RunState.DONE, 10)


def test_a_query_that_takes_too_long_is_tried_again_with_fewer_events(monkeypatch: pytest.MonkeyPatch) -> None:
    make_delivery(make_webhook(Thing, enabled=False), State.FAILED)
    run, act, asked = runs.start(RunKind.RETRY, {}, takes_all=True), run_acts.acts[RunKind.RETRY], list[int]()
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
    steps(run, 2)
    assert asked == [run_pace.LOOK_AT, run_pace.LOOK_AT // run_pace.STOPPED_FACTOR]
    assert run.counted_event == ids - 100_000 + asked[1]
    assert run.state == RunState.RUNNING


def test_the_history_names_the_webhooks_with_the_most_deliveries(user: User) -> None:
    for name, count in (("DNS", 2), ("CMDB sync", 3), ("IPAM", 1), ("Tickets", 1), ("Chat", 1)):
        webhook = make_webhook(Thing, name=name)
        for number in range(count):
            make_delivery(webhook, State.FAILED, object_id=str(number))
    finished(runs.start(RunKind.DISCARD, {"state": ["failed"]}, user))
    assert LogEntry.objects.latest("pk").object_repr == "Discarded 8 deliveries of CMDB sync, DNS, IPAM and 2 others"


def test_the_rows_of_a_webhook_that_a_user_paused_wait_until_it_is_resumed(inbox: Inbox, user: User) -> None:
    webhook = make_webhook(Thing, url=inbox.url())
    sent(webhook, 3)
    pause(Webhook.objects.all(), user)
    run = finished(runs.start(RunKind.RESEND, {}, takes_all=True))
    assert (run.state, run.done) == (RunState.DONE, 3)
    assert set(states()) == {State.PENDING}
    assert not QueuedDelivery.objects.exclude(claim=None).exists()
    assert len(inbox.received()) == 3
    resume(Webhook.objects.all(), user)
    drain()
    assert set(states()) == {State.SUCCEEDED}
    assert len(inbox.received()) == 6


def test_a_replay_run_replays_failed_events_and_counts_those_that_it_cannot(inbox: Inbox, user: User) -> None:
    make_webhook(Thing, url=inbox.url())
    things = [Thing.objects.create(name=f"thing {number}") for number in range(3)]
    drain()
    Event.objects.update(error="the serializer was broken", data="")
    things[1].delete()
    Event.objects.filter(action="deleted").delete()
    Thing.objects.filter(pk=things[0].pk).update(name="today")
    run = finished(runs.start(RunKind.REPLAY, {"failed": True}, user))
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 3, 2, 1)
    assert run.problem == "thing 1: the object is gone"
    assert sorted(one.json["data"]["name"] for one in inbox.received()[-2:]) == ["thing 2", "today"]
    assert LogEntry.objects.latest("pk").object_repr == "Replayed 2 events"


def test_a_replay_run_takes_the_events_of_one_webhook_only_to_it(inbox: Inbox) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, on="d", url=inbox.url("ok/other"))
    things = [Thing.objects.create(name=f"thing {number}") for number in range(3)]
    things[0].delete()
    drain()
    Thing.objects.update(name="today")
    assert runs.preview(RunKind.REPLAY, {"webhook": other.pk}).count == 1
    run = finished(runs.start(RunKind.REPLAY, {"webhook": webhook.pk, "action": "created"}))
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 3, 2, 1)
    assert [one.json["data"]["name"] for one in inbox.received("ok")[-2:]] == ["today", "today"]
    assert len(inbox.received("ok/other")) == 1


def test_a_replay_run_goes_on_where_a_killed_worker_left_off(inbox: Inbox, small_steps: None) -> None:
    make_webhook(Thing, url=inbox.url())
    for number in range(5):
        Thing.objects.create(name=str(number))
    run = runs.start(RunKind.REPLAY, {"object_type": "testapp.thing"})
    steps(run, 2)
    assert run.done == 2
    run = finished(run)
    assert (run.state, run.done) == (RunState.DONE, 5)
    replayed = Event.objects.exclude(replay_of=None).values_list("replay_of", flat=True)
    assert sorted(replayed) == list(Event.objects.filter(replay_of=None).order_by("pk").values_list("pk", flat=True))


def test_a_backfill_sends_a_new_webhook_the_stored_events_that_it_wants(inbox: Inbox) -> None:
    make_webhook(Thing, url=inbox.url())
    for name in ("a", "b", "a"):
        thing = Thing.objects.create(name=name)
        thing.name = f"{name} again"
        thing.save()
    drain()
    new = make_webhook(Thing, on="c", url=inbox.url("ok/new"), conditions={"attr": "name", "value": "a"}, name="new")
    filters = runs.since_filters(new, timezone.now() - timedelta(hours=1))
    found = runs.preview(RunKind.BACKFILL, filters)
    wanted = [event.pk for event in events() if json.loads(event.data)["name"] == "a"]
    assert (found.count, [one.id for one in found.sample]) == (2, wanted)
    run = finished(runs.start(RunKind.BACKFILL, filters))
    assert (run.state, run.total, run.done, run.failed, run.skipped) == (RunState.DONE, 3, 2, 0, 1)
    assert sorted(one.json["sequence"] for one in inbox.received("ok/new")) == wanted
    assert finished(runs.start(RunKind.BACKFILL, filters)).done == 0, "it has them"


def test_a_preview_of_a_backfill_takes_as_many_statements_for_many_events_as_for_one() -> None:
    old, counts = make_webhook(Thing), []
    new = make_webhook(Thing, conditions={"attr": "name", "value": "a"})
    for _ in range(3):
        for _ in range(5):
            make_event(old)
        with CaptureQueriesContext(connection) as captured:
            runs.preview(RunKind.BACKFILL, since_long_ago(new))
        counts.append(len(captured))
    assert counts[1] == counts[2], "the first one reads content types, too"


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", [RunKind.RETRY, RunKind.RESEND, RunKind.DISCARD])
@pytest.mark.parametrize("filters", [{"webhook": 1}, {"error_kind": "http_503"}, {"state": ["failed"]}])
def test_sqlite_looks_up_the_rows_of_a_step_by_their_events(kind: RunKind, filters: dict[str, Any]) -> None:
    act, run = run_acts.DeliveryAct(kind), Run(kind=kind, filters=filters)
    with CaptureQueriesContext(connection) as captured:
        act.count(run, 10, 20)
        act.keys(run, 1, 10, 20, 100)
    for query in captured.captured_queries:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
            plan = " ".join(row[-1] for row in cursor.fetchall())
        assert "(event_id>? AND event_id<?)" in plan, "otherwise each step reads all deliveries of the webhook"


def test_a_backfill_keeps_the_order_of_each_object(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(BATCH=4)
    old = make_webhook(Thing, url=inbox.url())
    for number in range(20):
        make_event(old, object_id=str(number % 2))
    drain()
    new = make_webhook(Thing, url=inbox.url("ok/new"))
    assert finished(runs.start(RunKind.BACKFILL, since_long_ago(new))).done == 20
    for key in ("0", "1"):
        sequences = [one.json["sequence"] for one in inbox.received("ok/new") if one.json["data"]["id"] == key]
        assert len(sequences) == 10
        assert sequences == sorted(sequences)


def test_a_backfill_counts_events_without_the_data_of_its_serializer(inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    drain()
    new = make_webhook(Thing, url=inbox.url("ok/new"), serializer="brief")
    run = finished(runs.start(RunKind.BACKFILL, since_long_ago(new)))
    assert (run.done, run.failed) == (0, 1)
    assert "no data of the serializer brief" in run.problem


def test_a_recovery_sends_what_did_not_succeed_since_a_time(inbox: Inbox, user: User) -> None:
    webhook, other = make_webhook(Thing, url=inbox.url()), make_webhook(Thing, url=inbox.url())
    make_event(
        webhook, other, object_id="early", error="KeyError", data="", timestamp=timezone.now() - timedelta(hours=2)
    )
    old = make_delivery(webhook, State.FAILED, object_id="old", finished_at=timezone.now() - timedelta(hours=3))
    for number, state in enumerate((State.FAILED, State.DISCARDED, State.SUCCEEDED)):
        make_delivery(webhook, state, object_id=f"sent-{number}")
    make_delivery(other, State.FAILED)
    for thing in (Thing.objects.create(name="a"), Thing.objects.create(name="b")):
        failed = {"error": "KeyError", "data": "", "replayed_at": None}
        Event.objects.filter(object_id=thing.pk).update(**failed)
    Event.objects.filter(object_id=thing.pk).update(error=LOOP_PROTECTION)
    make_event(other, object_id="other", error="KeyError", data="")
    filters = runs.since_filters(webhook, timezone.now() - timedelta(hours=1))
    found = runs.preview(RunKind.RECOVER, filters)
    assert (found.deliveries, found.events, found.count) == (2, 1, 3)
    assert all(one.name for one in found.sample)
    run = finished(runs.start(RunKind.RECOVER, filters, user))
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 3, 3, 0)
    assert [one.json["data"]["name"] for one in inbox.received() if "replay_of" in one.json] == ["a"] * 2
    assert Delivery.objects.get(pk=old.pk).state == State.FAILED
    assert runs.preview(RunKind.RECOVER, filters).count == 0
    assert LogEntry.objects.latest("pk").object_repr == f"Recovered 3 deliveries and events of {webhook}"


def test_the_first_event_since_a_time_is_found_by_bisection_in_one_statement() -> None:
    webhook, now = make_webhook(Thing), timezone.now()
    assert Event.objects.first_since(now) <= 1
    made = [make_event(webhook, timestamp=now - timedelta(minutes=10 * (9 - number))) for number in range(10)]
    for number in (0, 4, 9):
        moment = now - timedelta(minutes=10 * (9 - number))
        with CaptureQueriesContext(connection) as captured:
            assert Event.objects.all().first_since(moment) <= made[number].pk
        assert len(captured) == 1
        found = select_events({"created_after": moment.isoformat()})
        assert list(found.order_by("pk")) == made[number:]
    assert not select_events({"created_after": (now + timedelta(hours=1)).isoformat()}).exists()
    assert Event.objects.first_since(now - timedelta(days=9)) == made[0].pk, "deleted events leave ids before it"
