"""What a record counts, and how the sweep adds it to the minutes and hours."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.draining import drain, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_site_skip, make_webhook
from tests.support.sessions import session
from tests.support.threads import Beside
from tests.testapp.models import Thing
from webhooks.delivery import counting, retention, rollup, sweep
from webhooks.delivery.claims import ClaimedDelivery
from webhooks.ground.db import atomically, execute, fetch_all
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import Bodies
from webhooks.models import Attempt, Skip, Statistic, StatisticDelta, StatisticTotal, Webhook
from webhooks.models.queue import ClaimedRow
from webhooks.models.statistic import COUNTS, DELAY, DURATION, Period
from webhooks.operations.webhooks import delete_webhooks

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime.now(UTC)
HOUR = 1_700_000_000 // 3600 * 3600


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


# The numbers of the attempts, by delivery.
numbers: dict[uuid.UUID, int] = {}


def attempt(webhook: Webhook, duration: int = 5, attempts: int = 0, delay: float = 0, **outcome: Any) -> Any:
    """An attempt after ``attempts`` others, ``delay`` seconds after its event."""
    event = make_event(webhook, timestamp=NOW)
    row = ClaimedRow(uuid.uuid4(), webhook.pk, event.pk, lane=None, in_lane=False)
    numbers[row.id] = attempts + 1
    claimed = ClaimedDelivery(row, uuid.uuid4(), webhook, Bodies(event), str(row.id))
    return claimed, Outcome(NOW + timedelta(seconds=delay), duration, **outcome)


def delta(start: int, *rows: dict[str, Any]) -> StatisticDelta:
    return StatisticDelta.objects.create(start=start, counts=json.dumps(rows))


def row(webhook: Webhook, kind: str = "", **counts: int) -> dict[str, Any]:
    return {"webhook_id": webhook.pk, "error_kind": kind, **counts}


def stored(*names: str) -> set[tuple[Any, ...]]:
    """Period, offset from ``HOUR``, error kind and these counts of all statistics."""
    found = Statistic.objects.values_list("period", "start", "error_kind", *names)
    return {(period, start - HOUR, *rest) for period, start, *rest in found}


def totals(period: Period = Period.HOUR) -> Counter[str]:
    """The sums of all statistics of this period."""
    found: Counter[str] = Counter()
    for values in Statistic.objects.filter(period=period).values(*COUNTS):
        found.update(values)
    return +found


# What is counted


def test_attempts_are_counted_by_webhook_and_error_kind(webhook: Webhook) -> None:
    other = make_webhook(Thing)
    given_up = attempt(webhook, duration=40, attempts=3, reason="HTTP 503", kind=ErrorKind.HTTP_503, status=503)
    attempts = [
        attempt(webhook, duration=5, delay=0.05, status=200),
        attempt(webhook, duration=7, delay=90, status=204),
        attempt(webhook, duration=31_000, delay=-1, reason="no answer", kind=ErrorKind.ANSWER_TIMEOUT, timed_out=True),
        given_up,
        attempt(other, duration=12, attempts=1, status=200),
    ]
    counted = counting.count(attempts, numbers, {given_up[0].id})
    delays = {"delay_100": 1, "delay_300000": 1, "delay_total": 90_050, "delay_longest": 90_000}
    late = {
        "duration_more": 1,
        "duration_total": 31_000,
        "duration_longest": 31_000,
        "delay_100": 1,
        "delay_longest": 1,
    }
    assert counted == [
        row(webhook, attempted=2, duration_10=2, duration_total=12, duration_longest=7, **delays),
        row(webhook, "answer_timeout", attempted=1, **late),
        row(webhook, "http_503", attempted=1, given_up=1, duration_50=1, duration_total=40, duration_longest=40),
        row(other, attempted=1, duration_25=1, duration_total=12, duration_longest=12),
    ]


def test_deliveries_are_counted_as_their_attempts_are_recorded(inbox: Inbox, webhooks_settings: Any) -> None:
    webhooks_settings(RETRY_SCHEDULE=[0], PAUSE_AFTER=100)
    for path in ("ok", "status/500"):
        make_webhook(Thing, url=inbox.url(path))
    for number in range(20):
        Thing.objects.create(name=str(number))
    drain()
    assert Attempt.objects.count() == 60
    while sweep_step(rollup.roll_up, 1000):
        pass
    for period in Period:
        sums = totals(period)
        assert (sums["attempted"], sums["given_up"]) == (60, 20)
        assert sum(sums[name] for name in DURATION.buckets) == 60
        assert sum(sums[name] for name in DELAY.buckets) == 40
        kinds: Counter[str] = Counter()
        for kind, count in Statistic.objects.filter(period=period).values_list("error_kind", "attempted"):
            kinds[kind] += count
        assert kinds == {"": 20, "http_500": 40}
    assert totals()["duration_total"] == sum(Attempt.objects.values_list("duration_ms", flat=True))


@pytest.mark.cost
def test_a_record_of_any_size_takes_one_statement_and_one_row(webhook: Webhook) -> None:
    attempts = [attempt(one, status=200) for one in (webhook, make_webhook(Thing)) for _ in range(50)]
    with CaptureQueriesContext(connection) as captured:
        StatisticDelta.objects.insert(counting.count(attempts, numbers, set()))
        StatisticDelta.objects.insert(counting.count([], numbers, set()))
    assert len(captured) == 1
    [written] = StatisticDelta.objects.all()
    assert len(json.loads(written.counts)) == 2
    assert written.start % 60 == 0
    assert -1 <= timezone.now().timestamp() - written.start < 121


def test_a_rollback_leaves_no_counts(webhook: Webhook) -> None:
    with transaction.atomic():
        StatisticDelta.objects.insert(counting.count([attempt(webhook)], numbers, set()))
        transaction.set_rollback(True)
    assert not StatisticDelta.objects.exists()


# The roll-up


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param([], set(), id="nothing"),
        pytest.param([(0, "", 3)], {(60, 0, "", 3), (3600, 0, "", 3)}, id="one"),
        pytest.param([(60, "", 3), (60, "", 4)], {(60, 60, "", 7), (3600, 0, "", 7)}, id="same-minute"),
        pytest.param(
            [(60, "", 3), (3540, "", 4)], {(60, 60, "", 3), (60, 3540, "", 4), (3600, 0, "", 7)}, id="same-hour"
        ),
        pytest.param(
            [(3540, "", 1), (3600, "", 2)],
            {(60, 3540, "", 1), (60, 3600, "", 2), (3600, 0, "", 1), (3600, 3600, "", 2)},
            id="next-hour",
        ),
        pytest.param(
            [(0, "", 1), (0, "timeout", 2)],
            {(60, 0, "", 1), (60, 0, "timeout", 2), (3600, 0, "", 1), (3600, 0, "timeout", 2)},
            id="kinds",
        ),
    ],
)
@pytest.mark.parametrize("most", [1, 1000])
def test_deltas_become_minutes_and_hours(
    webhook: Webhook, deltas: list[tuple[int, str, int]], expected: set[tuple[Any, ...]], most: int
) -> None:
    for start, kind, count in deltas:
        delta(HOUR + start, row(webhook, kind, attempted=count))
    for _ in range(len(deltas)):
        sweep_step(rollup.roll_up, most)
    assert stored("attempted") == expected
    assert not StatisticDelta.objects.exists()
    assert sweep_step(rollup.roll_up, most) == 0


def test_every_column_is_added(webhook: Webhook) -> None:
    for factor in (1, 10):
        delta(HOUR, row(webhook, **{name: factor * number for number, name in enumerate(COUNTS, 1)}))
        sweep_step(rollup.roll_up, 1000)
    assert totals() == {name: 11 * number for number, name in enumerate(COUNTS, 1)}


def test_webhooks_have_different_rows(webhook: Webhook) -> None:
    other = make_webhook(Thing)
    delta(HOUR, row(webhook, attempted=1), row(other, attempted=2))
    sweep_step(rollup.roll_up, 1000)
    by_webhook = Statistic.objects.filter(period=Period.HOUR).values_list("webhook_id", "attempted")
    assert dict(by_webhook) == {webhook.pk: 1, other.pk: 2}


def test_a_roll_up_takes_the_oldest_deltas_up_to_its_limit(webhook: Webhook) -> None:
    for number in range(5):
        delta(HOUR + 60 * number, row(webhook, attempted=1))
    assert sweep_step(rollup.roll_up, 3) == 3
    assert set(StatisticDelta.objects.values_list("start", flat=True)) == {HOUR + 180, HOUR + 240}


def test_a_roll_up_that_fails_changes_nothing(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    delta(HOUR, row(webhook, attempted=1))

    def fail(*args: Any) -> None:
        real(*args)
        raise ValueError("planted")

    real = Statistic.objects.add
    monkeypatch.setattr(Statistic.objects, "add", fail)
    with pytest.raises(ValueError, match="planted"):
        sweep_step(rollup.roll_up, 1000)
    assert not Statistic.objects.exists()
    assert StatisticDelta.objects.count() == 1


def test_several_workers_that_roll_up_count_each_delta_once(webhook: Webhook) -> None:
    others = [webhook, make_webhook(Thing), make_webhook(Thing)]
    for number in range(200):
        delta(HOUR + 60 * (number % 3), *(row(one, attempted=1, delay_100=1) for one in others))
    stop = threading.Event()

    def work() -> None:
        while sweep_step(rollup.roll_up, 7) or not stop.wait(0.01):
            pass

    crew = [Beside(work) for _ in range(3)]
    for number in range(100):
        delta(HOUR + 60 * (number % 3), *(row(one, attempted=1) for one in others))
    stop.set()
    for one in crew:
        one.join()
    while sweep_step(rollup.roll_up, 1000):
        pass
    assert stored("attempted", "delay_100") == {
        (60, 0, "", 101, 67), (60, 60, "", 100, 67), (60, 120, "", 99, 66), (3600, 0, "", 300, 200),
    }  # fmt: skip


@pytest.mark.postgresql
def test_a_roll_up_leaves_out_deltas_of_another_one(webhook: Webhook) -> None:
    delta(HOUR, row(webhook, attempted=1))
    with session("SELECT id FROM rq_webhooks_statisticdelta FOR UPDATE"):
        assert sweep_step(rollup.roll_up, 1000) == 0
    assert sweep_step(rollup.roll_up, 1000) == 1


# Skips


def skip(webhook: Webhook, start: int = HOUR) -> Skip:
    return make_site_skip(webhook, timestamp=datetime.fromtimestamp(start + 59, UTC))


def test_each_skip_counts_once_in_its_minute_and_its_hour(webhook: Webhook) -> None:
    for start in (0, 0, 0, 60, 3600):
        skip(webhook, HOUR + start)
    assert [sweep_step(rollup.count_skips, 2) for _ in range(4)] == [2, 2, 1, 0]
    sweep_step(rollup.roll_up, 1000)
    assert stored("skipped") == {
        (60, 0, "", 3), (60, 60, "", 1), (60, 3600, "", 1), (3600, 0, "", 4), (3600, 3600, "", 1),
    }  # fmt: skip
    assert totals() == {"skipped": 5}
    assert Skip.objects.filter(counted=True).count() == 5


def test_skips_count_beside_attempts(webhook: Webhook) -> None:
    delta(HOUR, row(webhook, attempted=2), row(webhook, "timeout", attempted=3))
    skip(webhook)
    skip(other := make_webhook(Thing))
    assert sweep_step(rollup.add_up, 1000) == 4, "two skips and two deltas"
    assert stored("attempted", "skipped") == {
        (60, 0, "", 2, 1), (3600, 0, "", 2, 1), (60, 0, "timeout", 3, 0), (3600, 0, "timeout", 3, 0),
        (60, 0, "", 0, 1), (3600, 0, "", 0, 1),
    }  # fmt: skip
    assert Statistic.objects.get(webhook=other, period=Period.HOUR).skipped == 1


@pytest.mark.parametrize("counted_before", [0, 2, 7])
def test_skips_count_before_they_are_deleted(webhook: Webhook, webhooks_settings: Any, counted_before: int) -> None:
    webhooks_settings(SKIPS_PER_WEBHOOK=3)
    for _ in range(7):
        skip(webhook)
    sweep_step(rollup.count_skips, counted_before)
    assert sweep_step(retention.purge_skips) == 4
    sweep_step(rollup.add_up, 1000)
    assert Skip.objects.count() == 3
    assert totals() == {"skipped": 7}


def test_a_count_that_fails_changes_nothing(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    skip(webhook)
    for work in (
        lambda: sweep_step(rollup.count_skips, 9),
        lambda: atomically(lambda: rollup.delete_skips([Skip.objects.get().pk]), "default"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(QuerySet, "update", fail)
            patched.setattr(QuerySet, "_raw_delete", fail)
            with pytest.raises(ValueError, match="planted"):
                work()
        assert not StatisticDelta.objects.exists()
        assert Skip.objects.filter(counted=False).count() == 1


def fail(*args: Any, **kwargs: Any) -> None:
    raise ValueError("planted")


def test_several_workers_count_and_delete_skips_and_each_counts_once(webhook: Webhook) -> None:
    webhooks, stop = [webhook, make_webhook(Thing)], threading.Event()

    def count() -> None:
        while sweep_step(rollup.add_up, 7) or not stop.wait(0.01):
            pass

    def delete() -> None:
        while (ids := list(Skip.objects.order_by("?").values_list("pk", flat=True)[:5])) or not stop.wait(0.01):
            atomically(partial(rollup.delete_skips, ids), "default")

    crew = [Beside(count), Beside(count), Beside(delete), Beside(delete)]
    for number in range(200):
        skip(webhooks[number % 2], HOUR + 60 * (number % 3))
    stop.set()
    for one in crew:
        one.join()
    while sweep_step(rollup.add_up, 1000):
        pass
    assert totals() == totals(Period.MINUTE) == {"skipped": 200}


@pytest.mark.postgresql
def test_skips_that_another_worker_counts_are_left_out(webhook: Webhook) -> None:
    skip(webhook)
    with session("SELECT id FROM rq_webhooks_skip FOR UPDATE"):
        assert sweep_step(rollup.count_skips, 1000) == 0
    assert sweep_step(rollup.count_skips, 1000) == 1


@pytest.mark.cost
@pytest.mark.postgresql
def test_uncounted_skips_are_found_by_their_index(webhook: Webhook) -> None:
    Skip.objects.bulk_create(Skip(webhook=webhook, counted=number > 3) for number in range(5000))
    execute("default", "ANALYZE rq_webhooks_skip")
    with CaptureQueriesContext(connection) as captured:
        assert sweep_step(rollup.count_skips, 1000) == 4
    [statement] = [one["sql"] for one in captured if one["sql"].startswith('SELECT "rq_webhooks_skip"."id"')]
    plan = "\n".join(line for (line,) in fetch_all("default", f"EXPLAIN {statement}"))
    assert "rq_webhooks_skip_uncounted" in plan, plan


# Retention, and webhooks that are deleted


def test_minutes_are_stored_for_a_day_and_hours_for_a_time_of_the_settings(
    webhook: Webhook, webhooks_settings: Any
) -> None:
    webhooks_settings(STATISTIC_DAYS=10)
    now = int(timezone.now().timestamp())
    for days in (0.9, 1.1, 9.9, 10.1):
        for period in Period:
            Statistic.objects.create(webhook=webhook, period=period, start=now - int(days * 86_400))
    assert retention.purge_statistics() == 4
    kept = Statistic.objects.order_by("period", "-start").values_list("period", "start")
    assert [(period, round((now - start) / 86_400, 1)) for period, start in kept] == [
        (60, 0.9), (3600, 0.9), (3600, 1.1), (3600, 9.9),
    ]  # fmt: skip


def test_old_statistics_are_deleted_in_steps(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PIECE", 3)
    for number in range(5):
        Statistic.objects.create(webhook=webhook, period=Period.HOUR, start=3600 * number)
    assert [retention.purge_statistics() for _ in range(3)] == [3, 2, 0]


def test_the_sweep_maintains_statistics(webhook: Webhook) -> None:
    delta(int(timezone.now().timestamp()), row(webhook, attempted=1))
    assert sweep.sweep() == 1
    assert totals() == {"attempted": 1}


def test_a_webhook_is_deleted_with_its_statistics(webhook: Webhook) -> None:
    other = make_webhook(Thing)
    for _ in range(2):
        delta(HOUR, row(webhook, attempted=1), row(other, attempted=1))
        sweep_step(rollup.roll_up, 1)
    delta(HOUR, row(webhook, attempted=1), row(other, attempted=1))
    delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
    assert set(Statistic.objects.values_list("webhook", flat=True)) == {other.pk}
    sweep_step(rollup.roll_up, 1000)
    assert set(Statistic.objects.values_list("webhook", "attempted")) == {(other.pk, 3)}


@pytest.mark.postgresql
def test_a_webhook_that_is_deleted_during_a_roll_up_leaves_nothing_after_the_next_sweep(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_webhook(Thing)
    delta(HOUR, row(webhook, attempted=1), row(other, attempted=1))

    def add_and_delete(*args: Any) -> None:
        real(*args)
        Beside(Webhook.objects.filter(pk=webhook.pk).delete_rows).join()

    real = Statistic.objects.add
    monkeypatch.setattr(Statistic.objects, "add", add_and_delete)
    assert sweep_step(rollup.roll_up, 1000) == 1
    assert Statistic.objects.filter(webhook=webhook.pk).count() == 2
    assert sweep_step(retention.purge_statistics) >= 3
    assert list(StatisticTotal.objects.values_list("webhook", "attempted")) == [(other.pk, 1)]
    assert not Statistic.objects.filter(webhook=webhook.pk).exists()


def test_each_webhook_has_one_row_for_each_period_and_kind(webhook: Webhook) -> None:
    Statistic.objects.create(webhook=webhook, period=Period.HOUR, start=HOUR)
    with pytest.raises(IntegrityError):
        Statistic.objects.create(webhook=webhook, period=Period.HOUR, start=HOUR)
