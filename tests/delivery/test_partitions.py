"""On PostgreSQL, the history is divided: old rows go with their partition."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from tests.support.draining import drain
from tests.support.history import (
    TABLES,
    clock,
    divide,
    insert_history,
    partition_of,
    undivide,
)
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_webhook
from tests.support.plans import executed_plans
from tests.support.threads import Beside
from tests.support.waiting import until
from tests.support.workers import ROOT, Workers
from tests.testapp.models import Thing
from webhooks.delivery import retention, sweep
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.scan_floors import ScanFloors
from webhooks.ground.db import execute, fetch_all
from webhooks.models import (
    Attempt,
    Body,
    Delivery,
    Event,
    QueuedDelivery,
    State,
    Statistic,
    Sweep,
    Undispatched,
    Webhook,
    partitions,
)
from webhooks.models.ids import delivery_id, first_id
from webhooks.models.partitions import DELIVERY, EVENT, _last_event, drop_old, make_ahead, read_partitions
from webhooks.models.queue import at_once_seconds
from webhooks.models.statistic import Period
from webhooks.models.worker import hold_retention, in_worker_transaction

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.postgresql]

DAYS = 10
PERIOD = timedelta(days=DAYS) / partitions.PART


@pytest.fixture(autouse=True)
def undivided(database: str, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No partitions but the default ones. Events have small ones."""
    webhooks_settings(RETENTION_DAYS={"succeeded": DAYS, "failed": 90, "discarded": 30})
    monkeypatch.setattr(partitions, "MIN_IDS", 200)
    monkeypatch.setattr(partitions, "BURST_IDS", 300)
    monkeypatch.setattr(partitions, "MIN_MARGIN_IDS", 100)
    # Autovacuum gives way after PostgreSQL has looked for a deadlock, which it does after a second.
    monkeypatch.setattr(partitions, "LOCK_WAIT", 3000)
    undivide()
    yield
    undivide()


@pytest.fixture
def webhook(database: str) -> Webhook:
    return make_webhook(Thing)


@pytest.fixture
def old() -> datetime:
    """The begin of a partition whose succeeded deliveries are older than their retention."""
    divide(timezone.now() - timedelta(days=30), least=3)
    return moment(read_partitions("default", DELIVERY)[0].begin)


def moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def names(table: str) -> list[str]:
    return [one.stamp for one in read_partitions("default", table)]


def purge() -> int:
    return in_worker_transaction("default", lambda: retention.purge_ended(State.SUCCEEDED))


def test_partitions_are_made_before_their_rows_come(webhook: Webhook) -> None:
    now = timezone.now()
    with clock(now):
        make_ahead()
        make_ahead()  # few deliveries: the next partitions are longer
        known = read_partitions("default", DELIVERY)
        assert known[-1].end > (now + PERIOD).timestamp() * 1000
        assert all(before.end == after.begin for before, after in pairwise(known))
        assert [names(table) for table in partitions.BY_TIME] == [names(DELIVERY)] * 3
        make_ahead()
        assert read_partitions("default", DELIVERY) == known
    later = moment(known[-1].end) - PERIOD  # their borders are fixed, so how far they reach depends on the day
    with clock(later):
        make_ahead()
    assert read_partitions("default", DELIVERY)[-1].end > known[-1].end


def test_rows_go_to_the_partition_of_their_time(webhook: Webhook) -> None:
    make_ahead()
    first = read_partitions("default", DELIVERY)[0]
    inside = moment(first.begin + 1000)
    soon = make_delivery(webhook, State.SUCCEEDED, id=delivery_id(inside, 1, webhook.pk))
    past = make_delivery(webhook, State.SUCCEEDED, id=delivery_id(timezone.now() - timedelta(days=3), 2, webhook.pk))
    for delivery in (soon, past):
        Attempt.objects.create(delivery=delivery, number=1, started_at=inside, duration_ms=1, url="", succeeded=True)
    assert partition_of(DELIVERY, "id", soon.pk) == f"{DELIVERY}_p{first.stamp}"
    assert partition_of("rq_webhooks_attempt", "delivery_id", soon.pk) == f"rq_webhooks_attempt_p{first.stamp}"
    assert partition_of(DELIVERY, "id", past.pk) == f"{DELIVERY}_default"
    assert set(Delivery.objects.filter(pk__in=[soon.pk, past.pk])) == {soon, past}


def test_a_partition_that_is_made_late_gets_its_rows_from_the_default_partition(webhook: Webhook) -> None:
    later = timezone.now() + timedelta(minutes=10)  # another clock is ahead
    delivery = make_delivery(webhook, State.SUCCEEDED, id=delivery_id(later, 1, webhook.pk))
    Attempt.objects.create(delivery=delivery, number=1, started_at=later, duration_ms=1, url="", succeeded=True)
    assert partition_of(DELIVERY, "id", delivery.pk) == f"{DELIVERY}_default"
    make_ahead()
    stamp = names(DELIVERY)[0]
    assert partition_of(DELIVERY, "id", delivery.pk) == f"{DELIVERY}_p{stamp}"
    assert partition_of("rq_webhooks_attempt", "delivery_id", delivery.pk) == f"rq_webhooks_attempt_p{stamp}"


def test_events_go_to_partitions_by_their_ids(webhook: Webhook) -> None:
    before = make_event(webhook)
    make_ahead()
    [first, *others] = read_partitions("default", EVENT)
    assert others[-1].end > before.pk + partitions.BURST_IDS
    assert [one.begin for one in others] == [one.end for one in [first, *others[:-1]]]
    while (event := make_event(webhook)).pk <= first.begin + 100:
        pass
    assert partition_of(EVENT, "id", before.pk) == f"{EVENT}_default"
    assert partition_of(EVENT, "id", event.pk) == f"{EVENT}_p{first.stamp}"
    make_ahead()
    [*known, another] = read_partitions("default", EVENT)
    assert (known, another.begin) == ([first, *others], others[-1].end)


def test_rows_that_are_stored_for_longer_stay(webhook: Webhook, old: datetime) -> None:
    inside = old + timedelta(hours=1)
    fields = {"timestamp": inside, "dispatched": True}

    def deliver(state: State, number: int, **more: Any) -> Delivery:
        event = make_event(webhook, object_id=str(number), **fields)
        pk = delivery_id(inside, event.pk, webhook.pk)
        delivery = make_delivery(webhook, state, event=event, id=pk, **more)
        Attempt.objects.create(delivery=delivery, number=1, started_at=inside, duration_ms=1, succeeded=True)
        Body.objects.create(delivery=delivery, sha256="0" * 64, content=b"")
        return delivery

    gone = [deliver(State.SUCCEEDED, number, finished_at=inside) for number in range(5)]
    stays = [
        deliver(State.FAILED, 10, finished_at=inside),
        deliver(State.DISCARDED, 11, finished_at=inside),
        deliver(State.PENDING, 12),
        deliver(State.WAITING, 12),
        deliver(State.SENDING, 13),
        deliver(State.SUCCEEDED, 14, finished_at=timezone.now()),  # after many attempts
    ]
    undispatched = make_event(webhook, object_id="20", timestamp=inside)
    failed = make_event(webhook, object_id="21", error="ValueError", **fields)
    next_partition = read_partitions("default", EVENT)[0].end
    while make_event(webhook, **fields).pk < next_partition:
        pass
    queued = set(QueuedDelivery.objects.values_list("pk", flat=True))
    drop_old()
    assert set(Delivery.objects.all()) == set(stays)
    assert not Event.objects.filter(pk__in=[one.event_id for one in gone]).exists()
    kept = {*(one.event_id for one in stays), undispatched.pk, failed.pk}
    assert set(Event.objects.filter(pk__lt=next_partition).values_list("pk", flat=True)) == kept
    assert set(QueuedDelivery.objects.values_list("pk", flat=True)) == queued
    for model in (Attempt, Body):
        assert set(model.objects.values_list("delivery", flat=True)) == {one.pk for one in stays}
    # A few rows need no partition.
    assert not [one for one in read_partitions("default", DELIVERY) if one.is_emptied]
    assert partition_of(DELIVERY, "id", stays[0].pk) == f"{DELIVERY}_default"
    assert Undispatched.objects.get() == undispatched.undispatched


def test_emptied_neighbours_with_many_rows_left_become_one(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "FOLDED", 0)
    divide(timezone.now() - timedelta(days=60), least=12)
    first, *_, last = read_partitions("default", DELIVERY)[:4]
    insert_history(webhook, 400, moment(first.begin), moment(last.end) - moment(first.begin), outcome="failed")
    rows = set(Delivery.objects.values_list("pk", "event_id")), set(Attempt.objects.values_list("delivery", "number"))
    for _ in range(10):
        drop_old()
    of_both = read_partitions("default", DELIVERY)[0]
    assert (of_both.begin, of_both.end, of_both.is_emptied) == (first.begin, last.end, True)
    assert partition_of("rq_webhooks_attempt", "delivery_id", min(rows[0])[0]).endswith(f"_p{first.stamp}")
    assert rows == (
        set(Delivery.objects.values_list("pk", "event_id")),
        set(Attempt.objects.values_list("delivery", "number")),
    )
    monkeypatch.setattr(partitions, "JOINED_BYTES", 0)
    events = names(EVENT)
    drop_old()
    assert names(EVENT) == events


def test_the_last_state_of_an_object_stays_while_an_earlier_one_is_failed(webhook: Webhook, old: datetime) -> None:
    def deliver(state: State, hours: int, object_id: str = "1", **event: Any) -> Delivery:
        at = old + timedelta(hours=hours)
        made = make_event(webhook, timestamp=at, object_id=object_id, dispatched=True, **event)
        pk = delivery_id(at, made.pk, webhook.pk)
        return make_delivery(webhook, state, event=made, id=pk, noted_end=at if state == State.FAILED else None)

    deliver(State.SUCCEEDED, 1)
    failed = deliver(State.FAILED, 2)
    deliver(State.SUCCEEDED, 3)
    last = deliver(State.SUCCEEDED, 4)
    waiting = deliver(State.WAITING, 5)
    deliver(State.SUCCEEDED, 6, action="dcim.rack_audited")
    deliver(State.SUCCEEDED, 7, "2")
    drop_old()
    assert set(Delivery.objects.all()) == {failed, last, waiting}
    assert set(Event.objects.all()) >= {failed.event, last.event, waiting.event}
    assert Delivery.objects.superseded().get() == failed
    assert purge() == 0
    Delivery.objects.filter(pk=failed.pk).discard()
    assert purge() == 1
    assert set(Delivery.objects.all()) == {failed, waiting}


def test_a_partition_stays_until_its_last_delivery_is_older_than_the_retention(webhook: Webhook, old: datetime) -> None:
    insert_history(webhook, 10, old, timedelta(hours=1))
    [first, *_] = names(DELIVERY)
    end = moment(read_partitions("default", DELIVERY)[0].end)
    with clock(end + timedelta(days=DAYS, seconds=at_once_seconds() - 1)):
        drop_old()
    assert Delivery.objects.count() == 10
    drop_old()
    assert Delivery.objects.count() == 0
    assert first not in names(DELIVERY)


def test_the_sweep_deletes_no_row_that_will_go_with_its_partition(webhook: Webhook) -> None:
    divide(timezone.now() - timedelta(days=DAYS) - PERIOD / 2, least=3)
    begin = datetime.fromtimestamp(
        read_partitions("default", DELIVERY)[0].begin / 1000, timezone.get_current_timezone()
    )
    insert_history(webhook, 5, begin, timedelta(minutes=1))
    insert_history(webhook, 3, begin - timedelta(days=1), timedelta(minutes=1))
    assert purge() == 3
    assert Delivery.objects.count() == 5


def test_the_sweep_deletes_single_rows_if_their_partition_cannot_be_emptied(webhook: Webhook, old: datetime) -> None:
    insert_history(webhook, 5, old, timedelta(minutes=1))
    assert purge() == 5


def test_a_report_delays_nothing_but_the_drop(webhook: Webhook, old: datetime) -> None:
    insert_history(webhook, 10, old, timedelta(hours=1))

    def report(hold: Any) -> None:
        with transaction.atomic():
            execute("default", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            fetch_all("default", f"SELECT COUNT(*) FROM {DELIVERY}, {EVENT}")
            hold()

    is_reading, may_end = threading.Event(), threading.Event()
    beside = Beside(lambda: report(lambda: (is_reading.set(), may_end.wait(60))))
    assert is_reading.wait(20)
    drop_old()
    assert Delivery.objects.count() == 10
    assert make_event(webhook).pk  # a save waits for nothing
    dispatch()
    make_ahead()
    may_end.set()
    beside.join()
    drop_old()
    assert Delivery.objects.filter(pk__lt=first_id(timezone.now() - timedelta(days=DAYS))).count() == 0


def test_there_are_partitions_for_as_long_as_a_report_may_take(
    webhook: Webhook, webhooks_settings: Callable[..., None]
) -> None:
    seconds = 600
    webhooks_settings(RETENTION_DAYS={"succeeded": seconds / 86_400, "failed": 90, "discarded": 30})
    minute = int(time.time()) // 60 * 60
    counting = Statistic(webhook_id=webhook.pk, period=Period.MINUTE, start=minute, attempted=600 * 20)
    counting.save()
    counts = []
    while make_ahead():
        counts.append((len(read_partitions("default", DELIVERY)), len(read_partitions("default", EVENT))))
    assert counts[0] == (partitions.MOST_AT_ONCE, partitions.MOST_AT_ONCE)  # each holds a lock that saves may wait for
    report = 20 * 60  # seconds
    assert read_partitions("default", DELIVERY)[-1].end / 1000 > time.time() + report
    assert read_partitions("default", EVENT)[-1].end > _last_event("default") + 20 * report
    assert len(read_partitions("default", DELIVERY)) <= partitions.MOST_AHEAD + 2


def test_a_deadlock_ends_the_change_and_not_the_reader(
    webhook: Webhook, old: datetime, app_log: pytest.LogCaptureFixture
) -> None:
    insert_history(webhook, 10, old, timedelta(hours=1))
    stamp = names(DELIVERY)[0]
    holds, may_go_on = threading.Event(), threading.Event()

    def read() -> None:
        with transaction.atomic():
            execute("default", "SET LOCAL deadlock_timeout = '60s'")  # the other one is to find the deadlock
            execute("default", f"LOCK TABLE ONLY {DELIVERY} IN ACCESS SHARE MODE")
            holds.set()
            assert may_go_on.wait(20)
            execute("default", f"LOCK TABLE {DELIVERY}_p{stamp} IN ACCESS SHARE MODE")

    beside = Beside(read)
    assert holds.wait(20)
    watcher = Beside(lambda: (until(is_dropping, 20, "the change to wait for the reader"), may_go_on.set()))
    drop_old()
    watcher.join()
    beside.join()
    assert names(DELIVERY)[0] == stamp  # emptied, and not dropped yet
    assert "is in use" in app_log.text
    drop_old()
    assert stamp not in names(DELIVERY)


def is_dropping() -> bool:
    [[count]] = fetch_all(
        "default",
        "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = %s::regclass",
        [DELIVERY],
    )
    return bool(count)


def test_events_of_the_default_partition_go_after_their_deliveries(webhook: Webhook, old: datetime) -> None:
    """A report may have kept the sweep from making a partition for them."""
    inside = old + timedelta(hours=1)
    fetch_all("default", f"SELECT setval('{EVENT}_id_seq', 1, false)")  # below the first partition

    def deliver(state: State, **more: Any) -> Event:
        event = make_event(webhook, timestamp=inside, dispatched=True)
        make_delivery(webhook, state, event=event, id=delivery_id(inside, event.pk, webhook.pk), **more)
        return event

    gone = [deliver(State.SUCCEEDED, finished_at=inside) for _ in range(5)]
    replayed = make_event(webhook, timestamp=inside, dispatched=True, error="ValueError", replayed_at=inside)
    stays = [
        deliver(State.FAILED, finished_at=inside),
        make_event(webhook, timestamp=inside),
        make_event(webhook, timestamp=inside, dispatched=True, error="ValueError"),
        replayed,  # until it is older than any retention
    ]
    young = make_event(webhook, timestamp=timezone.now() - timedelta(days=DAYS - 1), dispatched=True)
    assert {partition_of(EVENT, "id", one.pk) for one in [*gone, *stays, young]} == {f"{EVENT}_default"}
    drop_old()
    assert set(Event.objects.all()) == {*gone, *stays, young}
    assert in_worker_transaction("default", retention.purge_bare_events) == len(gone)
    assert set(Event.objects.all()) == {*stays, young}
    assert Sweep.objects.get().last_in_default == young.pk - 1  # each is looked at once


def test_an_event_of_a_clock_that_is_ahead_holds_up_no_others(webhook: Webhook, old: datetime) -> None:
    ahead = timezone.now() + timedelta(days=365)
    first = make_event(webhook, timestamp=ahead, dispatched=True)
    [partition, *_] = read_partitions("default", EVENT)
    insert_history(webhook, partition.end - first.pk - 2, old, timedelta(hours=1))
    last = make_event(webhook, timestamp=ahead, dispatched=True)
    assert last.pk < partition.end
    fetch_all("default", f"SELECT setval('{EVENT}_id_seq', {partition.end})")
    for _ in range(3):
        insert_history(webhook, 200, old, timedelta(hours=1))
        make_ahead()
    make_event(webhook)
    until(lambda: not in_worker_transaction("default", drop_old), 20, "nothing to be due")
    assert Event.objects.count() < 250


def test_only_one_worker_changes_partitions(webhook: Webhook) -> None:
    with transaction.atomic():
        fetch_all("default", f"SELECT pg_advisory_xact_lock({partitions._LOCK})")
        Beside(make_ahead).join()
        assert names(DELIVERY) == []
    make_ahead()
    assert names(DELIVERY)


def test_a_user_who_may_not_make_partitions_has_a_reason() -> None:
    assert partitions.obstacle("default") == ""
    execute("default", "CREATE ROLE reader")
    try:
        with transaction.atomic():
            execute("default", f"GRANT SELECT ON {', '.join(TABLES)} TO reader")
            execute("default", "SET LOCAL ROLE reader")
            assert partitions.obstacle("default") == "not_owner"
            make_ahead()
            execute("default", "RESET ROLE")
            transaction.set_rollback(True)
    finally:
        execute("default", "DROP ROLE reader")
    assert names(DELIVERY) == []


def test_the_user_of_the_database_must_own_all_tables_of_the_history() -> None:
    execute("default", "CREATE ROLE site")
    try:
        with transaction.atomic():
            execute("default", "GRANT CREATE ON SCHEMA public TO site")
            for table in TABLES:
                assert partitions.obstacle("default") == ("" if table == TABLES[0] else "not_owner")
                execute("default", "RESET ROLE")
                execute("default", f"ALTER TABLE {table} OWNER TO site")
                execute("default", "SET LOCAL ROLE site")
            assert partitions.obstacle("default") == ""
            execute("default", "RESET ROLE")
            [[database]] = fetch_all("default", "SELECT quote_ident(current_database())")
            execute("default", f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
            execute("default", "SET LOCAL ROLE site")
            assert partitions.obstacle("default") == "no_create"  # rows that stay go through temporary tables
            execute("default", "RESET ROLE")
            transaction.set_rollback(True)
    finally:
        execute("default", "DROP ROLE site")


@pytest.mark.cost
def test_a_day_of_many_deliveries_goes_at_once_and_leaves_no_dead_rows(
    webhook: Webhook, old: datetime, figures: Callable[[str], None]
) -> None:
    count, stamp = 200_000, names(DELIVERY)[0]
    insert_history(webhook, count, old, timedelta(hours=10))
    insert_history(webhook, 1500, old, timedelta(hours=10), "failed")  # too many for the default partition
    began = time.perf_counter()
    drop_old()
    took = time.perf_counter() - began
    figures(f"{count} deliveries went in {took * 1000:.0f} ms")
    assert Delivery.objects.count() == Attempt.objects.count() == 1500
    [[dead]] = fetch_all(
        "default",
        f"SELECT pg_stat_get_dead_tuples('{DELIVERY}_p{stamp}'::regclass)",
    )
    assert dead == 0
    assert took < 10


@pytest.mark.parametrize("table", TABLES)
def test_to_empty_a_partition_reads_only_the_rows_that_stay(
    webhook: Webhook, old: datetime, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "FOLDED", 0)  # or the partition would go
    insert_history(webhook, 20_000, old, timedelta(hours=10))
    insert_history(webhook, 30, old, timedelta(hours=10), "failed")
    name = f"{table}_p{names(table)[0]}"
    first = list(Event.objects.order_by("pk").values_list("pk", flat=True)[:30])
    Event.objects.filter(pk__in=first).update(error="ValueError")
    for one in TABLES:
        execute("default", f"ANALYZE {one}")

    def rows_read() -> int:
        fetch_all("default", "SELECT pg_stat_force_next_flush()")
        [[count]] = fetch_all(
            "default",
            "SELECT seq_tup_read + COALESCE(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relid = to_regclass(%s)",
            [name],
        )
        return int(count)

    before = rows_read()
    in_worker_transaction("default", drop_old)
    in_worker_transaction("default", drop_old)  # the Events, after their deliveries
    assert Delivery.objects.count() == 30
    assert rows_read() - before < (100 if table == EVENT else 1000)  # Events have small partitions here


def test_all_events_of_a_partition_of_deliveries_go_with_it(webhook: Webhook, old: datetime) -> None:
    for _ in range(10):  # many partitions of Events, as at a high rate
        insert_history(webhook, 200, old, timedelta(hours=1))
        make_ahead()
    last = make_event(webhook)
    calls = 1
    while in_worker_transaction("default", drop_old):
        calls += 1
    assert calls > 5
    whole = next(one for one in read_partitions("default", EVENT) if not one.is_emptied)
    assert whole.begin <= last.pk < whole.end


def test_events_stay_while_a_run_may_make_deliveries_of_them(webhook: Webhook, old: datetime) -> None:
    for _ in range(4):
        insert_history(webhook, 200, old, timedelta(hours=1))
        make_ahead()
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            hold_retention("default")
            is_held.set()
            assert may_end.wait(60)

    beside = Beside(hold)
    assert is_held.wait(20)
    until(lambda: not in_worker_transaction("default", drop_old), 20, "nothing to be due")
    assert (Delivery.objects.count(), Event.objects.count()) == (0, 800)
    may_end.set()
    beside.join()
    drop_old()
    assert Event.objects.count() < 800


def test_partitions_that_have_waited_go_one_after_the_other(webhook: Webhook) -> None:
    divide(timezone.now() - timedelta(days=30), least=6)
    begin = moment(read_partitions("default", DELIVERY)[0].begin)
    insert_history(webhook, 60, begin, 4 * PERIOD)

    def count_due() -> int:
        end = int((timezone.now() - timedelta(days=DAYS + 1)).timestamp() * 1000)
        return sum(not one.is_emptied and one.end < end for one in read_partitions("default", DELIVERY))

    sweeper, due = sweep.Sweeper(), count_due()
    assert due > 3
    sweeper.sweep()
    assert count_due() == due - 1
    sweeper.go_on(due)
    assert count_due() == 0
    assert not Delivery.objects.exists()


def test_a_first_attempt_long_after_its_event_keeps_its_delivery(webhook: Webhook, old: datetime, inbox: Inbox) -> None:
    Webhook.objects.update(payload_url=inbox.url())
    inside = old + timedelta(hours=1)
    late, soon = (make_event(webhook, object_id=name, timestamp=inside) for name in ("late", "soon"))
    drain()
    delivery = Delivery.objects.get(event=late)
    assert (delivery.attempt_count, delivery.state) == (1, State.SUCCEEDED)
    assert delivery.noted_end == delivery.finished_at
    Delivery.objects.filter(event=soon).update(noted_end=None, noted_attempts=0)  # as if it had been sent at once
    drop_old()
    assert list(Delivery.objects.all()) == [delivery]


def test_the_database_says_how_late_an_attempt_was(
    webhook: Webhook, old: datetime, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    Webhook.objects.update(payload_url=inbox.url())
    make_event(webhook, timestamp=old + timedelta(hours=1))
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() - timedelta(days=40))  # the clock of the worker
    drain()
    monkeypatch.undo()
    assert Delivery.objects.get().noted_end


def test_a_partition_in_which_too_much_stays_keeps_no_other_one_whole(
    webhook: Webhook,
    old: datetime,
    webhooks_settings: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    app_log: pytest.LogCaptureFixture,
) -> None:
    webhooks_settings(LEASE=1.5, RETENTION_DAYS={"succeeded": DAYS, "failed": 90, "discarded": 30})
    put_back = partitions._put_back

    def put_back_slowly(using: str, tables: list[str]) -> None:
        if fetch_all(using, "SELECT COUNT(*) FROM kept_0")[0][0] > 10:
            execute(using, "SELECT pg_sleep(5)")
        put_back(using, tables)

    monkeypatch.setattr(partitions, "_put_back", put_back_slowly)
    monkeypatch.setattr(partitions, "MANY_STAY", 15)
    for number in range(20):  # of other objects, before the history has partitions
        make_delivery(webhook, State.FAILED, object_id=f"other {number}", finished_at=old - timedelta(days=1))
    insert_history(webhook, 12, old, timedelta(hours=1), "failed")
    insert_history(webhook, 5, old, timedelta(hours=1))
    insert_history(webhook, 7, moment(read_partitions("default", DELIVERY)[1].begin), timedelta(hours=1))
    with pytest.raises(OperationalError):  # few rows stay: the database was slow for once
        in_worker_transaction("default", drop_old)
    insert_history(webhook, 8, old, timedelta(hours=1), "failed")
    for _ in range(3):
        in_worker_transaction("default", drop_old)
    assert Delivery.objects.count() == 45
    assert app_log.text.count("one by one") == 1
    assert purge() == 5
    assert Delivery.objects.filter(outcome=State.FAILED).count() == Delivery.objects.count() == 40


def test_bare_events_go_one_by_one_if_too_many_stay_in_their_partition(
    webhook: Webhook, old: datetime, webhooks_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks_settings(LEASE=1.5, RETENTION_DAYS={"succeeded": DAYS, "failed": DAYS, "discarded": DAYS})
    put_back = partitions._put_back

    def put_back_slowly(using: str, tables: list[str]) -> None:
        if EVENT in tables[0]:
            execute(using, "SELECT pg_sleep(5)")
        put_back(using, tables)

    monkeypatch.setattr(partitions, "_put_back", put_back_slowly)
    monkeypatch.setattr(partitions, "MANY_STAY", 15)
    monkeypatch.setattr(partitions, "FOLDED", 0)
    [first, *_] = read_partitions("default", EVENT)
    insert_history(webhook, 20, old, timedelta(hours=1), "failed")
    insert_history(webhook, first.end - first.begin, old, timedelta(hours=1))
    make_event(webhook)
    Sweep.get_or_begin()
    Sweep.objects.update(last_event=first.end - 10)  # it has looked when these had deliveries
    in_worker_transaction("default", drop_old)
    assert read_partitions("default", EVENT)[0].is_emptied
    in_worker_transaction("default", retention.purge_bare_events)
    assert Event.objects.filter(pk__lt=first.end).count() == 20


def test_the_tables_are_what_migrations_expect() -> None:
    with connection.cursor() as cursor:
        for table in TABLES:
            assert partitions.read_partitions("default", table) == []
            assert table in connection.introspection.table_names(cursor)
            assert f"{table}_default" not in connection.introspection.table_names(cursor)
            found = connection.introspection.get_constraints(cursor, table)
            model = next(one for one in (Event, Delivery, Attempt, Body) if one._meta.db_table == table)
            assert {index.name for index in model._meta.indexes} <= found.keys()
            assert f"{table}_pkey" in found


def test_the_default_rows_of_a_sweep_are_still_deleted(webhook: Webhook) -> None:
    make_ahead()
    make_delivery(webhook, State.SUCCEEDED, finished_at=timezone.now() - timedelta(days=365))
    assert sweep.sweep() == 1


EMPTY_AND_HANG = """
import time
from webhooks.models import partitions
put_back = partitions._put_back
def put_back_and_hang(*given):
    put_back(*given)
    print("emptied", flush=True)
    time.sleep(600)
partitions._put_back = put_back_and_hang
partitions.drop_old()
"""


def test_a_worker_that_is_killed_while_it_empties_a_partition_loses_nothing(
    webhook: Webhook, old: datetime, workers: Workers
) -> None:
    insert_history(webhook, 50, old, timedelta(hours=1))
    insert_history(webhook, 5, old, timedelta(hours=1), "failed")
    command = [sys.executable, "example/manage.py", "shell", "--no-imports", "-c", EMPTY_AND_HANG]
    retention_days = {"succeeded": DAYS, "failed": 90, "discarded": 30}
    environment = workers.environment(RETENTION_DAYS=retention_days)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while process.stdout.readline() != "emptied\n":
            assert process.poll() is None
        process.kill()
    until(lambda: Delivery.objects.count() == Attempt.objects.count() == 55, 20, "the rows to be back")
    drop_old()
    assert Delivery.objects.count() == Attempt.objects.count() == 5


def test_saves_and_dispatches_go_on_while_partitions_come_and_go(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_WAIT", 500)  # less than PostgreSQL waits before it looks for a deadlock
    divide(timezone.now() - timedelta(days=40), least=24)
    begin = moment(read_partitions("default", DELIVERY)[0].begin)
    insert_history(webhook, 2000, begin, timedelta(days=25))
    insert_history(webhook, 50, begin, timedelta(days=25), "failed")
    may_end = threading.Event()

    def save_and_dispatch() -> int:
        count = 0
        while not may_end.is_set() or count < 50:
            make_event(webhook, object_id=str(count % 7))
            count += 1
            dispatch()
        return count

    beside = Beside(save_and_dispatch)

    def change() -> bool:
        make_ahead()
        drop_old()
        retention = timedelta(days=DAYS, seconds=at_once_seconds())
        return moment(read_partitions("default", DELIVERY)[0].end) > datetime.now(UTC) - retention

    until(change, 60, "the old partitions to go")
    may_end.set()
    saved = beside.join()
    while dispatch():
        pass
    assert QueuedDelivery.objects.count() == saved
    assert Delivery.objects.filter(outcome="failed").count() == 50
    orphans = Delivery.objects.exclude(event__in=Event.objects.all())
    assert not orphans.exists()
    assert not Attempt.objects.exclude(delivery__in=Delivery.objects.all()).exists()


def test_a_dispatch_sees_what_is_ahead_in_its_lane_however_old_it_is(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark lets a dispatch look into few partitions. An older delivery of the lane may still wait."""
    first = make_event(webhook, object_id="old", timestamp=timezone.now() - timedelta(days=9))
    assert dispatch() == 1
    divide(timezone.now() - timedelta(days=1), least=3)
    monkeypatch.setattr(partitions, "MIN_MARGIN_IDS", 0)
    partitions._make_mark("default")
    [mark] = Sweep.objects.get().marks
    assert mark[0] >= first.pk
    make_event(webhook, object_id="new")
    second = make_event(webhook, object_id="old")
    # Its clock is far behind, so it is before the mark in the order of ids of deliveries.
    behind = make_event(webhook, object_id="behind", timestamp=timezone.now() - timedelta(days=5))
    assert dispatch() == 3
    after = make_event(webhook, object_id="behind")
    assert dispatch() == 1
    found = dict(QueuedDelivery.objects.values_list("event", "state"))
    assert found[first.pk] == found[behind.pk] == State.PENDING
    assert found[second.pk] == found[after.pk] == State.WAITING


@pytest.mark.cost
@pytest.mark.parametrize(("name", "objects"), [("another", 20_000), ("0", 1)])
def test_a_dispatch_reads_no_events_before_its_window(
    webhook: Webhook, name: str, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those are of other objects, or of the same one. The window begins within a partition."""
    monkeypatch.setattr(partitions, "MIN_IDS", 30_000)
    monkeypatch.setattr(partitions, "MIN_MARGIN_IDS", 1)
    divide(timezone.now() - timedelta(days=1), least=3)
    insert_history(webhook, 20_000, timezone.now() - timedelta(hours=1), timedelta(hours=1), objects=objects)
    partitions._make_mark("default")
    make_ahead()
    [first, second, *_] = read_partitions("default", EVENT)
    execute("default", "ANALYZE rq_webhooks_event")
    fetch_all("default", f"SELECT setval('{EVENT}_id_seq', {second.begin})")
    events = [make_event(webhook, object_id=name) for _ in range(20)]
    [mark] = Sweep.objects.get().marks
    assert first.begin < mark[0] < first.end <= events[0].pk
    with executed_plans() as executed:
        assert dispatch() == 20
    assert max(one.buffers for one in executed) < 300
    assert [Delivery.objects.get(event=one).state for one in events] == [State.PENDING, *[State.WAITING] * 19]


def test_a_mark_is_ahead_of_all_events_and_follows_the_partitions(webhook: Webhook) -> None:
    with clock(timezone.now() - timedelta(days=1)):
        make_ahead()
    make_ahead()
    [mark] = Sweep.objects.get().marks
    assert mark[0] > make_event(webhook).pk
    with clock(timezone.now() + PERIOD):
        make_ahead()
    first, second = Sweep.objects.get().marks
    assert first == mark
    assert second[1] > mark[1]
    make_ahead()  # the clock was set back
    assert Sweep.objects.get().marks == [[*mark[:3], second[3]]], "the end of the windows does not fall"


def test_a_clock_that_is_set_back_keeps_the_order_of_an_object(webhook: Webhook) -> None:
    divide(timezone.now() - timedelta(days=1), least=3)
    partitions._make_mark("default")
    fetch_all("default", f"SELECT setval('{EVENT}_id_seq', {Sweep.objects.get().marks[0][0]})")
    first = make_event(webhook, timestamp=timezone.now() + timedelta(minutes=10))
    assert dispatch() == 1
    QueuedDelivery.objects.update(overtaken=False)  # so it was: the clock of the database was ahead, too
    second = make_event(webhook)
    assert dispatch() == 1
    found = dict(QueuedDelivery.objects.values_list("event", "state"))
    assert found == {first.pk: State.PENDING, second.pk: State.WAITING}


def test_a_clock_that_was_far_ahead_leaves_no_time_without_partitions(webhook: Webhook) -> None:
    now = timezone.now()
    make_ahead()
    with clock(now + timedelta(days=365)):
        make_ahead()
    ahead = [one for one in read_partitions("default", DELIVERY) if moment(one.begin) > now + timedelta(days=300)]
    for days in (0, 1, 60, 364, 366):
        with clock(now + timedelta(days=days)):
            while make_ahead():
                pass
            first = now + timedelta(days=days)
            begin, end = ((first + wait).timestamp() * 1000 for wait in (timedelta(minutes=1), PERIOD))
            known = [one for one in read_partitions("default", DELIVERY) if one.end > begin and one.begin < end]
            assert known[0].begin <= begin
            assert known[-1].end >= end
            assert all(before.end == after.begin for before, after in pairwise(known))
    assert set(ahead) <= set(read_partitions("default", DELIVERY))


def test_an_event_that_is_committed_long_after_a_mark_is_not_passed(webhook: Webhook) -> None:
    divide(timezone.now() - timedelta(days=1), least=3)
    [before, after, *_] = read_partitions("default", EVENT)
    fetch_all("default", f"SELECT setval('{EVENT}_id_seq', {before.end - 50})")
    is_open, may_commit = threading.Event(), threading.Event()

    def save_slowly() -> Event:
        with transaction.atomic():
            event = make_event(webhook, object_id="of both")
            is_open.set()
            assert may_commit.wait(20)
        return event

    slow = Beside(save_slowly)
    assert is_open.wait(20)
    partitions._make_mark("default")
    [mark] = Sweep.objects.get().marks
    assert after.begin <= mark[0] < after.end  # the look of a dispatch begins in its partition, or before
    fetch_all("default", f"SELECT setval('{EVENT}_id_seq', {mark[0] + 5})")
    floors = ScanFloors()
    floors._floors[0], floors._next_full = mark[0] + 5, time.monotonic() + 60
    may_commit.set()
    first, second = slow.join(), make_event(webhook, object_id="of both")
    assert first.pk < after.begin
    assert dispatch(floors=floors, skips_scan=True) == 0
    assert dispatch() == 2
    found = dict(QueuedDelivery.objects.values_list("event", "state"))
    assert found == {first.pk: State.PENDING, second.pk: State.WAITING}


def test_a_change_of_a_table_does_not_shorten_waits_for_rows(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker may hold the row of the sweep for longer than a change waits for a table."""
    monkeypatch.setattr(partitions, "LOCK_WAIT", 50)
    make_ahead()
    began = moment(read_partitions("default", DELIVERY)[0].begin)
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            list(Sweep.objects.select_for_update())
            is_held.set()
            assert may_end.wait(20)

    beside = Beside(hold)
    assert is_held.wait(20)
    timer = threading.Timer(1, may_end.set)
    timer.start()
    with clock(began + timedelta(hours=1)):
        in_worker_transaction("default", make_ahead)
    beside.join()
    timer.join()
    assert len(Sweep.objects.get().marks) == 1


def test_old_rows_that_are_left_are_noted(webhook: Webhook, webhooks_settings: Callable[..., None]) -> None:
    ago = timezone.now() - timedelta(days=DAYS + 2)
    make_delivery(webhook, State.SUCCEEDED, finished_at=ago)
    Sweep.get_or_begin()
    retention.note_backlog(ScanFloors())
    assert Sweep.objects.get().backlog == pytest.approx(2 * 86400, abs=60)
    sweep.sweep()
    assert Sweep.objects.get().backlog == 0


def test_a_deleted_webhook_takes_its_rows_of_all_partitions(webhook: Webhook) -> None:
    divide(timezone.now() - timedelta(days=15), least=12)
    begin = moment(read_partitions("default", DELIVERY)[0].begin)
    other = make_webhook(Thing)
    for one in (webhook, other):
        insert_history(one, 400, begin, timedelta(days=12), "failed")
    Webhook.objects.filter(pk=webhook.pk).update(deleted_at=timezone.now())
    until(lambda: not sweep.sweep(), 60, "the sweep to end")
    assert not Webhook.with_deleted.filter(pk=webhook.pk).exists()
    assert set(Delivery.objects.values_list("webhook", flat=True)) == {other.pk}
    assert Attempt.objects.count() == Event.objects.count() == 400


def test_a_default_partition_that_is_too_large_is_logged_and_deleted_row_by_row(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, app_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(partitions, "MAX_DEFAULT_BYTES", 0)
    make_delivery(webhook, State.SUCCEEDED, finished_at=timezone.now() - timedelta(days=365))
    assert sweep.sweep() == 1
    [record] = [one for one in app_log.records if one.levelname == "ERROR"]
    assert "The sweep failed at “make partitions”" in record.getMessage()
    assert names(DELIVERY) == []
