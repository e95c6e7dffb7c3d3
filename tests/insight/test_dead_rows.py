"""What keeps PostgreSQL from removing dead rows, seen on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.support.admin_pages import STATUS, page
from tests.support.makers import make_site_skip, make_webhook
from tests.support.sessions import session
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.db import execute, fetch_all
from webhooks.insight import dead_rows
from webhooks.insight.alarms import Alarm, Level, Problem, find_alarms
from webhooks.insight.dead_rows import Kind, OpenTransaction, Table, VacuumState, read_vacuum_state
from webhooks.insight.overview import Overview
from webhooks.insight.wording import exact_time
from webhooks.models import Skip
from webhooks.workers.status import Backend

NOW = timezone.now()
READ = "SELECT count(*) FROM testapp_thing"


def alarms(state: VacuumState) -> list[Alarm]:
    found = find_alarms(Overview(vacuum=state), Backend("webhooks"), True, NOW)
    return [one for one in found if one.problem in (Problem.OPEN_TRANSACTION, Problem.DEAD_ROWS)]


def held() -> list[OpenTransaction]:
    """The open transactions of ``session`` that are reported. An autovacuum may be another."""
    return [one for one in read_vacuum_state().open if one.application == "report"]


def begin_transactions(count: int = 12) -> None:
    for _ in range(count):
        execute("default", "SELECT pg_current_xact_id()")


@pytest.fixture
def impatient(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction counts at once, if ten others have begun since."""
    monkeypatch.setattr(dead_rows, "PATIENCE", 0)
    monkeypatch.setattr(dead_rows, "TRANSACTIONS", 10)


@pytest.mark.postgresql
@pytest.mark.usefixtures("impatient")
class TestOpenTransactions:
    @pytest.mark.parametrize(
        ("statement", "isolation"),
        [(READ, "REPEATABLE READ"), ("SELECT pg_current_xact_id()", "READ COMMITTED")],
        ids=["it has a snapshot", "it writes"],
    )
    def test_the_session_is_found_and_named(self, statement: str, isolation: str) -> None:
        [[user]] = fetch_all("default", "SELECT CURRENT_USER")
        with session(statement, isolation) as pid:
            begin_transactions()
            [one] = held()
            assert (one.kind, one.name, one.user) == (Kind.SESSION, str(pid), user)
            assert (one.application, one.state) == ("report", "idle in transaction")
            assert one.since
            assert abs((timezone.now() - one.since).total_seconds() - one.seconds) < 5
            assert one.transactions >= 12
            [alarm] = alarms(VacuumState((one,)))
            assert f"because of the session {pid} of the user “{user}” (report, idle in transaction)" in alarm.text
        assert held() == []

    def test_vacuum_removes_nothing_as_long_as_one_is_found(self) -> None:
        Thing.objects.bulk_create(Thing(name=str(number)) for number in range(50))
        with session(READ):
            begin_transactions()
            Thing.objects.all().delete()
            assert held()
            assert dead_after_vacuum() == 50
        assert held() == []
        until(lambda: dead_after_vacuum() == 0, 20, "an autovacuum to end, which may hold rows, too")

    def test_one_that_holds_back_nothing_is_no_problem(self) -> None:
        with session(READ, "READ COMMITTED"):
            begin_transactions()
            assert held() == []

    def test_the_way_out_ends_it(self) -> None:
        with pytest.raises(OperationalError, match="terminating connection"), session(READ):
            begin_transactions()
            [alarm] = alarms(VacuumState(tuple(held())))
            execute("default", alarm.command)
        assert held() == []

    @pytest.mark.parametrize("limit", ["PATIENCE", "TRANSACTIONS"])
    def test_it_counts_after_a_time_and_other_transactions(self, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
        with session(READ):
            begin_transactions()
            assert len(held()) == 1
            monkeypatch.setattr(dead_rows, limit, 600)
            assert held() == []

    def test_without_rights_it_counts_after_many_transactions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with session(READ) as pid, without_rights():
            begin_transactions()
            assert held() == []
            monkeypatch.setattr(dead_rows, "TRANSACTIONS_IF_UNKNOWN", 10)
            state, [one] = read_vacuum_state(), held()
            assert (one.name, one.application, one.state, one.since) == (str(pid), "report", "", None)
            assert (state.sees_all, state.user) == (False, '"web-hooks"')
            assert f"open for {one.transactions} transactions." in alarms(VacuumState((one,)))[0].text


def dead_after_vacuum() -> int:
    for statement in ("SELECT pg_stat_force_next_flush()", "VACUUM testapp_thing", "SELECT pg_stat_force_next_flush()"):
        execute("default", statement)
    [[count]] = fetch_all("default", "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'testapp_thing'")
    return int(count)


@contextmanager
def without_rights() -> Iterator[None]:
    """The database's user may read all tables, and not see what other users do."""
    execute("default", 'CREATE ROLE "web-hooks"; GRANT pg_read_all_data TO "web-hooks"; SET ROLE "web-hooks"')
    try:
        yield
    finally:
        execute("default", 'RESET ROLE; DROP ROLE "web-hooks"')


OPEN = OpenTransaction(Kind.SESSION, "4711", "bob", "psql", "active", NOW - timedelta(minutes=42), 2520, 9000)


HOLDERS = {
    "session": (OPEN, "the session 4711 of the user “bob” (psql, active)", "SELECT pg_terminate_backend(4711);"),
    "hidden session": (
        OpenTransaction(Kind.SESSION, "4711", "bob"),
        "the session 4711 of the user “bob”",
        "SELECT pg_terminate_backend(4711);",
    ),
    "standby": (
        OpenTransaction(Kind.STANDBY, "12", "replicator", "walreceiver"),
        "a query on a standby that the process 12 serves (walreceiver)",
        "",
    ),
    "prepared": (
        OpenTransaction(Kind.PREPARED, "it's", "bob"),
        "the prepared transaction “it's” of the user “bob”",
        "ROLLBACK PREPARED 'it''s';",
    ),
    "active slot": (OpenTransaction(Kind.SLOT, "b", state="active"), "the replication slot “b” (active)", ""),
    "inactive slot": (
        OpenTransaction(Kind.SLOT, "b", state="inactive"),
        "the replication slot “b” (inactive)",
        "SELECT pg_drop_replication_slot('b');",
    ),
}


@pytest.mark.parametrize(("one", "holder", "command"), HOLDERS.values(), ids=HOLDERS)
def test_each_holder_has_a_name_and_a_way_out(one: OpenTransaction, holder: str, command: str) -> None:
    [alarm] = alarms(VacuumState((one,), (Table("rq_webhooks_queue", 120, 7300),)))
    assert f"because of {holder}: open " in alarm.text
    assert "The tables of webhooks have 7,300 dead rows." in alarm.text
    assert (alarm.level, alarm.command) == (Level.WARNING, command)
    assert alarm.remedy.endswith(":" if command else ".")


@pytest.mark.parametrize(
    ("one", "age"),
    [
        (OPEN, f"open since {exact_time(NOW - timedelta(minutes=42))}, for 42 min."),
        (OpenTransaction(Kind.SLOT, "b", transactions=120_000), "open for 120,000 transactions."),
    ],
    ids=["time", "transactions"],  # each process of the tests has another time
)
def test_an_open_transaction_has_an_age(one: OpenTransaction, age: str) -> None:
    [alarm] = alarms(VacuumState((one,)))
    assert age in alarm.text


# Tables


@pytest.mark.parametrize(
    ("live", "dead", "seconds", "is_alarm"),
    [
        (0, 10_000, 601, True),
        (0, 9_999, 601, False),
        (20_000, 10_000, 601, False),
        (20_000, 10_001, 601, True),
        (0, 10_000, 600, False),
    ],
)
def test_a_table_with_many_dead_rows_needs_a_vacuum(live: int, dead: int, seconds: float, is_alarm: bool) -> None:
    found = alarms(VacuumState(tables=(Table("rq_webhooks_queue", live, dead, NOW, seconds),)))
    assert [one.problem for one in found] == [Problem.DEAD_ROWS] * is_alarm


@pytest.mark.parametrize(
    ("vacuumed_at", "ago"), [(NOW, "for 2 h"), (None, "since the server started")], ids=["before", "never"]
)
def test_the_alarm_of_a_table_says_when_it_was_vacuumed(vacuumed_at: Any, ago: str) -> None:
    [alarm] = alarms(VacuumState(tables=(Table("rq_webhooks_queue", 120, 73_000, vacuumed_at, 7200),)))
    assert alarm.text.startswith(
        "The table rq_webhooks_queue has 73,000 dead rows and 120 live ones, and no VACUUM has "
    )
    assert f" ended {ago}. " in alarm.text
    assert alarm.command == "VACUUM (ANALYZE) rq_webhooks_queue;"


@pytest.mark.postgresql
@pytest.mark.usefixtures("impatient")
def test_dead_rows_are_counted_until_a_vacuum_removes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_rows, "DEAD_ROWS", 50)
    execute("default", "ALTER TABLE rq_webhooks_skip SET (autovacuum_enabled = false)")  # the server's might come first
    execute("default", "VACUUM rq_webhooks_skip")
    webhook = make_webhook(Thing)
    for number in range(60):
        make_site_skip(webhook, number)
    Skip.objects.all()._raw_delete("default")
    execute("default", "SELECT pg_stat_force_next_flush()")
    [alarm] = alarms(VacuumState(tables=(skips(),)))
    assert alarm.text.startswith("The table rq_webhooks_skip has 60 dead rows and 0 live ones")
    execute("default", alarm.command)
    execute("default", "ALTER TABLE rq_webhooks_skip RESET (autovacuum_enabled)")
    execute("default", "SELECT pg_stat_force_next_flush()")
    table = skips()
    assert alarms(VacuumState(tables=(table,))) == []
    assert (table.dead, table.seconds < 30) == (0, True)
    assert table.vacuumed_at


def skips() -> Table:
    return next(one for one in read_vacuum_state().tables if one.name == "rq_webhooks_skip")


# The status page


def test_it_takes_two_queries_on_postgresql_and_none_on_sqlite(database: str) -> None:
    with CaptureQueriesContext(connection) as captured:
        state = read_vacuum_state()
    assert len(captured) == (2 if database == "postgresql" else 0)
    names = {"rq_webhooks_queue", "rq_webhooks_event", "rq_webhooks_webhook_object_types"}
    assert names & {one.name for one in state.tables} == (names if database == "postgresql" else set())


def test_the_status_page_shows_the_database_if_it_is_a_postgresql(
    admin_client: Client, django_db_setup: str, redis: Any
) -> None:
    shown = page(admin_client, STATUS)
    assert ("<summary>Database</summary>" in shown) == (django_db_setup == "postgresql")
    assert ("No transaction has held back VACUUM for 10 min." in shown) == (django_db_setup == "postgresql")
    assert "pg_read_all_stats" not in shown


@pytest.mark.postgresql
@pytest.mark.usefixtures("impatient")
def test_the_status_page_links_an_open_transaction_to_the_database(
    admin_client: Client, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_rows, "TRANSACTIONS", 0)
    with session(READ) as pid:
        shown = page(admin_client, STATUS)
    assert shown.count(f"ession {pid} of the user") == 2
    assert 'href="#wh-database">Show the database</a>' in shown
    assert f"<code>SELECT pg_terminate_backend({pid});</code>" in shown
