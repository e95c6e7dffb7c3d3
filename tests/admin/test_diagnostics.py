"""Problems and remedies on the status page and the form of a webhook."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from webhooks.admin.counts import Overview
from webhooks.admin.diagnostics import Level, diagnose
from webhooks.models import State, Webhook
from webhooks.workers.redis import SILENT_SHIPPED, Backend, Worker

NOW = timezone.now()
LONG_AGO = NOW - timedelta(minutes=10)
SHIPPED = Worker("w", ("webhooks",), is_shipped=True)
STOCK = Worker("w", ("webhooks",))
SILENT = Worker("w", ("webhooks",), True, silence=SILENT_SHIPPED + 60)


def counted(pk: int = 1, name: str = "CMDB", **values: Any) -> Webhook:
    """A webhook as ``with_counts`` reads it."""
    webhook = Webhook(pk=pk, name=name)
    counts = {"pending": 0, "waiting": 0, "sending": 0, "failed": 0, "retrying": 0, "due_since": None}
    for key, value in (counts | values).items():
        setattr(webhook, key, value)
    return webhook


FINE = counted()


def backend(*workers: Worker, error: str = "") -> Backend:
    return Backend("webhooks", error=error, workers=workers)


@pytest.mark.parametrize(
    ("webhooks", "workers", "level", "text"),
    [
        ([FINE], [SHIPPED], Level.GOOD, "All is well: nothing is waiting"),
        ([FINE], [], Level.ERROR, "No worker is running, so nothing is delivered."),
        ([FINE], [Worker("w", ("default",))], Level.ERROR, "No running worker serves the queue “webhooks”"),
        ([FINE], [SILENT], Level.ERROR, "No running worker serves the queue “webhooks”"),
        ([FINE], [SHIPPED, SILENT], Level.WARNING, "The worker “w” has not reported for 2 min"),
        ([FINE], [STOCK], Level.WARNING, "Only stock rq workers are running."),
        ([FINE], [STOCK, SHIPPED], Level.GOOD, "All is well"),
        ([], [SHIPPED], Level.WARNING, "No webhook is defined"),
        ([counted(enabled=False)], [SHIPPED], Level.WARNING, "Every webhook is disabled"),
        (
            [FINE, counted(2, "Chat", enabled=False, pending=1, waiting=2)], [SHIPPED], Level.WARNING,
            "3 deliveries of “Chat” wait because the webhook is disabled.",
        ),
        (
            [FINE, counted(2, "Chat", enabled=False, pending=1, disabled_reason="410 Gone")], [SHIPPED],
            Level.WARNING, "“Chat” was disabled automatically: 410 Gone. 1 delivery of “Chat” waits because",
        ),
        (
            [counted(failures_in_a_row=9, last_failure="HTTP 500", probe_at=NOW + timedelta(minutes=4))],
            [SHIPPED], Level.WARNING,
            "“CMDB” is paused after 9 failed attempts. The last error was: HTTP 500. The next probe is in 4 min.",
        ),
        (
            [counted(failures_in_a_row=1, last_failure="HTTP 500", retrying=1)], [SHIPPED], Level.WARNING,
            "The last attempt for “CMDB” failed: HTTP 500. 1 delivery is retried automatically.",
        ),
        (
            [counted(failures_in_a_row=3, last_failure="HTTP 500", retrying=3)],
            [SHIPPED], Level.WARNING, "3 deliveries are retried automatically.",
        ),
        (
            [counted(pending=1, due_since=LONG_AGO)], [SHIPPED], Level.WARNING,
            "Deliveries of “CMDB” are due but not sent, the oldest for 10 min.",
        ),
        ([counted(pending=1, due_since=NOW)], [SHIPPED], Level.GOOD, "All is well"),
    ],
)  # fmt: skip
def test_it_finds_problems_of_webhooks_and_workers(
    webhooks: list[Webhook], workers: list[Worker], level: Level, text: str
) -> None:
    found = diagnose(Overview(webhooks=tuple(webhooks)), backend(*workers), True, NOW)
    assert [one.level for one in found if text in one.text] == [level], found


@pytest.mark.parametrize(
    ("overview", "text"),
    [
        (Overview(counts={State.FAILED: 1}), "1 delivery failed and will not be retried automatically."),
        (Overview(counts={State.FAILED: 10_001}), "10,000+ deliveries failed and will not be retried"),
        (Overview(failed_events=1), "1 event failed, so nothing was sent."),
        (Overview(failed_events=2), "2 events failed, so nothing was sent."),
        (Overview(undispatched=5, undispatched_since=LONG_AGO), "5 changes recorded but not dispatched, the oldest"),
    ],
)
def test_it_finds_failed_and_undispatched_rows(overview: Overview, text: str) -> None:
    assert text in " ".join(one.text for one in diagnose(overview, backend(SHIPPED), True, NOW))


def test_each_problem_has_a_remedy() -> None:
    late = counted(pending=1, due_since=LONG_AGO)
    rows = {"undispatched": 5, "undispatched_since": LONG_AGO, "failed_events": 1}
    overview = Overview(counts={State.FAILED: 1}, webhooks=(late,), **rows)  # type: ignore[arg-type]
    found = diagnose(overview, backend(SHIPPED, SILENT), True, NOW)
    assert len(found) == 5
    assert [one.text for one in found if not one.remedy] == []


def test_undispatched_changes_are_counted_when_all_is_well() -> None:
    overview = Overview(undispatched=2, undispatched_since=NOW, webhooks=(FINE,))
    [one] = diagnose(overview, backend(SHIPPED), True, NOW)
    assert one.text.startswith("All is well: 2 changes to dispatch, nothing has failed")


@pytest.mark.parametrize(("state", "level"), [("suspended", Level.ERROR), ("idle", Level.WARNING)])
def test_it_finds_suspended_workers(state: str, level: Level) -> None:
    worker = Worker("w", ("webhooks",), is_shipped=True, state=state)
    suspended = Backend("webhooks", workers=(worker,), is_suspended=True)
    [one] = diagnose(Overview(webhooks=(FINE,)), suspended, True, NOW)
    assert (one.level, one.command) == (level, "rq resume --url redis://…")


def test_the_worst_problem_comes_first() -> None:
    overview = Overview(counts={State.FAILED: 1}, webhooks=(FINE,))
    levels = [one.level for one in diagnose(overview, backend(error="refused"), False, NOW)]
    assert levels == [Level.ERROR, Level.ERROR, Level.WARNING]


def test_without_redis_it_says_nothing_about_workers() -> None:
    found = diagnose(Overview(webhooks=(FINE,)), backend(error="refused"), True, NOW)
    assert [one.text for one in found] == ["Redis cannot be used: refused"]
