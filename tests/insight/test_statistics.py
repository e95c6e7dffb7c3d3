"""Percentages, rates and times, read from the statistics and from deltas that are not rolled up yet."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.support.draining import sweep_step
from tests.support.makers import make_webhook
from tests.testapp.models import Thing
from webhooks.delivery.rollup import roll_up
from webhooks.insight import statistics
from webhooks.insight.statistics import Figures
from webhooks.models import StatisticDelta, Webhook
from webhooks.models.statistic import Period

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


def figures(*rows: tuple[str, dict[str, int]]) -> Figures:
    made = Figures()
    for kind, counts in rows:
        made.add(kind, counts)
    return made


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], (0, 0, 0, 0, None, {})),
        ([("", {"attempted": 3})], (3, 3, 0, 0, 100, {})),
        ([("x", {"attempted": 2, "given_up": 1})], (2, 0, 2, 1, 0, {"x": 2})),
        ([("", {"attempted": 9999}), ("x", {"attempted": 1})], (10_000, 9999, 1, 0, 99.9, {"x": 1})),
        (
            [("y", {"attempted": 1}), ("x", {"attempted": 2}), ("", {"attempted": 3})],
            (6, 3, 3, 0, 50, {"x": 2, "y": 1}),
        ),
    ],
)
def test_counts_and_percentages(rows: list[Any], expected: tuple[Any, ...]) -> None:
    found = figures(*rows)
    assert (
        found.attempted, found.succeeded, found.failed, found.given_up, found.success_percent, found.failed_by_kind,
    ) == expected  # fmt: skip


@pytest.mark.one_database
def test_times_come_from_the_histograms() -> None:
    found = figures(
        ("", {"attempted": 4, "duration_100": 4, "duration_total": 300, "delay_250": 2}), ("x", {"delay_more": 2})
    )
    duration, delay = found.duration, found.delay
    assert (duration.count, duration.total_ms, duration.median_ms, duration.p95_ms) == (4, 300, 75, 97.5)
    assert (delay.count, delay.median_ms, delay.p95_ms) == (4, 250, 3_600_000)
    assert duration.buckets["100"] == 4
    assert list(delay.buckets)[-2:] == ["3600000", "more"]


def test_no_quantile_is_above_what_was_measured() -> None:
    timeouts = {"attempted": 7, "duration_30000": 7, "duration_longest": 10_012}
    found = figures(("", {"attempted": 23, "duration_25": 23, "duration_longest": 21}), ("timeout", timeouts))
    assert found.duration.p95_ms is not None
    assert 10_000 < found.duration.p95_ms <= 10_012


# What the database says


def write(minutes_ago: float, *rows: dict[str, Any]) -> None:
    now = int(time.time())
    StatisticDelta.objects.create(start=int(now - minutes_ago * 60) // 60 * 60, counts=json.dumps(rows))


def row(webhook: Webhook, kind: str = "", **counts: int) -> dict[str, Any]:
    return {"webhook_id": webhook.pk, "error_kind": kind, **counts}


@pytest.mark.parametrize("rolled_up", ["nothing", "some", "all"])
def test_recent_attempts_are_the_same_before_and_after_the_roll_up(webhook: Webhook, rolled_up: str) -> None:
    other, unseen = make_webhook(Thing), make_webhook(Thing)
    write(2, row(webhook, attempted=10, duration_50=10), row(unseen, attempted=1000))
    if rolled_up == "some":
        sweep_step(roll_up, 1000)
    write(3, row(webhook, "timeout", attempted=5), row(other, attempted=20))
    write(8, row(webhook, attempted=100))
    write(25 * 60, row(webhook, attempted=5000))
    if rolled_up == "all":
        sweep_step(roll_up, 1000)
    together, by_webhook = statistics.recent([webhook.pk, other.pk])
    assert (together.day.attempted, together.day.failed, together.per_minute) == (135, 5, 7)
    assert by_webhook.keys() == {webhook.pk, other.pk}
    one = by_webhook[webhook.pk]
    assert (one.day.attempted, one.per_minute, one.day.success_percent) == (115, 3, 95.6)
    assert one.day.duration.count == 10


@pytest.mark.parametrize("rolled_up", ["nothing", "some", "all"])
def test_the_longest_time_is_the_longest_of_all_rows(webhook: Webhook, rolled_up: str) -> None:
    for number, (kind, longest) in enumerate((("", 10_012), ("x", 9000), ("", 10_008), ("", 20))):
        if number == 2 and rolled_up == "some":
            sweep_step(roll_up, 1000)
        write(2, row(webhook, kind, attempted=1, duration_30000=1, duration_longest=longest, delay_longest=longest))
        if rolled_up == "all":
            sweep_step(roll_up, 1000)
    together, _ = statistics.recent([webhook.pk])
    assert (together.day.counts["duration_longest"], together.day.counts["delay_longest"]) == (10_012, 10_012)


def test_skips_are_no_attempts(webhook: Webhook) -> None:
    write(2, row(webhook, skipped=3), row(webhook, "x", attempted=1), row(webhook, attempted=1, skipped=4))
    together, by_webhook = statistics.recent([webhook.pk])
    for one in (together, by_webhook[webhook.pk]):
        assert (one.day.skipped, one.day.attempted, one.day.success_percent) == (7, 2, 50)
        assert (one.day.failed_by_kind, one.per_minute) == ({"x": 1}, 0.4)


def test_without_webhooks_or_attempts_there_is_nothing(webhook: Webhook) -> None:
    write(1, row(webhook, attempted=1))
    for ids in ([], [webhook.pk + 1]):
        together, by_webhook = statistics.recent(ids)
        assert (together.day.attempted, together.per_minute, by_webhook) == (0, 0, {})
        assert statistics.series(ids, Period.HOUR, datetime.fromtimestamp(0, UTC)) == (Figures(), [])


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_a_series_has_the_minutes_or_hours_with_attempts_in_order(webhook: Webhook, is_rolled_up: bool) -> None:
    base = 1_700_000_000 // 3600 * 3600
    for offset, kind, count in ((7200, "", 1), (0, "", 2), (60, "x", 4), (-60, "", 100), (60, "", 8)):
        StatisticDelta.objects.create(start=base + offset, counts=json.dumps([row(webhook, kind, attempted=count)]))
    if is_rolled_up:
        sweep_step(roll_up, 1000)
    for period, expected in (
        (Period.MINUTE, [(0, 2, 0), (60, 12, 4), (7200, 1, 0)]),
        (Period.HOUR, [(0, 14, 4), (7200, 1, 0)]),
    ):
        total, series = statistics.series([webhook.pk], period, datetime.fromtimestamp(base, UTC))
        assert [(one.start.timestamp() - base, one.attempted, one.failed) for one in series if one.start] == expected
        assert (total.attempted, total.failed) == (15, 4)


@pytest.mark.cost
def test_each_answer_takes_one_query(webhook: Webhook) -> None:
    write(1, *(row(make_webhook(Thing), attempted=1) for _ in range(20)))
    ids = list(Webhook.objects.values_list("pk", flat=True))
    for ask in (lambda: statistics.recent(ids), lambda: statistics.series(ids, Period.MINUTE, datetime.now(UTC))):
        with CaptureQueriesContext(connection) as captured:
            ask()
        assert len(captured) == 1


@pytest.mark.cost
@pytest.mark.postgresql
def test_recent_attempts_are_found_by_an_index(webhook: Webhook) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO rq_webhooks_statistic (webhook_id, period, start) "
            "SELECT %s, %s, extract(epoch FROM date_trunc('hour', now()))::bigint - 3600 * n "
            "FROM generate_series(0, 19999) AS n",
            [webhook.pk, Period.HOUR],
        )
        cursor.execute("ANALYZE rq_webhooks_statistic")
        with CaptureQueriesContext(connection) as captured:
            statistics.recent([webhook.pk])
        cursor.execute("EXPLAIN " + captured[0]["sql"])
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan on rq_webhooks_statistic " not in plan, plan
    assert "rq_webhooks_statistic_" in plan
