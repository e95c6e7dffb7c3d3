"""The alarms of the status page and of the page of a webhook, and which follows from which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone, translation

from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.security.encryption import PREFIX, Secret
from webhooks.insight.alarms import Alarm, Level, find_alarms
from webhooks.insight.counts import FailedGroup
from webhooks.insight.overview import Overview
from webhooks.insight.wording import clock_time
from webhooks.models import State, Webhook
from webhooks.workers.breaker import Fault
from webhooks.workers.status import SILENT_SHIPPED, Backend, RegisteredWorker

NOW = timezone.now()
LONG_AGO = NOW - timedelta(minutes=10)
SHIPPED_CLASS = "webhooks.workers.WebhookWorker"
SHIPPED = RegisteredWorker("w", ("webhooks",), worker_class=SHIPPED_CLASS)
STOCK = RegisteredWorker("w", ("webhooks",))
SILENT = RegisteredWorker("w", ("webhooks",), SHIPPED_CLASS, silence=SILENT_SHIPPED + 60)
AHEAD = RegisteredWorker("web1:123", ("webhooks",), SHIPPED_CLASS, clock_offset=3600.4)
BEHIND = replace(AHEAD, clock_offset=-6)


def counted(pk: int = 1, name: str = "CMDB", **values: Any) -> Webhook:
    """A webhook as ``with_counts`` reads it."""
    webhook = Webhook(pk=pk, name=name)
    counts = dict.fromkeys(("due", "waiting", "failed", "is_retrying", "blocked"), 0)
    moments = dict.fromkeys(("due_since", "blocked_since", "blocking", "last_failed"))
    for key, value in (counts | moments | values).items():
        setattr(webhook, key, value)
    return webhook


FINE = counted()


def backend(*workers: RegisteredWorker, error: str = "") -> Backend:
    return Backend("webhooks", error=error, workers=workers)


def test_a_fault_of_our_own_has_its_time_the_number_that_waits_and_a_remedy() -> None:
    fault = Fault(ErrorKind.PROXY, "The proxy proxy:3128 refuses connections", LONG_AGO)
    late = counted(due=1, due_since=LONG_AGO)
    overview = Overview(counts={State.PENDING: 12_000}, webhooks=(late,))
    [alarm] = find_alarms(overview, backend(replace(SHIPPED, faults=(fault,))), True, NOW)
    assert (alarm.level, alarm.remedy) == (Level.ERROR, ErrorKind.PROXY.remedy())
    assert alarm.text == "The proxy proxy:3128 refuses connections."
    assert alarm.facts(NOW) == [f"since {clock_time(LONG_AGO)}", "10,000+ not sent yet"]


@pytest.mark.parametrize(
    ("webhooks", "workers", "level", "text"),
    [
        ([FINE], [SHIPPED], Level.GOOD, "All is well: nothing is waiting"),
        ([FINE], [], Level.ERROR, "No worker is running, so nothing is delivered."),
        ([FINE], [RegisteredWorker("w", ("default",))], Level.ERROR, "No running worker serves the queue “webhooks”"),
        ([FINE], [SILENT], Level.ERROR, "No worker is running, so nothing is delivered."),
        ([FINE], [SILENT, replace(SHIPPED, queues=("default",))], Level.ERROR, "No running worker serves the queue"),
        ([FINE], [SHIPPED, SILENT], Level.WARNING, "The worker “w” has not reported for 2 min"),
        ([FINE], [SHIPPED, AHEAD], Level.WARNING, "The clock of worker “web1:123” is 1 h ahead of the database's."),
        ([FINE], [BEHIND], Level.WARNING, "The clock of worker “web1:123” is 6 s behind the database's."),
        ([FINE], [replace(AHEAD, clock_offset=4.9)], Level.GOOD, "All is well"),
        ([FINE], [STOCK], Level.WARNING, "Only stock rq workers are running."),
        ([FINE], [STOCK, SHIPPED], Level.GOOD, "All is well"),
        ([], [SHIPPED], Level.WARNING, "No webhook is defined"),
        ([counted(enabled=False)], [SHIPPED], Level.WARNING, "Every webhook is disabled"),
        (
            [FINE, counted(2, "Chat", enabled=False, due=1, waiting=2)], [SHIPPED], Level.WARNING,
            "“Chat” is disabled, and its deliveries wait.",
        ),
        (
            [FINE, counted(2, "Chat", enabled=False, due=1, disabled_reason="gone")], [SHIPPED],
            Level.WARNING,
            "“Chat” was disabled automatically: the receiver answered 410 Gone: it wants no more deliveries.",
        ),
        (
            [counted(failures_in_a_row=9, last_failure="HTTP 500", probe_at=NOW + timedelta(minutes=4))],
            [SHIPPED], Level.WARNING,
            "“CMDB” is paused after 9 failed attempts: HTTP 500.",
        ),
        (
            [counted(failures_in_a_row=1, last_failure="HTTP 500", is_retrying=True)], [SHIPPED], Level.WARNING,
            "The last attempt for “CMDB” failed, and is retried automatically: HTTP 500.",
        ),
        (
            [counted(failures_in_a_row=3, last_failure="HTTP 500", failed=3)],
            [SHIPPED], Level.WARNING, "The last attempt for “CMDB” failed: HTTP 500.",
        ),
        (
            [counted(blocked=2, waiting=5)], [SHIPPED], Level.WARNING,
            "“CMDB”: the first deliveries of 2 objects fail, and later ones of the objects wait behind them.",
        ),
        (
            [counted(due=1, due_since=LONG_AGO)], [SHIPPED], Level.WARNING,
            "Deliveries of “CMDB” are due but not sent, the oldest for 10 min.",
        ),
        ([counted(due=1, due_since=NOW)], [SHIPPED], Level.GOOD, "All is well"),
    ],
)  # fmt: skip
def test_it_finds_problems_of_webhooks_and_workers(
    webhooks: list[Webhook], workers: list[RegisteredWorker], level: Level, text: str
) -> None:
    found = find_alarms(Overview(webhooks=tuple(webhooks)), backend(*workers), True, NOW)
    assert [one.level for one in found if text in one.text] == [level], found


def test_workers_that_went_silent_together_are_one_problem() -> None:
    workers = [
        replace(SILENT, host="web1", pid=str(pid), silence=60 * pid, last_heartbeat=NOW - timedelta(minutes=pid))
        for pid in (2, 4, 3, 5)
    ]
    [alarm] = find_alarms(Overview(webhooks=(FINE,)), backend(SHIPPED, *workers), True, NOW)
    assert alarm.text == (
        "4 workers have not reported, the first for 5 min: they hang or were killed. "
        "They are web1:2, web1:4, web1:3 and 1 other."
    )
    assert alarm.remedy.startswith("Restart the ones that still run.")
    assert (alarm.problem, alarm.since) == ("silent_worker", workers[3].last_heartbeat)


@pytest.mark.parametrize(("waiting", "fact"), [(1, "the next probe is due"), (0, "the next delivery is the probe")])
def test_a_paused_webhook_says_that_a_probe_is_due_only_if_a_delivery_waits(waiting: int, fact: str) -> None:
    webhook = counted(failures_in_a_row=9, probe_at=LONG_AGO, waiting=waiting)
    [alarm] = find_alarms(Overview(webhooks=(webhook,)), backend(SHIPPED), True, NOW)
    assert alarm.facts(NOW)[-1] == fact


def test_a_webhook_that_was_changed_after_its_failure_does_not_blame_its_new_receiver() -> None:
    values = {"failures_in_a_row": 1, "is_retrying": True, "error_kind": "http_404", "last_failure_at": LONG_AGO}
    webhook = counted(payload_url="https://new.example/", last_updated=LONG_AGO - timedelta(days=1), **values)
    [alarm] = find_alarms(Overview(webhooks=(webhook,)), backend(SHIPPED), True, NOW)
    assert alarm.remedy.startswith("https://new.example does not know the path of the URL.")
    webhook.last_updated = NOW
    [alarm] = find_alarms(Overview(webhooks=(webhook,)), backend(SHIPPED), True, NOW)
    assert alarm.remedy.startswith("The receiver does not know the path of the URL.")
    assert alarm.remedy.endswith("The webhook was changed after that: send a test to see whether it works now.")


def test_the_reason_of_a_failing_webhook_is_in_the_language_of_the_reader() -> None:
    refused = {"error_kind": "refused", "last_failure": ErrorKind.REFUSED.english, "is_retrying": True}
    paused = counted(failures_in_a_row=9, probe_at=NOW, **refused)
    other = {"error_kind": "http_4xx", "last_failure": "HTTP 418 I'm a Teapot", "is_retrying": True}
    failing = counted(2, failures_in_a_row=1, **other)
    with translation.override("de"):
        found = find_alarms(Overview(webhooks=(paused, failing)), backend(SHIPPED), True, NOW)
    assert [one.text.rpartition(": ")[2] for one in found] == ["Verbindung abgewiesen.", "HTTP 418 I'm a Teapot."]


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
    assert text in " ".join(one.text for one in find_alarms(overview, backend(SHIPPED), True, NOW))


@pytest.mark.parametrize(("count", "text"), [(20, "23 deliveries failed"), (501, "503+ deliveries failed")])
def test_a_count_of_failed_deliveries_is_exact_or_says_that_there_are_more(count: int, text: str) -> None:
    webhooks = (counted(1, failed=count), counted(2, failed=3))
    [alarm] = find_alarms(Overview(webhooks=webhooks), backend(SHIPPED), True, NOW)
    assert alarm.text.startswith(text)


def test_each_problem_has_a_remedy() -> None:
    late = counted(due=1, due_since=LONG_AGO)
    rows = {"undispatched": 5, "undispatched_since": LONG_AGO, "failed_events": 1}
    overview = Overview(webhooks=(late,), **rows)  # type: ignore[arg-type]
    found = find_alarms(overview, backend(SHIPPED, SILENT), True, NOW)
    assert [one.problem for one in found] == ["undispatched", "overdue", "silent_worker", "failed_events"]
    assert [one.text for one in found if not one.remedy] == []


def test_undispatched_changes_are_counted_when_all_is_well() -> None:
    overview = Overview(undispatched=2, undispatched_since=NOW, webhooks=(FINE,))
    [one] = find_alarms(overview, backend(SHIPPED), True, NOW)
    assert one.text.startswith("All is well: 2 new changes to send, nothing has failed")


@pytest.mark.parametrize(("state", "level"), [("suspended", Level.ERROR), ("idle", Level.WARNING)])
def test_it_finds_suspended_workers(state: str, level: Level) -> None:
    worker = RegisteredWorker("w", ("webhooks",), worker_class=SHIPPED_CLASS, state=state)
    suspended = Backend("webhooks", workers=(worker,), is_suspended=True)
    [one] = find_alarms(Overview(webhooks=(FINE,)), suspended, True, NOW)
    assert (one.level, one.command) == (level, "rq resume --url redis://…")


def test_the_worst_problem_comes_first() -> None:
    overview = Overview(webhooks=(counted(failed=1),))
    levels = [one.level for one in find_alarms(overview, backend(error="refused"), False, NOW)]
    assert levels == [Level.ERROR, Level.ERROR, Level.WARNING]


def test_without_redis_it_says_nothing_about_workers() -> None:
    found = find_alarms(Overview(webhooks=(FINE,)), backend(error="refused"), True, NOW)
    assert [one.text for one in found] == ["Redis cannot be used: refused"]


FAULT = Fault(ErrorKind.RESOLVER, "The name servers of the worker fail", LONG_AGO)
REFUSED = {
    "payload_url": "https://cmdb.example/a", "failures_in_a_row": 3, "is_retrying": True, "error_kind": "refused",
    "last_failure": "connection refused",
}  # fmt: skip
LATE = {"due": 1, "due_since": LONG_AGO}
LOST = Secret(stored=f"{PREFIX}of a key that is lost")


UNDECRYPTED = Fault(ErrorKind.SECRET, "The worker cannot decrypt the secrets of some webhooks", LONG_AGO)


def test_a_lost_key_is_one_problem_since_the_worker_met_it() -> None:
    lost, worker = counted(secret=LOST, due=2), replace(SHIPPED, faults=(UNDECRYPTED,))
    [alarm] = find_alarms(Overview(webhooks=(lost,)), backend(worker), True, NOW)
    assert (alarm.since, alarm.error_kind) == (LONG_AGO, "secret")
    assert alarm.remedy.startswith("Restore the missing key in the settings of the site and of the workers")


def test_the_remedy_of_a_disabled_webhook_names_what_it_skipped(webhooks_settings: Any) -> None:
    gone = counted(enabled=False, disabled_reason="gone")
    for days, is_named in ((7, True), (0, False)):
        webhooks_settings(SKIP_DAYS=days)
        [alarm] = [
            one for one in find_alarms(Overview(webhooks=(gone,)), backend(SHIPPED), True, NOW) if one.webhook_id
        ]
        assert ("“Recover skipped…” sends their objects" in alarm.remedy) == is_named


def tree(alarms: Sequence[Alarm]) -> list[str]:
    """Each cause with what follows from it: "no_worker > overdue 1, overdue 2"."""

    def name(alarm: Alarm) -> str:
        return f"{alarm.problem} {alarm.webhook_id or ''}".strip()

    return [" > ".join(filter(None, (name(one), ", ".join(map(name, one.consequences))))) for one in alarms]


@pytest.mark.parametrize(
    ("webhooks", "workers", "expected"),
    [
        ([LATE, LATE | {"failed": 2}], [], ["no_worker > overdue 1, overdue 2", "failed_deliveries 2"]),
        ([LATE], [SILENT], ["no_worker > silent_worker, overdue 1"]),
        ([LATE, {}], [replace(SHIPPED, faults=(FAULT,))], ["fault > overdue 1"]),
        (
            [REFUSED | {"error_kind": "resolver"}, REFUSED], [replace(SHIPPED, faults=(FAULT,))],
            ["fault > failing 1", "failing 2"],
        ),
        (
            [{"paused_at": LONG_AGO, "paused_by": "jstretch", "failed": 2, "waiting": 3}], [SHIPPED],
            ["paused_by_user 1 > failed_deliveries 1"],
        ),
        (
            [{"probe_at": NOW, "failures_in_a_row": 20, "failed": 2, "waiting": 3, "blocked": 1}], [SHIPPED],
            ["paused 1 > blocked_lanes 1, failed_deliveries 1"],
        ),
        (
            [REFUSED | {"failing_since": NOW}, REFUSED | {"failing_since": LONG_AGO, "failed": 1}], [SHIPPED],
            ["failing 2 > failed_deliveries 2, failing 1"],
        ),
        ([REFUSED, REFUSED | {"payload_url": "https://dns.example/"}], [SHIPPED], ["failing 1", "failing 2"]),
        ([LATE | REFUSED], [SHIPPED], ["failing 1 > overdue 1"]),
        ([LATE | {"failed": 1}], [SHIPPED], ["overdue 1 > failed_deliveries 1"]),
        ([{"failed": 1}], [SHIPPED], ["failed_deliveries 1"]),
        ([{"secret": LOST, "failed": 1}, {}], [SHIPPED], ["unreadable 1 > failed_deliveries 1"]),
        (
            [{"secret": LOST} | LATE, {"secret_headers": LOST}, {}], [SHIPPED],
            ["unreadable > unreadable 1, overdue 1, unreadable 2"],
        ),
        (
            [{"secret": LOST} | LATE, {}], [replace(SHIPPED, faults=(UNDECRYPTED,))],
            ["unreadable 1 > fault, overdue 1"],
        ),
        ([LATE, {}], [replace(SHIPPED, faults=(UNDECRYPTED,))], ["fault > overdue 1"]),
        (
            [{"failed": 1}, {"failed": 2}, {}], [SHIPPED],
            ["failed_deliveries > failed_deliveries 1, failed_deliveries 2"],
        ),
    ],
)  # fmt: skip
def test_what_follows_from_one_cause_is_folded_under_it(
    webhooks: list[dict[str, Any]], workers: list[RegisteredWorker], expected: list[str]
) -> None:
    known = tuple(counted(pk, f"webhook {pk}", **values) for pk, values in enumerate(webhooks, 1))
    found = find_alarms(Overview(webhooks=known, counts={State.FAILED: 3}), backend(*workers), True, NOW)
    assert sorted(tree(found)) == sorted(expected)


def test_delays_follow_from_what_stops_all_sending() -> None:
    overview = Overview(webhooks=(counted(**LATE),), undispatched=2, undispatched_since=LONG_AGO)
    assert tree(find_alarms(overview, backend(error="refused"), True, NOW)) == ["redis > undispatched, overdue 1"]
    assert tree(find_alarms(overview, backend(SHIPPED), False, NOW)) == ["turned_off > undispatched, overdue 1"]


def test_failed_deliveries_name_their_reasons_and_the_remedy_of_the_most_common_one() -> None:
    groups = (
        FailedGroup(1, "http_401", 501, LONG_AGO, NOW), FailedGroup(1, "refused", 2, NOW, NOW),
    )  # fmt: skip
    overview = Overview(webhooks=(counted(failed=501),), failed_groups=groups, counts={State.FAILED: 503})
    [alarm] = find_alarms(overview, backend(SHIPPED), True, NOW)
    assert alarm.text == (
        "500+ deliveries of “CMDB” failed and will not be retried automatically. "
        "Reasons: HTTP 401 Unauthorized (500+), connection refused (2)."
    )
    assert (alarm.since, alarm.remedy) == (LONG_AGO, ErrorKind.HTTP_401.remedy())


def test_webhooks_that_fail_alike_at_one_receiver_share_the_alarm_of_the_one_in_most_trouble() -> None:
    common = {"failures_in_a_row": 3, "last_failure": "HTTP 503", "error_kind": "http_503"}
    small = counted(1, "small", failed=1, failing_since=LONG_AGO, payload_url="https://one.example/a", **common)
    large = counted(2, "large", failed=24, failing_since=NOW, payload_url="https://one.example/b", **common)
    other = counted(3, "other", failed=2, failing_since=NOW, payload_url="https://two.example/", **common)
    found = find_alarms(Overview(webhooks=(small, large, other)), backend(SHIPPED), True, NOW)
    assert [alarm.webhook_id for alarm in found] == [2, 3]
    assert {one.webhook_id for one in found[0].consequences} == {1, 2}


def test_old_rows_that_workers_cannot_delete_are_an_alarm_with_its_remedy() -> None:
    month = 30 * 86_400
    assert not any(
        one.problem == "retention" for one in find_alarms(Overview(backlog=month / 5), backend(SHIPPED), True, NOW)
    )
    found = {}
    for obstacle in ("", "sqlite", "not_partitioned", "not_owner", "no_create"):
        overview = Overview(webhooks=(FINE,), backlog=month / 2, obstacle=obstacle)
        [alarm] = [one for one in find_alarms(overview, backend(SHIPPED), True, NOW) if one.problem == "retention"]
        assert alarm.text.startswith("Workers delete succeeded deliveries 15 d after their retention of 30 d")
        found[alarm.remedy] = obstacle
    assert len(found) == 5
