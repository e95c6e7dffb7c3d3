"""Events that end, stall or delay their workers, in runs and deliveries, beside traffic to a healthy receiver."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.support.figures import Figures
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.pills import POISONS
from tests.support.waiting import PATIENCE, until
from tests.support.workers import Worker, Workers
from tests.testapp.models import Label, Thing
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models import Attempt, Delivery, Event, Run, RunState, State, Webhook
from webhooks.models.delivery import FINISHED
from webhooks.operations import runs

pytestmark = pytest.mark.slow

WORKER = "tests.support.pills.PoisonedSerializerWorker"
# A third of the lease ends a step that hangs. What is only slow must fit, on a busy machine too.
SETTINGS = {"LEASE": 6, "SWEEP_INTERVAL": 0.3, "PAUSE_AFTER": 5}

# The longest that a live change may wait, in seconds: for the leases of two workers, and a busy machine.
LONGEST_WAIT = 30

LABEL = {"object_type": "testapp.label"}

Begin = Callable[[Webhook, list[str]], Run]

# Each poisoned event ends at most three of these, unless it is only slow.
FATAL = [name for name in POISONS if name != "is slow"]


def label_event(webhook: Webhook, name: str, **fields: str) -> Event:
    """An event of a new label, with the name that the serializer will see."""
    [label] = Label.objects.bulk_create([Label(name=name)])
    return make_event(webhook, **LABEL, object_id=str(label.pk), data=json.dumps({"name": name}), **fields)  # type: ignore[arg-type]


def replay(webhook: Webhook, names: list[str]) -> Run:
    for name in names:
        label_event(webhook, name, error="it failed")
    return runs.start("replay", {**LABEL, "failed": True})


def recover(webhook: Webhook, names: list[str]) -> Run:
    for name in names:
        label_event(webhook, name, error="it failed")
        make_delivery(webhook, State.FAILED, object_id=f"label {name}", event=None)
    return runs.start("recover", runs.since_filters(webhook, timezone.now() - timedelta(hours=1)))


def backfill(webhook: Webhook, names: list[str]) -> Run:
    """No serializer runs in it: all of its poisoned events are slow to judge."""
    for name in names:
        text = "a" * 100 + "b" if name in POISONS else "a"
        make_event(**LABEL, object_id=name, data=json.dumps({"name": text}), dispatched=True)
    Webhook.objects.filter(pk=webhook.pk).update(conditions={"attr": "name", "op": "regex", "value": "(a|aa)+$"})
    return runs.start("backfill", runs.since_filters(webhook, timezone.now() - timedelta(hours=1)))


class Traffic:
    """Two workers, which are started again when they end, and changes every 0.2 s for a healthy receiver."""

    def __init__(self, workers: Workers, inbox: Inbox, **settings: Any) -> None:
        self._workers, self._settings = workers, SETTINGS | settings
        self.webhook = make_webhook(Thing, url=inbox.url())
        self._hired = [self._hire() for _ in range(2)]
        self._sent = self.restarts = 0
        self.seconds = 0.0

    def _hire(self) -> Worker:
        return self._workers.start(WORKER, **self._settings)

    def flow_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        began = time.monotonic()
        while not is_over():
            self.seconds = time.monotonic() - began
            assert self.seconds < seconds * PATIENCE, f"not over after {self.restarts} restarts"
            for worker in list(self._hired):
                if worker.process.poll() is not None:  # as supervisord does
                    worker.end_lease()
                    self._hired.remove(worker)
                    self._hired.append(self._hire())
                    self.restarts += 1
            if self.seconds > 0.2 * self._sent:
                make_event(self.webhook, object_id=str(self._sent))
                self._sent += 1
            time.sleep(0.05)

    def check(self, *others: Webhook) -> str:
        """Each change was sent soon and at once, and no webhook was paused. Returns the figures."""
        attempts = Attempt.objects.filter(delivery__webhook=self.webhook)
        sent = attempts.filter(succeeded=True).values("delivery").distinct()
        until(lambda: sent.count() == self._sent, LONGEST_WAIT, "the last changes to be sent")
        waits = [
            (one.started_at - one.delivery.event.timestamp).total_seconds()
            for one in attempts.filter(succeeded=True).select_related("delivery__event")
        ]
        assert max(waits) < LONGEST_WAIT
        assert not attempts.filter(succeeded=False).exists()
        for webhook in (self.webhook, *others):
            webhook.refresh_from_db()
            assert (webhook.enabled, webhook.probe_at, webhook.failures_in_a_row) == (True, None, 0)
        return (
            f"{self.seconds:.1f} s, {self.restarts} restarts, {self._sent} live changes, the last after "
            f"{max(waits):.1f} s"
        )


def poisoned_names(is_long: bool) -> tuple[list[str], list[str]]:
    """Names of objects, with poisons in the middle, and the poisons among them."""
    poisons = [*POISONS, *FATAL] if is_long else ["ends the process", "hangs", "is slow"]
    innocent = [f"innocent {number}" for number in range(200 if is_long else 12)]
    return [*innocent[: len(innocent) // 2], *poisons, *innocent[len(innocent) // 2 :]], poisons


@pytest.mark.one_database
@pytest.mark.parametrize("begin", [replay, pytest.param(recover, marks=pytest.mark.storm), backfill])
def test_poisoned_events_of_a_run_fail_alone_and_live_changes_are_sent(
    begin: Begin, workers: Workers, inbox: Inbox, figures: Figures, is_long: bool
) -> None:
    check_poisoned_run(begin, workers, inbox, figures, is_long)


def check_poisoned_run(begin: Begin, workers: Workers, inbox: Inbox, figures: Figures, is_long: bool) -> None:
    webhook = make_webhook(Label, url=inbox.url())
    names, poisons = poisoned_names(is_long)
    run = begin(webhook, names)
    traffic = Traffic(workers, inbox)

    def is_over() -> bool:
        run.refresh_from_db()
        return not run.is_open

    traffic.flow_until(is_over, 600 if is_long else 120)
    figures(f"{begin.__name__}: {traffic.check(webhook)}")
    fatal = sum(name in FATAL for name in poisons)
    lost = len(poisons) if begin is backfill else fatal
    assert (run.state, run.failed, run.skipped) == (RunState.DONE, lost, 0)
    assert run.done == run.total - lost if run.total else False
    assert traffic.restarts <= (0 if begin is backfill else 3 * fatal)


def test_poisoned_deliveries_fail_alone_and_live_changes_are_sent(
    workers: Workers, inbox: Inbox, figures: Figures, is_long: bool
) -> None:
    """The project's code for credentials meets them. In C nothing can interrupt it, so it does not hang there."""
    webhook = make_webhook(Label, url=inbox.url().replace("127.0.0.1", "localhost"), timeout=1)
    names = [name for name in poisoned_names(is_long)[0] if name != "hangs in C"]
    for name in names:
        make_event(webhook, **LABEL, object_id=name, data=json.dumps({"name": name}))
    traffic = Traffic(
        workers, inbox, AUTH={webhook.payload_url: "tests.support.pills.poison"}, RETRY_SCHEDULE=[], PAUSE_AFTER=99
    )
    deliveries = Delivery.objects.filter(webhook=webhook)
    traffic.flow_until(lambda: deliveries.filter(FINISHED).count() == len(names), 600 if is_long else 120)
    figures(f"deliveries: {traffic.check()}")
    by_kind = Counter((one.event.object_id, one.error_kind) for one in deliveries.select_related("event"))
    kinds = {"ends the process": ErrorKind.WORKER_ENDED, "hangs": ErrorKind.AUTH}
    assert by_kind == Counter((name, kinds.get(name, "")) for name in names)
    assert traffic.restarts == 3 * names.count("ends the process")
