"""Messages before the migration. And conflicts, time limits, and queries by key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction
from django.db.models import Lookup
from django.test import Client, RequestFactory

from tests.support.inbox import ROOT
from tests.support.makers import make_webhook
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, until
from tests.support.workers import Workers
from tests.testapp.models import Thing
from users.models import User
from webhooks.capture import subscriptions
from webhooks.ground import db
from webhooks.ground.db import execute
from webhooks.ground.db.session import index_plans, statement_limit
from webhooks.ground.errors import describe_error, is_statement_timeout, log_errors
from webhooks.management import checks
from webhooks.middleware import process_exception
from webhooks.models import Delivery, Webhook

RUN_MIGRATE = "The tables of webhooks are missing, or older than its code: run manage.py migrate."


@contextmanager
def without(table: str) -> Iterator[None]:
    execute("default", f"ALTER TABLE {table} RENAME TO aside")
    try:
        yield
    finally:
        execute("default", f"ALTER TABLE aside RENAME TO {table}")


@pytest.fixture
def client(database: str) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("admin"))
    return client


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("rq_webhooks_delivery", "/admin/webhook-backend-status/"),
        ("rq_webhooks_webhook", "/admin/rq_webhooks/webhook/"),
        ("rq_webhooks_event", "/admin/rq_webhooks/event/"),
    ],
)
def test_a_page_says_to_migrate(client: Client, table: str, path: str) -> None:
    with without(table):
        answer = client.get(path)
    assert (answer.status_code, answer.text) == (503, RUN_MIGRATE)
    assert client.get(path).status_code == 200


def test_the_api_says_to_migrate_in_json(client: Client) -> None:
    with without("rq_webhooks_event"):
        answer = client.get("/api/webhooks/events/")
    assert (answer.status_code, answer.json()) == (503, {"detail": RUN_MIGRATE})


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "statement", ["UPDATE rq_webhooks_event SET of_tomorrow = 1", "SELECT 1 FROM webhooks_of_tomorrow"]
)
def test_an_error_about_a_missing_table_or_column_says_to_migrate(statement: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        execute("default", statement)
    assert describe_error(raised.value).startswith(f"{RUN_MIGRATE[:-1]} (")


@pytest.mark.usefixtures("database")
def test_another_error_is_described_by_its_own_message() -> None:
    with pytest.raises(DatabaseError) as raised:
        execute("default", "SELECT FROM FROM")
    assert "syntax error" in describe_error(raised.value)
    assert "migrate" not in describe_error(raised.value)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("table", ["table_of_the_host", "crm_webhooks_note", "crm_rq_webhooks_note"])
def test_an_error_about_a_table_of_the_host_is_not_handled(table: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        execute("default", f"SELECT 1 FROM {table}")
    assert process_exception(RequestFactory().get("/"), raised.value) is None
    with log_errors("default", "It cannot be read"):
        raise raised.value
    assert not hasattr(raised.value, "__notes__")


@pytest.mark.usefixtures("database")
def test_a_save_before_the_first_migration_logs_one_traceback(
    app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_cached", {})  # as in a new process
    with without("rq_webhooks_webhook"):
        Thing.objects.create(name="saved anyway")
    assert RUN_MIGRATE.removesuffix(".") in app_log.text
    assert app_log.text.count("Traceback") == 1


@pytest.mark.usefixtures("database")
def test_the_log_of_a_save_says_to_migrate(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Thing)
    with without("rq_webhooks_event"):
        Thing.objects.create(name="saved anyway")
    assert "no webhook gets it: testapp.thing" in app_log.text
    assert RUN_MIGRATE in app_log.text


@pytest.mark.one_database
def test_a_worker_says_to_migrate_and_delivers_afterwards(workers: Workers) -> None:
    with without("rq_webhooks_event"):
        worker = workers.start()
        until(lambda: RUN_MIGRATE[:-1] in worker.text, 30, "the worker to log it")
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    until(lambda: Delivery.objects.filter(event__object_id=thing.pk).exists(), 30, "the delivery")
    until(lambda: "The database can be used again" in worker.text, 30, "the worker to log that it is over")
    assert worker.text.count("The database can") == 2, "one line at the beginning, and one at the end"
    assert worker.process.poll() is None


def table_problem() -> str:
    """What ``check --deploy --database default`` says of the tables, with the remedy."""
    messages = checks.check_stored(None, databases=["default"])
    return "\n".join(f"{one.msg} {one.hint}" for one in messages if one.id == "webhooks.E013")


@pytest.mark.usefixtures("database")
def test_a_migration_that_is_not_applied_is_found() -> None:
    assert table_problem() == ""
    execute("default", "UPDATE django_migrations SET app = 'aside' WHERE app = 'rq_webhooks'")
    try:
        assert table_problem().endswith("Run manage.py migrate.")
    finally:
        execute("default", "UPDATE django_migrations SET app = 'rq_webhooks' WHERE app = 'aside'")


@pytest.mark.usefixtures("database")
def test_a_table_that_is_missing_although_its_migration_is_recorded_is_found() -> None:
    with without("rq_webhooks_event"):
        assert "recorded as applied: rq_webhooks_event. " in table_problem()
        assert "from a backup" in table_problem()


@pytest.mark.usefixtures("database")
def test_all_tables_missing_although_their_migrations_are_recorded_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(connections["default"].introspection), "table_names", lambda *_: ["django_migrations"])
        problem = table_problem()
    assert "migrate --fake rq_webhooks zero" in problem
    assert "rq_webhooks_webhook" in problem


# Commands

# ``webhooks_doctor`` says it as a finding, and ``webhooks_listen`` first asks for Django's own tables. A worker waits
# for the database, and a schema needs only an example from it.
OTHERS = {"webhooks_doctor", "webhooks_listen", "webhooks_schema", "webhooks_worker"}
COMMANDS = [path.stem for path in (ROOT / "webhooks" / "management" / "commands").glob("webhooks_*.py")]
COMMANDS = sorted({*COMMANDS} - OTHERS)
CAPTURED = ROOT / "tests" / "captured"
ARGUMENTS = {
    "webhooks_apply": [str(ROOT / "tests" / "captured" / "webhooks.yaml"), "--check"],
    "webhooks_backfill": ["--webhook", "1", "--since", "2026-01-01"],
    "webhooks_import": [str(CAPTURED / name) for name in ("netbox_webhooks.json", "netbox_event_rules.json")],
    "webhooks_recover": ["--webhook", "1", "--since", "2026-01-01"],
    "webhooks_recover_skipped": ["--webhook", "1", "--since", "2026-01-01"],
    "webhooks_replay": ["--all"],
    "webhooks_resend": ["--all"],
    "webhooks_retry": ["--all"],
    "webhooks_show": ["1"],
    "webhooks_why": ["--event", "1"],
}


def run_command(command: str, database: str, directory: Path) -> tuple[int, str]:
    """The exit status and the output."""
    workers, log = Workers(directory, "redis://127.0.0.1:1/0"), directory / "command.log"
    arguments = ["example/manage.py", command, *ARGUMENTS.get(command, [])]
    with log.open("wb") as output:
        process = workers.run(arguments, workers.environment() | {"DATABASE_URL": database}, output)
    return process.wait(60 * PATIENCE), log.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_before_the_migration_says_to_migrate(command: str, tmp_path: Path) -> None:
    status, said = run_command(command, f"sqlite:///{tmp_path}/empty.sqlite3", tmp_path)
    assert status == (2 if command in ("webhooks_apply", "webhooks_status") else 1), said
    assert said.startswith(
        "CommandError: The database cannot be used: The tables of webhooks are missing, or older than its code: run "
        "manage.py migrate (no such table: rq_webhooks_"
    )
    assert "Traceback" not in said


def test_a_command_without_a_database_says_that_it_cannot_be_used(tmp_path: Path) -> None:
    status, said = run_command("webhooks_sweep", f"postgresql://none@127.0.0.1:{free_port()}/nothing", tmp_path)
    assert status == 1
    assert said.startswith("CommandError: The database cannot be used: ")
    assert len(said.splitlines()) == 1


@pytest.mark.postgresql
def test_a_commit_has_the_time_limit_of_the_host(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, limits = "SELECT current_setting('statement_timeout')", []
    connection, commit = connections["default"], connections["default"]._commit

    def commit_with_limit() -> None:
        limits.extend(db.fetch_all("default", limit))
        commit()

    monkeypatch.setattr(connection, "_commit", commit_with_limit)
    before = db.fetch_all("default", limit)
    with statement_limit("default", seconds=2):
        assert db.fetch_all("default", limit) == [("2s",)]
    assert limits == before


@pytest.mark.postgresql
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_slow_statement_is_stopped_and_the_transaction_of_the_host_goes_on(database: str, is_nested: bool) -> None:
    limit = "SELECT current_setting('statement_timeout')"
    with transaction.atomic() if is_nested else nullcontext():
        before = db.fetch_all("default", limit)
        with pytest.raises(OperationalError) as caught, index_plans("default", seconds=0.05):
            execute("default", "SELECT pg_sleep(5)")
        assert is_statement_timeout(caught.value)
        with index_plans("default", seconds=2), index_plans("default", seconds=3):
            assert db.fetch_all("default", limit) == [("2s",)], "the shorter one counts"
        assert db.fetch_all("default", limit) == before


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("error", "failures", "tries"),
    [
        (IntegrityError("a conflict"), 4, 5),
        (IntegrityError("a conflict"), 5, 5),
        (OperationalError("no conflict"), 1, 1),
    ],
    ids=["conflicts", "one conflict too many", "another error"],
)
def test_a_conflict_is_tried_again_and_another_error_is_not(error: Exception, failures: int, tries: int) -> None:
    calls = 0

    def work() -> str:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise error
        return "done"

    with pytest.raises(type(error)) if tries <= failures else nullcontext():
        assert db.atomically(work, Webhook.objects.db) == "done"
    assert calls == tries


@pytest.mark.django_db
def test_rows_are_found_by_their_keys_where_the_database_has_no_booleans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django 6.1 says so of SQLite: there it compares every condition with true that is no lookup."""
    webhook = make_webhook(name="one")
    make_webhook(name="two")
    ops = connections[Webhook.objects.db].ops
    monkeypatch.setattr(ops, "conditional_expression_supported_in_where_clause", lambda one: isinstance(one, Lookup))
    names = db.QueryByKeys(lambda: Webhook.objects.values_list("name"))
    assert names.fetch(Webhook.objects.db, [webhook.pk]) == [("one",)]
    assert list(Webhook.objects.filter(db.Among("id", [webhook.pk]))) == [webhook]
