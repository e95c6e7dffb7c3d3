"""The floors of looks, and the pages that a worker reads while another session keeps an old snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone

from tests.support.draining import states
from tests.support.inbox import Inbox
from tests.support.incident import TABLES
from tests.support.makers import make_delivery, make_event, make_site_skip, make_webhook
from tests.support.plans import Executed, executed_plans
from tests.support.sessions import session
from tests.testapp.models import Thing
from webhooks.delivery import scan_floors
from webhooks.delivery.dispatch import dispatch
from webhooks.delivery.scan_floors import COST_FACTOR, LAG, LONGEST, ScanFloors
from webhooks.delivery.sweep import Sweeper
from webhooks.ground.db import execute
from webhooks.models import State, Statistic, Undispatched
from webhooks.models.lanes import lane_of
from webhooks.models.statistic import Period
from webhooks.workers.runner import DeliveryRunner

DEAD = 40_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that floors see. Set ``now``."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(scan_floors, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def look(floors: ScanFloors, clock: SimpleNamespace, seconds: float = 0) -> int | None:
    """Make a look that takes this long. Returns where it began."""
    with floors.scan() as known:
        floor = known.get(0)
        clock.now += seconds
    return floor


def test_a_look_begins_at_what_an_earlier_one_has_found(clock: SimpleNamespace) -> None:
    floors = ScanFloors()
    assert look(floors, clock, seconds=1) is None
    floors.note(0, 5)
    assert look(floors, clock) is None
    clock.now += LAG
    floors.note(0, 8)
    assert look(floors, clock) == 5
    clock.now += LAG
    floors.note(0, 9)
    assert look(floors, clock) == 8


def test_an_entry_that_comes_in_below_lowers_the_floor(clock: SimpleNamespace) -> None:
    floors = ScanFloors()
    look(floors, clock, seconds=1)
    for lowest in (5, 8):
        floors.note(0, lowest)
        clock.now += LAG
    floors.note(0, 9)
    assert look(floors, clock) == 8
    floors.note(0, 3)
    assert look(floors, clock) == 3
    clock.now += LAG
    floors.note(0, 9)
    assert look(floors, clock) == 3


@pytest.mark.parametrize(("seconds", "wait"), [(0.5, 0.5 * COST_FACTOR), (3600, LONGEST)])
def test_an_expensive_look_without_floors_is_rare(clock: SimpleNamespace, seconds: float, wait: float) -> None:
    floors = ScanFloors()
    look(floors, clock, seconds)
    ended = clock.now
    for _ in range(2):
        floors.note(0, 5)
        clock.now += LAG
    assert look(floors, clock) == 5
    clock.now = ended + wait - 1
    assert not floors.is_full_scan_due
    clock.now = ended + wait
    assert floors.is_full_scan_due
    assert look(floors, clock) is None


def test_a_cheap_look_never_begins_at_a_floor(clock: SimpleNamespace) -> None:
    floors = ScanFloors()
    for number in range(3):
        assert look(floors, clock) is None
        floors.note(0, number)
        clock.now += LAG


def test_a_look_without_floors_that_fails_counts_too(clock: SimpleNamespace) -> None:
    floors = ScanFloors()
    with pytest.raises(ZeroDivisionError), floors.scan():
        clock.now += 1
        raise ZeroDivisionError
    for lowest in (5, 5):
        floors.note(0, lowest)
        clock.now += LAG
    assert look(floors, clock) == 5


# Under an old snapshot


@pytest.fixture
def snapshot(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another session keeps one, and floors do not depend on times."""
    monkeypatch.setattr(scan_floors, "COST_FACTOR", 10**9)
    monkeypatch.setattr(scan_floors, "LAG", 0)
    with session("SELECT count(*) FROM rq_webhooks_event"):
        yield
    for table in TABLES:  # other tests look at plans
        execute("default", f"TRUNCATE rq_webhooks_{table} CASCADE")


def leave_dead_rows(table: str, columns: str, values: str, *parameters: object, count: int = DEAD) -> None:
    """Rows that come and go. In ``values``, n counts from 1."""
    execute(
        "default", f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, {count}) AS n", parameters
    )
    execute("default", f"DELETE FROM {table}")


def assert_only_the_first_is_expensive(rounds: list[list[Executed]], *looks: str) -> None:
    """Statements that begin like this read many pages in the first round, and few in the others."""
    for begin in looks:
        first, *others = [
            max(one.buffers for one in executed if one.statement.startswith(begin)) for executed in rounds
        ]
        assert first > 100, begin
        assert max(others) < 30, begin


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("snapshot")
def test_a_worker_passes_dead_rows_once(inbox: Inbox) -> None:
    webhook = make_webhook(Thing, url=inbox.url("ok"))
    leave_dead_rows("rq_webhooks_undispatched", "event_id", "n")
    leave_dead_rows(
        "rq_webhooks_queue",
        "delivery_id, event_id, webhook_id, lane, state, due_at",
        "gen_random_uuid(), n, %s, n, 'pending', now() - make_interval(secs => n)",
        webhook.pk,
    )
    runner = DeliveryRunner("test")
    rounds = []
    for number, is_woken in enumerate((False, False, True, False), start=1):
        make_event(webhook, id=DEAD + number)
        with executed_plans() as executed:
            runner.run(10, wait=False, is_woken=is_woken)
            runner.finish()
        rounds.append(executed)
    runner.close(grace=0)
    assert states() == [State.SUCCEEDED] * 4
    assert_only_the_first_is_expensive(rounds, "SELECT event_id", "SELECT id, probe_at")


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("snapshot")
def test_a_sweep_passes_dead_rows_once() -> None:
    webhook = make_webhook(Thing)
    leave_dead_rows("rq_webhooks_statisticdelta", "start, counts", "n, '[]'")
    skip_id = "('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid"
    leave_dead_rows("rq_webhooks_skip", "id, webhook_id", f"{skip_id}, %s", webhook.pk)
    sweeper = Sweeper()
    rounds = []
    for _ in range(3):
        make_site_skip(webhook)
        with executed_plans() as executed:
            sum(step() for step in sweeper._urgent_steps())
        rounds.append(executed)
    assert [one.skipped for one in Statistic.objects.filter(period=Period.HOUR)] == [3]
    assert_only_the_first_is_expensive(
        rounds, 'SELECT "rq_webhooks_skip"."id"', 'SELECT "rq_webhooks_statisticdelta"."id"'
    )


@pytest.mark.cost
@pytest.mark.postgresql
@pytest.mark.usefixtures("snapshot")
def test_the_purge_passes_dead_rows_once() -> None:
    webhook = make_webhook(Thing)
    delivery_id = "('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid"
    columns = "id, event_id, webhook_id, created, outcome, noted_end"
    event = make_event(webhook, dispatched=True)
    values = f"{delivery_id}, {event.pk}, %s, now(), 'succeeded', now()"
    leave_dead_rows("rq_webhooks_delivery", columns, values, webhook.pk)
    sweeper = Sweeper()
    rounds = []
    for _ in range(3):
        make_delivery(webhook, State.SUCCEEDED, finished_at=timezone.now() - timedelta(days=1000))
        with executed_plans() as executed:
            sweeper.sweep()
        rounds.append(executed)
    assert states() == []
    assert_only_the_first_is_expensive(rounds, 'SELECT "rq_webhooks_delivery"."id"')


@pytest.mark.postgresql
@pytest.mark.usefixtures("database")
def test_an_event_that_had_to_wait_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.delivery.scan_floors.COST_FACTOR", 10**9)
    monkeypatch.setattr("webhooks.delivery.scan_floors.LAG", 0)
    webhook, floors = make_webhook(Thing), ScanFloors()
    held = make_event(webhook, object_id="held")
    with session(f"SELECT pg_advisory_xact_lock({lane_of(held.object_type, held.object_id)})"):
        for number in range(3):
            make_event(webhook, object_id=str(number))
            assert dispatch(floors=floors, skips_scan=True) == 1
    assert dispatch(floors=floors, skips_scan=True) == 1
    assert not Undispatched.objects.exists()
