"""Changes made while the tables of the app cannot be used: the saves go through, and nothing is lost for good."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from rest_framework.serializers import ModelSerializer
from rq.timeouts import JobTimeoutException

from tests.support.makers import actions, events, last_data, make_webhook, recorded
from tests.support.modes import MODES
from tests.support.sessions import session
from tests.support.threads import Beside
from tests.support.waiting import PATIENCE
from tests.testapp.models import Essay, Label, Thing, Tracked
from webhooks import send
from webhooks.capture import subscriptions
from webhooks.ground import registry
from webhooks.ground.db import execute, fetch_all
from webhooks.models import Event
from webhooks.operations import replays

pytestmark = pytest.mark.usefixtures("database")

# As a migration takes it.
LOCK = "LOCK TABLE rq_webhooks_webhook IN ACCESS EXCLUSIVE MODE"


@pytest.fixture
def thing(database: str) -> Thing:
    return Thing.objects.create(name="thing")


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the webhooks yet."""
    monkeypatch.setattr(subscriptions, "_cached", {})
    monkeypatch.setattr(subscriptions, "_paused_until", {})


@contextlib.contextmanager
def unusable(table: str) -> Iterator[None]:
    execute("default", f"ALTER TABLE {table} RENAME TO webhooks_aside")
    try:
        yield
    finally:
        execute("default", f"ALTER TABLE webhooks_aside RENAME TO {table}")


def rename(thing: Thing, name: str = "renamed") -> None:
    thing.name = name
    thing.save()


def recover() -> None:
    """The pause is over, and the process records its next change."""
    subscriptions._paused_until.clear()
    with transaction.atomic():
        Thing.objects.create(name="the next change")


# While a migration holds a lock


@pytest.mark.postgresql
@MODES
def test_changes_go_to_the_webhooks_known_from_before(thing: Thing, mode: Callable[..., None]) -> None:
    make_webhook(Thing, prechange=True)
    rename(thing, "the process knows the webhooks now")
    with session(LOCK):
        for number in range(20):
            mode(lambda number=number: rename(thing, f"name {number}"))
    assert (actions(), last_data()["name"]) == (["updated"] * 21, "name 19")
    assert not Event.objects.failed()


@pytest.mark.postgresql
@pytest.mark.parametrize("is_known", [True, False])
def test_only_the_first_save_waits_and_that_one_shortly(thing: Thing, is_known: bool) -> None:
    make_webhook(Tracked)
    if is_known:
        rename(thing)
    took = []
    with session(LOCK):
        for number in range(20):
            began = time.monotonic()
            with transaction.atomic():
                rename(thing, f"name {number}")
            took.append(time.monotonic() - began)
    assert subscriptions.LOCK_TIMEOUT * 0.9 < took[0] < 1 * PATIENCE
    assert sum(took[1:]) < 1 * PATIENCE
    assert Thing.objects.get().name == "name 19"
    assert Event.objects.count() == 0


@pytest.mark.postgresql
def test_old_cached_subscriptions_do_not_count(thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    make_webhook(Thing)
    rename(thing)
    monkeypatch.setattr(subscriptions, "MAX_AGE", 0)
    with session(LOCK):
        rename(thing, "not recorded")
    assert actions() == ["updated"]
    recover()
    assert [(event.action, bool(event.error)) for event in events()] == [
        ("updated", False), ("created", False), ("updated", True),
    ]  # fmt: skip


@pytest.mark.postgresql
@pytest.mark.parametrize("threshold", [None, 5], ids=["one round trip", "statement by statement"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_transaction_goes_on_as_though_nothing_had_been_asked(
    thing: Thing, threshold: int | None, by_hand: bool
) -> None:
    make_webhook(Tracked)
    connection.ensure_connection()
    connection.connection.prepare_threshold = threshold
    try:
        if by_hand:
            transaction.set_autocommit(False)
        with contextlib.nullcontext() if by_hand else transaction.atomic():
            execute("default", "SET LOCAL lock_timeout = '7s'")
            for _ in range(8):  # more often than it takes to prepare a statement
                rename(thing)
                subscriptions.current("default")
            assert fetch_all("default", "SHOW lock_timeout") == [("7s",)]
            Beside(lambda: execute("default", f"BEGIN; {LOCK} NOWAIT; COMMIT")).join()  # no lock is kept
            with session(LOCK):
                subscriptions._cached.clear()
                rename(thing, "renamed all the same")
            assert fetch_all("default", "SHOW lock_timeout") == [("7s",)]
        if by_hand:
            transaction.commit()
    finally:
        connection.set_autocommit(True)
        connection.connection.prepare_threshold = None
    assert Thing.objects.get().name == "renamed all the same"


# What could not be recorded

CHANGES: dict[str, Callable[[], Any]] = {
    "save": lambda: rename(Thing.objects.get(name="thing")),
    "update": lambda: Tracked.objects.update(status="retired"),
    "delete": lambda: Tracked.objects.all().delete(),
    "custom": lambda: send("dcim.rack_audited", Thing.objects.get(name="thing"), {"by": "me"}),
}


@pytest.mark.parametrize("table", ["rq_webhooks_webhook", "rq_webhooks_event"])
@MODES
@pytest.mark.parametrize("change", list(CHANGES))
def test_a_missed_change_becomes_a_failed_event_with_the_next_recorded_change(
    thing: Thing, mode: Callable[..., None], change: str, table: str, app_log: pytest.LogCaptureFixture
) -> None:
    tracked = Tracked.objects.create(name="tracked")
    make_webhook(Thing, Tracked, custom_events=["dcim.rack_audited"])
    subscriptions._cached.clear()
    with unusable(table):
        mode(CHANGES[change])
        mode(lambda: Label.objects.create(name="wanted by no webhook"))
    assert recorded() == []
    recover()
    expected = {
        "save": ("updated", "testapp.thing", str(thing.pk)),
        "update": ("updated", "testapp.tracked", str(tracked.pk)),
        "delete": ("deleted", "testapp.tracked", str(tracked.pk)),
        "custom": ("dcim.rack_audited", "testapp.thing", str(thing.pk)),
    }[change]
    [failed] = Event.objects.failed()
    assert (failed.action, failed.object_type, failed.object_id) == expected
    assert "could not be recorded" in failed.error
    about = "dcim.rack_audited" if change == "custom" else f"{expected[1]} {expected[2]}"
    assert about in app_log.text.replace("'", "")
    [replayed] = replays.replay([failed])
    assert replayed.event
    assert change != "custom" or replayed.event.data == '{"by":"me"}'
    recover()
    assert not Event.objects.failed()  # each is written once


def test_a_missed_change_is_forgotten_if_its_transaction_is_rolled_back(thing: Thing) -> None:
    make_webhook(Thing)
    subscriptions._cached.clear()
    with unusable("rq_webhooks_webhook"), pytest.raises(ZeroDivisionError), transaction.atomic():
        rename(thing)
        raise ZeroDivisionError
    recover()
    assert actions() == ["created"]


def test_a_missed_change_is_kept_until_it_can_be_written(thing: Thing) -> None:
    make_webhook(Thing)
    with unusable("rq_webhooks_event"):
        rename(thing)
        recover()
    recover()
    assert sorted(actions()) == ["created", "created", "updated"]
    assert Event.objects.failed().count() == 2


def test_a_missed_change_is_kept_if_the_job_runs_out_of_time_while_it_is_written(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*args: Any) -> None:
        raise JobTimeoutException

    make_webhook(Thing)
    with unusable("rq_webhooks_event"):
        rename(thing)
    with monkeypatch.context() as patch:
        patch.setattr(Event, "insert_all", run_out)
        with pytest.raises(JobTimeoutException):
            recover()
    recover()
    assert Event.objects.failed().count() == 1


class EssaySerializer(ModelSerializer):
    class Meta:
        model = Essay
        fields = ("title",)


@pytest.mark.postgresql
def test_a_missed_change_that_fits_into_no_row_keeps_no_other_out(thing: Thing, own_registrations: None) -> None:
    registry.register(Essay, EssaySerializer)
    make_webhook(Essay, Thing)
    Essay.objects.create(title="x" * 300)  # a longer key than an Event has
    with unusable("rq_webhooks_event"):
        rename(thing)
    recover()
    [failed] = Event.objects.failed()
    assert (failed.object_type, failed.object_id) == ("testapp.thing", str(thing.pk))
    recover()
    assert Event.objects.failed().count() == 1
