"""Where a worker begins to look, and what it reads while another session keeps an old snapshot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.support.draining import states
from tests.support.inbox import Inbox
from tests.support.makers import make_event, make_webhook
from tests.support.plans import Executed, executed_plans
from tests.support.sessions import session
from tests.testapp.models import Thing
from webhooks.db import execute
from webhooks.delivery import floors
from webhooks.delivery.floors import COST_FACTOR, LAG, Floors
from webhooks.delivery.runner import DeliveryRunner
from webhooks.models import State, Webhook

DEAD = 20_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that floors see. Set ``now``."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(floors, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def look(floors: Floors, clock: SimpleNamespace, seconds: float = 0) -> int | None:
    """Make a look that takes this long. Returns where it began."""
    with floors.look() as known:
        floor = known.get(0)
        clock.now += seconds
    return floor


def test_a_look_begins_at_what_an_earlier_one_has_found(clock: SimpleNamespace) -> None:
    floors = Floors()
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
    floors = Floors()
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


def test_an_expensive_look_without_floors_is_rare(clock: SimpleNamespace) -> None:
    floors = Floors()
    look(floors, clock, seconds=1)
    floors.note(0, 5)
    clock.now += LAG
    floors.note(0, 5)
    assert look(floors, clock) == 5
    clock.now += COST_FACTOR
    assert look(floors, clock) is None


def test_a_cheap_look_never_begins_at_a_floor(clock: SimpleNamespace) -> None:
    floors = Floors()
    for number in range(3):
        assert look(floors, clock) is None
        floors.note(0, number)
        clock.now += LAG


def test_a_look_without_floors_that_fails_counts_too(clock: SimpleNamespace) -> None:
    floors = Floors()
    with pytest.raises(ZeroDivisionError), floors.look():
        clock.now += 1
        raise ZeroDivisionError
    for lowest in (5, 5):
        floors.note(0, lowest)
        clock.now += LAG
    assert look(floors, clock) == 5


# Under an old snapshot


def leave_dead_entries(webhook: Webhook) -> None:
    """New events and due deliveries that came and went, before all others of the test."""
    execute("default", "INSERT INTO webhooks_undispatched SELECT n FROM generate_series(1, %s) AS n", [DEAD])
    execute(
        "default",
        """
        INSERT INTO webhooks_queue (delivery_id, event_id, webhook_id, lane, state, due_at)
        SELECT gen_random_uuid(), n, %s, n, 'pending', now() - make_interval(secs => n)
        FROM generate_series(1, %s) AS n
        """,
        [webhook.pk, DEAD],
    )
    execute("default", "DELETE FROM webhooks_undispatched WHERE event_id <= %s", [DEAD])
    execute("default", "DELETE FROM webhooks_queue WHERE event_id <= %s", [DEAD])


def most_buffers(executed: list[Executed], table: str) -> int:
    """The most pages that one statement of a worker reads to look for work in a table."""
    looks = {"webhooks_undispatched": "SELECT event_id", "webhooks_queue": "SELECT id, probe_at"}
    return max(one.buffers for one in executed if one.statement.startswith(looks[table]))


@pytest.mark.postgresql
@pytest.mark.usefixtures("database")
def test_a_worker_passes_the_dead_entries_of_an_old_snapshot_once(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "COST_FACTOR", 10**9)
    monkeypatch.setattr(floors, "LAG", 0)
    webhook = make_webhook(Thing, url=inbox.url("ok"))
    runner = DeliveryRunner("test")
    found = []
    with session("SELECT count(*) FROM webhooks_event"):
        leave_dead_entries(webhook)
        for number, is_woken in enumerate((False, False, True, False), start=1):
            make_event(webhook, id=DEAD + number)
            with executed_plans() as executed:
                runner.run(10, wait=False, is_woken=is_woken)
                runner.finish()
            found.append([most_buffers(executed, f"webhooks_{table}") for table in ("undispatched", "queue")])
    runner.close(grace=0)
    assert states() == [State.SUCCEEDED] * 4
    first, *others = found
    assert min(first) > 100, found
    assert max(map(max, others)) < 30, found
