"""Notifications: after the commit, once, in a thread that delays nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from tests.support.draining import drain, finished, states
from tests.support.inbox import ROOT, Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.modes import MODES
from tests.support.rollbacks import bare_savepoint
from tests.support.servers import database_url
from tests.support.statements import statements_of
from tests.support.waiting import until
from tests.testapp.models import Thing
from users.models import User
from webhooks import hooks, send
from webhooks.delivery import policy
from webhooks.delivery.claims import load_claimed
from webhooks.delivery.outcomes import record
from webhooks.ground import registry
from webhooks.ground.db import atomically
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import bodies_by_webhook
from webhooks.hooks import CapturedChange, FinishedAttempt, FinishedRun, Hooks, RecordedEvent, Veto, WebhookChange
from webhooks.models import Event, QueuedDelivery, State, Webhook
from webhooks.models.queue import CLAIMED_COLUMNS, ClaimedRow
from webhooks.operations import replays, runs
from webhooks.operations import webhooks as operations
from webhooks.workers import jobs
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

calls: list[tuple[str, Any]] = []
released = threading.Event()


class Recorder(Hooks):
    """Notes all notifications."""

    def event_recorded(self, event: RecordedEvent) -> None:
        calls.append(("event_recorded", event))

    def attempt_finished(self, attempt: FinishedAttempt) -> None:
        calls.append(("attempt_finished", attempt))

    def delivery_failed(self, attempt: FinishedAttempt) -> None:
        calls.append(("delivery_failed", attempt))

    def webhook_paused(self, webhook: WebhookChange) -> None:
        calls.append(("webhook_paused", webhook))

    def webhook_resumed(self, webhook: WebhookChange) -> None:
        calls.append(("webhook_resumed", webhook))

    def webhook_disabled(self, webhook: WebhookChange) -> None:
        calls.append(("webhook_disabled", webhook))

    def run_finished(self, run: FinishedRun) -> None:
        calls.append(("run_finished", run))


class Raising(Hooks):
    def event_recorded(self, event: RecordedEvent) -> None:
        raise LookupError("no such thing")

    attempt_finished = event_recorded  # type: ignore[assignment]


class Hanging(Hooks):
    def event_recorded(self, event: RecordedEvent) -> None:
        calls.append(("hangs", event))
        released.wait(60)

    attempt_finished = event_recorded  # type: ignore[assignment]


class Exiting(Hooks):
    def event_recorded(self, event: RecordedEvent) -> None:
        sys.exit("gone")


class Unreadable(Hooks):
    """Raises as soon as its methods are looked up."""

    @property
    def event_recorded(self) -> Any:  # type: ignore[override]
        raise LookupError("no such thing")


class Awaited(Hooks):
    """Nothing would await its method."""

    async def event_recorded(self, event: RecordedEvent) -> None:  # type: ignore[override]
        calls.append(("awaited", event))


class Chosen(Hooks):
    """Overrides a method in its instance."""

    def __init__(self) -> None:
        self.event_recorded = lambda event: calls.append(("chosen", event))  # type: ignore[method-assign]


class Loading(Hooks):
    """Takes its time to be made."""

    def __init__(self) -> None:
        time.sleep(0.05)

    def event_recorded(self, event: RecordedEvent) -> None:
        calls.append(("loaded", self))


class Unused(Hooks):
    pass


class Reading(Hooks):
    """Uses the database."""

    def event_recorded(self, event: RecordedEvent) -> None:
        calls.append(("read", Event.objects.get(pk=event.id).object_repr))


@pytest.fixture(autouse=True)
def no_earlier_calls() -> Iterator[None]:
    calls.clear()
    released.clear()
    yield
    released.set()
    assert hooks.flush(20)


@pytest.fixture
def listed(webhooks_settings: Any) -> Callable[..., None]:
    hooks._loaded.clear()  # a class that cannot be used is logged when it is loaded
    return lambda *classes: webhooks_settings(HOOKS=[f"{__name__}.{one.__name__}" for one in classes])


@pytest.fixture
def webhook(inbox: Inbox) -> Webhook:
    return make_webhook(Thing, url=inbox.url(), name="CMDB")


def called(*names: str) -> list[Any]:
    """The values of the calls so far, of hooks with these names."""
    assert hooks.flush(20), "notifications wait"
    return [value for name, value in calls if name in names]


def recorded() -> list[tuple[str, str]]:
    return [(event.action, event.object_name) for event in called("event_recorded")]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@MODES
def test_an_event_is_announced_once_as_it_was_committed(mode: Any, webhook: Webhook, listed: Any) -> None:
    listed(Recorder)
    mode(lambda: Thing.objects.create(name="one"))
    [event] = called("event_recorded")
    stored = Event.objects.get()
    assert (event.id, event.action, event.object_type, event.object_id) == (
        stored.pk, "created", "testapp.thing", stored.object_id,
    )  # fmt: skip
    assert (event.object_name, list(event.webhook_ids), event.error) == ("one", [webhook.pk], "")


def test_several_changes_of_an_object_are_announced_as_one_event(webhook: Webhook, listed: Any) -> None:
    listed(Recorder)
    with transaction.atomic():
        thing = Thing.objects.create(name="one")
        thing.name = "two"
        thing.save()
        assert called("event_recorded") == [], "it is not committed yet"
        Thing.objects.create(name="gone").delete()
    assert recorded() == [("created", "two")]


def test_nothing_is_announced_after_a_rollback(webhook: Webhook, listed: Any) -> None:
    listed(Recorder)
    with pytest.raises(LookupError), transaction.atomic():
        Thing.objects.create(name="one")
        raise LookupError
    with transaction.atomic():
        Thing.objects.create(name="two")
        with pytest.raises(LookupError), transaction.atomic():
            Thing.objects.create(name="three")
            raise LookupError
        savepoint = bare_savepoint()
        Thing.objects.create(name="four")
        transaction.savepoint_rollback(savepoint)
    assert recorded() == [("created", "two")]


def test_a_replay_that_a_savepoint_rolls_back_is_not_announced(webhook: Webhook, listed: Any) -> None:
    Thing.objects.create(name="one")
    listed(Recorder)
    with transaction.atomic():
        savepoint = bare_savepoint()
        replays.replay(Event.objects.all())
        transaction.savepoint_rollback(savepoint)
    assert recorded() == []


def test_custom_events_replays_and_failed_events_are_announced(webhook: Webhook, listed: Any) -> None:
    Webhook.objects.update(custom_events=["testapp.audited"])
    thing = Thing.objects.create(name="one")
    listed(Recorder)
    replays.replay(Event.objects.all())
    assert recorded() == [("created", "one")]
    assert Event.objects.get(replay_of=None) != called("event_recorded")[0].id
    registry.register_event("testapp.audited", "audited")
    try:
        send("testapp.audited", thing)
    finally:
        registry.unregister_event("testapp.audited")
    assert recorded()[1:] == [("testapp.audited", "one")]


def test_attempts_are_announced_with_their_result(inbox: Inbox, listed: Any, webhooks_settings: Any) -> None:
    listed(Recorder)
    webhooks_settings(RETRY_SCHEDULE=[], HOOKS=[f"{__name__}.Recorder"])
    good = make_webhook(Thing, url=inbox.url(), name="good")
    bad = make_webhook(Thing, url=inbox.url("status/503"), name="bad")
    event = make_event(good, bad)
    drain()
    found = {one.webhook_name: one for one in called("attempt_finished")}
    assert len(called("attempt_finished")) == 2
    assert (found["good"].succeeded, found["good"].status, found["good"].error_kind) == (True, 200, "")
    assert (found["bad"].succeeded, found["bad"].status, found["bad"].error_kind) == (False, 503, "http_503")
    assert {one.event_id for one in found.values()} == {event.pk}
    [failed] = called("delivery_failed")
    assert failed == found["bad"]
    assert failed.number == 1


def test_an_attempt_that_is_retried_is_not_given_up(inbox: Inbox, listed: Any, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[3600])
    listed(Recorder)
    make_event(make_webhook(Thing, url=inbox.url("status/503")))
    drain()
    assert len(called("attempt_finished")) == 1
    assert called("delivery_failed") == []


def test_a_record_that_is_rolled_back_is_not_announced(listed: Any) -> None:
    listed(Recorder)
    with pytest.raises(LookupError), transaction.atomic():
        hooks.announce("attempt_finished", "default", lambda: ["never"])
        raise LookupError
    hooks.announce("attempt_finished", "default", lambda: ["at once"])
    assert called("attempt_finished") == ["at once"]


def test_a_worker_that_pauses_and_resumes_a_webhook_announces_it(
    inbox: Inbox, webhook: Webhook, webhooks_settings: Any, listed: Any
) -> None:
    webhooks_settings(PAUSE_AFTER=1, RETRY_SCHEDULE=[0.01], HOOKS=[f"{__name__}.Recorder"])
    Webhook.objects.update(payload_url=inbox.url("status/503"))
    make_event(webhook)
    drain()
    [paused] = called("webhook_paused")
    assert (paused.id, paused.name, paused.username) == (webhook.pk, "CMDB", "")
    assert (paused.last_failure, paused.error_kind) == ("HTTP 503 Service Unavailable", "http_503")
    assert called("webhook_resumed") == []
    Webhook.objects.update(payload_url=inbox.url())
    Webhook.objects.probe()
    drain()
    [resumed] = called("webhook_resumed")
    assert (resumed.name, resumed.username) == ("CMDB", "")


@pytest.mark.parametrize("stopped", [{"enabled": False}, {"paused_at": timezone.now()}])
def test_a_late_success_does_not_announce_a_webhook_that_stays_stopped(
    stopped: dict[str, Any], webhook: Webhook, listed: Any
) -> None:
    listed(Recorder)
    Webhook.objects.update(failures_in_a_row=9, probe_at=timezone.now(), **stopped)
    with transaction.atomic():
        policy.update_all({Webhook.objects.get(): [Outcome(timezone.now(), 1)]})
    assert called("webhook_resumed") == []
    assert not Webhook.objects.get().failures_in_a_row


def test_a_worker_that_disables_a_webhook_announces_it(inbox: Inbox, webhook: Webhook, listed: Any) -> None:
    listed(Recorder)
    Webhook.objects.update(payload_url=inbox.url("status/410"))
    make_event(webhook)
    drain()
    [disabled] = called("webhook_disabled")
    assert (disabled.name, disabled.disabled_reason, disabled.error_kind) == ("CMDB", "gone", "http_410")
    assert called("webhook_paused") == []


def test_what_a_user_does_to_a_webhook_is_announced(webhook: Webhook, listed: Any, redis: Any) -> None:
    listed(Recorder)
    user, chosen = User.objects.create_superuser("jane"), Webhook.objects.all()
    operations.pause(chosen, user)
    operations.resume(chosen, user)
    operations.set_enabled(chosen, user, enabled=False)
    operations.set_enabled(chosen, user, enabled=False)
    operations.set_enabled(chosen, user, enabled=True)
    assert hooks.flush(20)
    assert [(name, value.username) for name, value in calls] == [
        ("webhook_paused", "jane"),
        ("webhook_resumed", "jane"),
        ("webhook_disabled", "jane"),
        ("webhook_resumed", "jane"),
    ]


def test_the_end_of_a_run_is_announced(webhook: Webhook, listed: Any, redis: Any) -> None:
    listed(Recorder)
    make_delivery(webhook, State.FAILED)
    run = finished(runs.start("retry", {}, takes_all=True, requested_by="jane"))
    [ended] = called("run_finished")
    assert (ended.id, ended.kind, ended.state, ended.done, ended.requested_by) == (run.pk, "retry", "done", 1, "jane")
    cancelled = runs.start("resend", {}, takes_all=True)
    assert runs.cancel(cancelled)
    assert [(one.id, one.state) for one in called("run_finished")[1:]] == [(cancelled.pk, "cancelled")]


def test_a_hook_that_raises_is_a_line_in_the_log_and_nothing_else(
    webhook: Webhook, listed: Any, app_log: pytest.LogCaptureFixture
) -> None:
    listed(Raising, Recorder)
    Thing.objects.create(name="one")
    drain()
    assert states() == [State.SUCCEEDED]
    assert recorded() == [("created", "one")]
    assert len(called("attempt_finished")) == 1
    lines = [record.getMessage() for record in app_log.records if record.name == "webhooks.hooks"]
    assert lines == [f"The hook {__name__}.Raising.{name} failed" for name in ("event_recorded", "attempt_finished")]


def test_a_hook_that_fails_again_and_again_is_a_line_now_and_then(
    listed: Any, app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(Raising)
    [hook] = hooks.listed("attempt_finished")
    now = timezone.now()
    attempt = FinishedAttempt("11", 7, 1, "CMDB", 1, now, 1, 503, "http_503", "HTTP 503", "w")
    for _ in range(3):
        hook.call(attempt)
    monkeypatch.setattr(hooks, "FAILURES_LOGGED_EVERY", 0)
    hook.call(attempt)
    hook.call(attempt)
    name = f"{__name__}.Raising.attempt_finished"
    assert app_log.messages == [
        f"The hook {name} failed", f"The hook {name} failed, and 2 times since the last line about it",
        f"The hook {name} failed",
    ]  # fmt: skip
    about = {"webhook": "CMDB", "delivery": "11", "event": 7, "kind": "http_503"}
    assert all(about.items() <= vars(record).items() for record in app_log.records)


@pytest.mark.usefixtures("listed")  # so that the class is loaded, and logged, here
def test_a_class_that_cannot_be_used_takes_nothing_from_the_others(
    webhook: Webhook, webhooks_settings: Any, app_log: pytest.LogCaptureFixture
) -> None:
    webhooks_settings(HOOKS=["project.absent.Hooks", f"{__name__}.calls", f"{__name__}.Recorder"])
    Thing.objects.create(name="one")
    assert recorded() == [("created", "one")]
    assert 'WEBHOOKS["HOOKS"]: project.absent.Hooks cannot be used' in app_log.text


@pytest.mark.parametrize("broken", [Unreadable, Awaited])
def test_a_class_with_a_method_that_cannot_be_called_is_not_used(
    broken: type[Hooks], webhook: Webhook, listed: Any, app_log: pytest.LogCaptureFixture
) -> None:
    listed(broken, Recorder)
    Thing.objects.create(name="one")
    drain()
    assert (recorded(), states()) == ([("created", "one")], [State.SUCCEEDED])
    assert f'WEBHOOKS["HOOKS"]: {__name__}.{broken.__name__} cannot be used' in app_log.text


def test_a_method_of_an_instance_is_a_hook(webhook: Webhook, listed: Any) -> None:
    listed(Chosen)
    Thing.objects.create(name="one")
    assert [event.object_name for event in called("chosen")] == ["one"]


def test_a_class_that_is_listed_twice_is_called_once(webhook: Webhook, listed: Any) -> None:
    listed(Recorder, Chosen, Recorder)
    Thing.objects.create(name="one")
    assert [event.object_name for event in called("event_recorded")] == ["one"]


def test_threads_that_need_a_hook_at_once_use_the_same_instance(listed: Any) -> None:
    listed(Loading)
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(lambda _: hooks.listed("event_recorded")[0].method, range(4))]
    assert len({id(method.__self__) for method in found}) == 1  # type: ignore[attr-defined]


def test_a_hook_that_exits_ends_no_thread(webhook: Webhook, listed: Any, app_log: pytest.LogCaptureFixture) -> None:
    listed(Exiting, Recorder)
    Thing.objects.create(name="one")
    assert recorded() == [("created", "one")]
    assert f"The hook {__name__}.Exiting.event_recorded failed" in app_log.text


def test_a_hook_that_hangs_delays_no_save_and_no_delivery(webhook: Webhook, listed: Any, inbox: Inbox) -> None:
    listed(Hanging, Recorder)
    Thing.objects.create(name="one")
    until(lambda: calls, 10, "the hook to hang")
    Thing.objects.create(name="two")
    drain()
    assert len(inbox.received()) == 2
    assert states() == [State.SUCCEEDED] * 2
    assert [name for name, _ in calls] == ["hangs"], "the others wait"
    released.set()
    assert recorded() == [("created", "one"), ("created", "two")]


def test_more_notifications_than_may_wait_are_dropped_with_a_line_in_the_log(
    webhook: Webhook, listed: Any, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "MOST_WAITING", 2)
    # The test on the other database may have been a moment ago.
    hooks._notifier._dropped, hooks._notifier._logged = 0, float("-inf")
    listed(Hanging)
    Thing.objects.create(name="first")
    until(lambda: calls, 10, "the hook to hang")
    for number in range(5):
        Thing.objects.create(name=str(number))
    released.set()
    assert len(called("hangs")) == 3
    [line] = [record.getMessage() for record in app_log.records if "dropped" in record.getMessage()]
    assert line == f"1 notifications of hooks were dropped: too many wait behind {__name__}.Hanging.event_recorded"


def test_another_thread_takes_over_from_a_hook_that_does_not_return(
    webhook: Webhook, listed: Any, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "STUCK_SECONDS", 0.01)
    listed(Hanging)
    Thing.objects.create(name="one")
    until(lambda: calls, 10, "the hook to hang")
    listed(Recorder)
    until(lambda: time.monotonic() - hooks._notifier._began > 0.01, 10, "the hook to be stuck")
    Thing.objects.create(name="two")
    until(lambda: len(calls) == 2, 10, "the other hook")
    assert calls[1][1].object_name == "two"
    assert f"The hook {__name__}.Hanging.event_recorded did not return within" in app_log.text


def test_another_thread_takes_over_although_no_other_notification_comes(
    webhook: Webhook, listed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(hooks._notifier, "_timer", None)  # an earlier test has set it for a minute
    listed(Hanging, Recorder)
    Thing.objects.create(name="one")
    until(lambda: len(calls) == 2, 10, "the hook behind the one that hangs")
    assert [name for name, _ in calls] == ["hangs", "event_recorded"]


class Vetoing(Hooks):
    """Only a request can be refused."""

    def trace_context(self, change: CapturedChange) -> str | None:
        raise Veto("no trace")

    def event_recorded(self, event: RecordedEvent) -> None:
        raise Veto("no event")

    def job_ends(self, seconds: float) -> None:
        raise Veto("no end")


def test_a_veto_in_another_hook_is_an_error_of_the_hook(
    webhook: Webhook, listed: Any, inbox: Inbox, redis: Any, app_log: pytest.LogCaptureFixture
) -> None:
    listed(Vetoing, Recorder)
    Thing.objects.create(name="one")
    jobs.drain()
    assert [one.error for one in Event.objects.all()] == [""]
    assert states() == [State.SUCCEEDED]
    for name in ("trace_context", "event_recorded", "job_ends"):
        assert f"The hook {__name__}.Vetoing.{name} failed" in app_log.text


def test_a_job_ends_with_its_notifications_although_the_database_is_away(
    webhook: Webhook, listed: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[float]()
    monkeypatch.setattr(Recorder, "job_ends", lambda self, seconds: ended.append(seconds))

    def away(self: Any, grace: float) -> None:
        raise OperationalError("the database is away")

    listed(Recorder)
    monkeypatch.setattr(DeliveryRunner, "close", away)
    with pytest.raises(OperationalError):
        jobs.drain()
    assert len(ended) == 1


def test_a_hook_may_use_the_database_and_leaves_no_connection(webhook: Webhook, listed: Any) -> None:
    listed(Reading)
    Thing.objects.create(name="one")
    assert called("read") == ["one"]


@pytest.mark.cost
def test_hooks_that_nothing_overrides_cost_no_query_and_no_thread(
    webhook: Webhook, listed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hooks.flush(20)
    before = hooks._notifier._thread
    Thing.objects.create(name="warm")

    def change() -> None:
        with transaction.atomic():
            Thing.objects.create(name="one")

    def deliver() -> None:
        """Record an attempt, as a worker does."""
        delivery = make_delivery(webhook, State.SENDING)
        row = ClaimedRow(*QueuedDelivery.objects.filter(pk=delivery.pk).values_list(*CLAIMED_COLUMNS).get())
        held = load_claimed([row], QueuedDelivery.objects.get(pk=delivery.pk).claim, bodies_by_webhook)
        outcome = Outcome(timezone.now(), 1, request=None)
        recorded = statements_of(lambda: atomically(lambda: record([(held[0], outcome)], "w"), "default"))
        costs[-1].append(len(recorded))

    monkeypatch.setattr(policy, "SUCCESS_NOTED_EVERY", 3600)  # to note it costs two queries
    costs: list[list[int]] = [[]]
    deliver()  # the first success of a webhook costs more
    costs.clear()
    for classes in ((), (Unused,), (Recorder,)):
        listed(*classes)
        costs.append([len(statements_of(change))])
        deliver()
        if Recorder not in classes:
            assert hooks._notifier._thread is before
            assert not hooks._notifier._waiting
    assert costs[0] == costs[1] == costs[2], "not even hooks that are called cost a query"


@pytest.mark.one_database
def test_without_hooks_a_process_starts_no_thread(webhook: Webhook) -> None:
    code = """
import django, threading
django.setup()
from tests.testapp.models import Thing
from tests.support.draining import drain
Thing.objects.create(name="one")
drain()
print(sorted(one.name for one in threading.enumerate() if one.name == "webhooks-hooks"))
"""
    assert run_process(code).strip() == "[]"


@pytest.mark.one_database
def test_a_process_that_ends_makes_its_notifications_first(webhook: Webhook) -> None:
    code = """
import django
django.setup()
from tests.testapp.models import Thing
Thing.objects.create(name="one")
"""
    said = run_process(code, '{"HOOKS": ["tests.hooks.printing.Printing"]}')
    assert said.splitlines() == ["recorded one"]


@pytest.mark.one_database
def test_a_forked_process_makes_its_own_notifications(webhook: Webhook) -> None:
    code = """
import django, os, threading
django.setup()
from django.db import connections
from tests.testapp.models import Thing
from webhooks import hooks
Thing.objects.create(name="parent")
hooks.flush()
connections.close_all()
parent, held = os.getpid(), threading.Event()
waiting = lambda: print("the parent's, in it:", os.getpid() == parent, flush=True)
hooks.call_in_background([("held", held.wait), ("waiting", waiting)])
if pid := os.fork():
    os.waitpid(pid, 0)
    held.set()
    hooks.flush()
else:
    Thing.objects.create(name="child")
    hooks.flush()
    os._exit(0)
"""
    said = run_process(code, '{"HOOKS": ["tests.hooks.printing.Printing"]}')
    assert said.splitlines() == ["recorded parent", "recorded child", "the parent's, in it: True"]


def run_process(code: str, settings: str = "{}") -> str:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
        "DATABASE_URL": database_url(),
        "TEST_WEBHOOKS": settings,
        "PYTHONUNBUFFERED": "1",
    }
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_hook_loses_no_delivery(workers: Any, inbox: Inbox) -> None:
    make_event(make_webhook(Thing, url=inbox.url()))
    killed = workers.start(HOOKS=["tests.hooks.printing.Hanging"])
    until(lambda: "hangs in attempt 1" in killed.text, 30, "the hook")
    killed.kill()
    assert states() == [State.SUCCEEDED], "it was recorded before the hook was called"
    second = workers.start(HOOKS=["tests.hooks.printing.Printing"])
    make_event(make_webhook(Thing, url=inbox.url("ok/second")))
    until(lambda: "attempt 1" in second.text, 30, "the hook of the second worker")
    second.stop()
    assert second.text.count("attempt 1") == 1, "what the first worker recorded is not announced again"
    assert len(inbox.received()) == 2
