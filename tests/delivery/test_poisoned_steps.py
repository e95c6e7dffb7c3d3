"""Steps of runs that end, stall or delay their worker: the run finds the event, and goes on without it."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone

from tests.support.draining import drain, finished, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.testapp.api.serializers import ThingSerializer
from tests.testapp.models import Thing
from webhooks.delivery import sweep
from webhooks.delivery.runs import kinds, steps
from webhooks.delivery.runs.kinds import Key
from webhooks.delivery.runs.risky import Note
from webhooks.ground.conf import conf
from webhooks.models import Delivery, Event, Run, RunState, State, Worker
from webhooks.operations import runs
from webhooks.workers.runner import DeliveryRunner

pytestmark = pytest.mark.usefixtures("database")

Poison = Callable[[Callable[[], None]], None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Let the serializer of a Thing called "pill" do something first."""

    def give(act: Callable[[], None]) -> None:
        serialize = ThingSerializer.to_representation

        def to_representation(self: Any, instance: Thing) -> Any:
            if instance.name == "pill":
                act()
            return serialize(self, instance)

        monkeypatch.setattr(ThingSerializer, "to_representation", to_representation)

    return give


def begin_replay(*names: str, url: str) -> Run:
    """A replay of things with these names that were sent."""
    make_webhook(Thing, url=url)
    for name in names:
        Thing.objects.create(name=name)
    drain()
    return runs.start("replay", {"object_type": "testapp.thing"})


def replayed() -> list[str]:
    """The names of the objects of the new events."""
    new = Event.objects.exclude(replay_of=None).order_by("pk")
    return [json.loads(data)["name"] for data in new.values_list("data", flat=True)]


def take_step(runner: DeliveryRunner) -> None:
    runner._runs.step()


@pytest.fixture
def end_worker(poison: Poison) -> Callable[[Run], None]:
    """A worker that the poisoned event ends, and the end of its lease."""

    class Killed(BaseException):
        """As os._exit: nothing of the worker runs any more. Unlike a signal's, no handler of ours knows it."""

    def die() -> None:
        raise Killed

    def end(run: Run) -> None:
        poison(die)
        runner = DeliveryRunner("test")
        try:
            with pytest.raises(Killed):
                for _ in range(20):
                    take_step(runner)
        finally:
            runner.close(grace=0)
        Worker.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
        sweep_step(sweep.expire_leases)
        run.refresh_from_db()

    return end


def test_an_event_that_ends_three_workers_fails_and_the_run_goes_on(
    inbox: Inbox, end_worker: Callable[[Run], None], app_log: pytest.LogCaptureFixture
) -> None:
    run = begin_replay("a", "b", "pill", "c", url=inbox.url())
    pill = Event.objects.get(object_repr="pill")
    end_worker(run)
    assert (run.done, run.failed) == (0, 0), "it was rolled back"
    end_worker(run)
    assert (run.done, run.failed) == (2, 0), "the ones before it were taken one at a time"
    end_worker(run)
    finished(run)
    assert (run.state, run.done, run.failed, run.skipped) == (RunState.DONE, 3, 1, 0)
    assert run.problem.startswith(f"event {pill.pk} (pill): three workers ended or stalled while they took it; ")
    assert run.problem in app_log.text
    assert replayed() == ["a", "b", "c"]
    assert run.note == {}


def test_a_step_that_another_worker_is_in_is_left_to_it(inbox: Inbox, end_worker: Callable[[Run], None]) -> None:
    run = begin_replay("a", url=inbox.url())
    token = uuid.uuid4()
    Worker.objects.create(token=token, lease_until=timezone.now() + timedelta(seconds=60))
    runner = DeliveryRunner("test")
    try:
        take_step(runner)  # counts
        note = Note(token.hex, run.last_event, run.last_event, 2)
        Run.objects.update(note=note.as_dict())
        for _ in range(3):
            take_step(runner)
            assert Note.of(Run.objects.get()) == note
        Worker.objects.filter(token=token).delete()
        take_step(runner)
    finally:
        runner.close(grace=0)
    run.refresh_from_db()
    assert (run.failed, run.note) == (1, {}), "that was the third loss"


def test_an_event_that_hangs_is_interrupted_and_fails_after_three_tries(
    inbox: Inbox, poison: Poison, app_log: pytest.LogCaptureFixture
) -> None:
    alarms = list[float]()

    def hang() -> None:
        alarms.append(signal.getitimer(signal.ITIMER_REAL)[0])
        signal.raise_signal(signal.SIGALRM)  # as if that time had passed

    run = begin_replay("a", "pill", "b", url=inbox.url())
    poison(hang)
    finished(run)
    assert len(alarms) == 3
    assert all(0 < seconds <= conf.lease / 3 for seconds in alarms)
    assert (run.state, run.done, run.failed) == (RunState.DONE, 2, 1)
    assert "three workers ended or stalled" in run.problem
    assert app_log.text.count("took too long, and was rolled back") == 3
    assert replayed() == ["a", "b"]
    assert Delivery.objects.in_states("succeeded").count() == 5


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_worker_that_is_stopped_in_a_step_counts_the_loss_itself(
    inbox: Inbox, poison: Poison, error: type[BaseException]
) -> None:
    def stop() -> None:
        raise error

    run = begin_replay("pill", url=inbox.url())
    poison(stop)
    runner = DeliveryRunner("test")
    take_step(runner)
    with pytest.raises(error):
        take_step(runner)
    runner.close(grace=0)
    run.refresh_from_db()
    assert run.note == {"token": "", "first": run.last_event, "until": run.last_event, "losses": 1}


def test_a_step_keeps_what_it_did_when_its_time_is_over(
    inbox: Inbox, webhooks_settings: Any, poison: Poison, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(kinds, "elapsed", lambda: clock.now)

    def take_long() -> None:
        clock.now += 1.5

    webhooks_settings(LEASE=15)  # a sixth of it for a step
    run = begin_replay(*["pill"] * 6, url=inbox.url())
    poison(take_long)
    runner = DeliveryRunner("test")
    try:
        take_step(runner)  # counts
        take_step(runner)
        run.refresh_from_db()
        assert run.done == 2
    finally:
        runner.close(grace=0)
    assert finished(run).done == 6
    assert (run.state, run.failed, run.skipped) == (RunState.DONE, 0, 0)


def test_a_backfill_judges_slow_conditions_within_the_time_of_a_step(
    inbox: Inbox, webhooks_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processor time. On a busy machine, the limit by the clock could end the step first."""
    monkeypatch.setattr(steps, "time_limit", lambda seconds, last: nullcontext())
    webhooks_settings(LEASE=6, CONDITIONS_TIMEOUT=0.2)
    for number in range(12):  # more than fit into a step
        data = json.dumps({"id": number, "description": "a" * 100 + "b"})
        make_event(object_id=str(number), data=data, dispatched=True)
    make_event(object_id="12", data=json.dumps({"id": 12, "description": "aa"}), dispatched=True)
    slow = {"attr": "description", "op": "regex", "value": "(a|aa)+$"}
    webhook = make_webhook(Thing, url=inbox.url(), conditions=slow)
    run = runs.start("backfill", runs.since_filters(webhook, timezone.now() - timedelta(hours=1)))
    runner, taken = DeliveryRunner("test"), list[int]()
    try:
        while run.is_open:
            began = time.thread_time()
            take_step(runner)
            run.refresh_from_db()
            taken.append(run.taken)
            assert time.thread_time() - began < 6 / 3
    finally:
        runner.close(grace=0)
    assert len({*taken}) > 2, "it took several steps"
    assert (run.state, run.total, run.done, run.failed) == (RunState.DONE, 13, 1, 12)
    assert "the conditions took longer than" in run.problem


def test_a_recovery_takes_deliveries_and_events_in_steps_apart(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[set[int]]()
    take = steps._take

    def note(pk: int, portions: Any, *arguments: Any) -> Any:
        taken.append({portion.webhook for portion in portions if portion.keys})
        return take(pk, portions, *arguments)

    def refuse() -> None:
        raise ValueError("broken")

    webhook = make_webhook(Thing, url=inbox.url())
    with monkeypatch.context() as patched:
        patched.setattr(ThingSerializer, "to_representation", lambda self, instance: refuse())
        Thing.objects.create(name="failed event")
    make_delivery(webhook, State.FAILED, object_id="another")
    monkeypatch.setattr(steps, "_take", note)
    run = finished(runs.start("recover", runs.since_filters(webhook, timezone.now() - timedelta(hours=1))))
    assert (run.state, run.done) == (RunState.DONE, 2)
    assert all(len(webhooks) <= 1 for webhooks in taken)
    assert {0} in taken
    assert {webhook.pk} in taken


TOKEN = "t"


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("before", "keys", "after"),
    [
        (Note(), [1, 2, 3], Note(TOKEN, 1, 3, 0)),
        (Note("lost", 1, 3, 0), [1, 2, 3], Note(TOKEN, 1, 3, 1)),
        (Note("lost", 1, 3, 0), [2, 3, 4], Note(TOKEN, 2, 3, 1)),
        (Note("", 0, 3, 1), [2, 3, 4], Note(TOKEN, 2, 3, 1)),
        (Note("", 0, 3, 1), [4, 5], Note(TOKEN, 4, 5, 0)),
        (Note("lost", 2, 3, 1), [2, 3, 4], Note(TOKEN, 2, 3, 2)),
        (Note("", 2, 3, 2), [2, 3, 4], Note(TOKEN, 2, 3, 2)),
        (Note("lost", 2, 3, 2), [2, 3, 4], Note(TOKEN, 2, 3, 3)),
        (Note("lost", 2, 3, 2), [3, 4], Note(TOKEN, 3, 3, 1)),
        (Note("lost", 2, 3, 2), [4, 5], Note(TOKEN, 4, 5, 0)),
    ],
)  # fmt: skip
def test_the_losses_of_a_step_follow_its_events(before: Note, keys: list[int], after: Note) -> None:
    assert before.begin(TOKEN, [Key(key, key) for key in keys]) == after


@pytest.mark.one_database
def test_the_events_of_a_lost_step_are_suspects_until_the_last_one_went_well() -> None:
    note = Note(TOKEN, 1, 3, 1)
    assert [note.ended(until) for until in (1, 2, 3)] == [Note("", 0, 3, 1), Note("", 0, 3, 1), Note()]
    assert Note(TOKEN, 1, 3, 0).ended(2) == Note()
