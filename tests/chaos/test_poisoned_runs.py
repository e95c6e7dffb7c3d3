"""Runs with events that end, stall or delay their workers, beside live traffic to a healthy receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.chaos.crew import Crew
from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.pills import POISONS
from tests.support.waiting import PATIENCE
from tests.testapp.models import Label, Thing
from webhooks.models import Attempt, Event, Run, RunKind, RunState, State, Webhook
from webhooks.operations import runs

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

WORKER = "tests.support.pills.PoisonedSerializerWorker"
SETTINGS = {"LEASE": 2, "SWEEP_INTERVAL": 0.3, "PAUSE_AFTER": 5}

# The longest that a live change may wait, in seconds: for the leases of two workers, and a busy machine.
LONGEST_WAIT = 30

LABEL = {"object_type": "testapp.label"}

# Each poisoned event ends at most three of these, unless it is only slow.
FATAL = [name for name in POISONS if name != "is slow"]


def label_event(webhook: Webhook, name: str, **fields: str) -> Event:
    """An event of a new label, with the name that the serializer will see."""
    [label] = Label.objects.bulk_create([Label(name=name)])
    return make_event(webhook, **LABEL, object_id=str(label.pk), data=json.dumps({"name": name}), **fields)  # type: ignore[arg-type]


def replay(webhook: Webhook, names: list[str]) -> Run:
    for name in names:
        label_event(webhook, name, error="it failed")
    return runs.start(RunKind.REPLAY, {**LABEL, "failed": True})


def recover(webhook: Webhook, names: list[str]) -> Run:
    for name in names:
        label_event(webhook, name, error="it failed")
        make_delivery(webhook, State.FAILED, object_id=f"label {name}", event=None)
    return runs.start(RunKind.RECOVER, runs.since_filters(webhook, timezone.now() - timedelta(hours=1)))


def backfill(webhook: Webhook, names: list[str]) -> Run:
    """No serializer runs in it: all of its poisoned events are slow to judge."""
    for name in names:
        text = "a" * 100 + "b" if name in POISONS else "a"
        make_event(**LABEL, object_id=name, data=json.dumps({"name": text}), dispatched=True)
    Webhook.objects.filter(pk=webhook.pk).update(conditions={"attr": "name", "op": "regex", "value": "(a|aa)+$"})
    return runs.start(RunKind.BACKFILL, runs.since_filters(webhook, timezone.now() - timedelta(hours=1)))


@pytest.mark.parametrize("begin", [replay, recover, backfill])
def test_poisoned_events_of_a_run_fail_alone_and_live_changes_are_sent(
    begin: Callable[[Webhook, list[str]], Run], crew: Crew, inbox: Inbox, figures: Figures, is_long: bool
) -> None:
    webhook, live = make_webhook(Label, url=inbox.url()), make_webhook(Thing, url=inbox.url())
    poisons = [*POISONS, *FATAL] if is_long else ["ends the process", "hangs", "is slow"]
    innocent = [f"innocent {number}" for number in range(200 if is_long else 12)]
    names = innocent[: len(innocent) // 2] + poisons + innocent[len(innocent) // 2 :]
    run = begin(webhook, names)
    hired = [crew.hire(WORKER, **SETTINGS) for _ in range(2)]
    restarts, sent, began = 0, 0, time.monotonic()
    while run.is_open:
        assert time.monotonic() - began < (600 if is_long else 120) * PATIENCE, (run.percent, run.note, restarts)
        for name in list(hired):
            if crew.by_name[name].process.poll() is not None:  # as supervisord does
                hired.remove(name)
                hired.append(crew.hire(WORKER, **SETTINGS))
                restarts += 1
        if time.monotonic() - began > 0.2 * sent:
            make_event(live, object_id=str(sent))
            sent += 1
        time.sleep(0.05)
        run.refresh_from_db()
    took = time.monotonic() - began
    crew_is_done = time.monotonic() + LONGEST_WAIT * PATIENCE
    ours = Attempt.objects.filter(delivery__webhook=live)
    while ours.filter(succeeded=True).values("delivery").distinct().count() < sent:
        assert time.monotonic() < crew_is_done
        time.sleep(0.05)
    waits = [
        (one.started_at - one.delivery.event.timestamp).total_seconds()
        for one in ours.filter(succeeded=True).select_related("delivery__event")
    ]
    figures(
        f"{begin.__name__}: {took:.1f} s, {restarts} restarts, {sent} live changes, the last after {max(waits):.1f} s"
    )
    fatal = sum(name in FATAL for name in poisons)
    lost = len(poisons) if begin is backfill else fatal
    assert (run.state, run.failed, run.skipped) == (RunState.DONE, lost, 0)
    assert run.done == run.total - lost if run.total else False
    assert restarts <= (0 if begin is backfill else 3 * fatal)
    assert max(waits) < LONGEST_WAIT
    webhook.refresh_from_db()
    live.refresh_from_db()
    for one in (webhook, live):
        assert (one.enabled, one.probe_at, one.failures_in_a_row) == (True, None, 0)
    assert not ours.filter(succeeded=False).exists()
