"""Tables that are not migrated: the worker, the pages and the API say what to do. The commands: ``test_commands``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connections
from django.test import Client, RequestFactory

from tests.support.makers import make_webhook
from tests.support.waiting import until
from tests.support.workers import Workers
from tests.testapp.models import Thing
from webhooks import db
from webhooks.capture import subscriptions
from webhooks.db import execute
from webhooks.middleware import process_exception
from webhooks.models import Delivery

SAID = "The tables of webhooks are missing, or older than its code: run manage.py migrate."


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
        ("webhooks_delivery", "/admin/webhook-backend-status/"),
        ("webhooks_webhook", "/admin/webhooks/webhook/"),
        ("webhooks_event", "/admin/webhooks/event/"),
    ],
)
def test_a_page_says_what_to_do(client: Client, table: str, path: str) -> None:
    with without(table):
        answer = client.get(path)
    assert (answer.status_code, answer.text) == (503, SAID)
    assert client.get(path).status_code == 200


def test_the_api_says_what_to_do_in_json(client: Client) -> None:
    with without("webhooks_event"):
        answer = client.get("/api/webhooks/events/")
    assert (answer.status_code, answer.json()) == (503, {"detail": SAID})


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "statement", ["UPDATE webhooks_event SET of_tomorrow = 1", "SELECT 1 FROM webhooks_of_tomorrow"]
)
def test_a_column_or_a_table_that_does_not_exist_is_missing(statement: str) -> None:
    with pytest.raises(DatabaseError) as raised:
        execute("default", statement)
    assert db.describe_error(raised.value).startswith(f"{SAID[:-1]} (")


@pytest.mark.usefixtures("database")
def test_other_errors_are_only_repeated() -> None:
    with pytest.raises(DatabaseError) as raised:
        execute("default", "SELECT FROM FROM")
    assert "syntax error" in db.describe_error(raised.value)
    assert "migrate" not in db.describe_error(raised.value)


@pytest.mark.usefixtures("database")
def test_an_error_of_the_hosts_own_tables_stays_its_own() -> None:
    with pytest.raises(DatabaseError) as raised:
        execute("default", "SELECT 1 FROM table_of_the_host")
    assert process_exception(RequestFactory().get("/"), raised.value) is None


@pytest.mark.usefixtures("database")
def test_a_save_before_the_first_migration_logs_one_traceback(
    app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_known", {})  # as in a process that has just begun
    with without("webhooks_webhook"):
        Thing.objects.create(name="saved all the same")
    assert SAID.removesuffix(".") in app_log.text
    assert app_log.text.count("Traceback") == 1


@pytest.mark.usefixtures("database")
def test_the_log_of_a_save_says_what_to_do(app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Thing)
    with without("webhooks_event"):
        Thing.objects.create(name="saved all the same")
    assert "No webhook will hear that testapp.thing" in app_log.text
    assert SAID in app_log.text


def test_a_worker_says_what_to_do_and_delivers_once_it_is_done(workers: Workers) -> None:
    with without("webhooks_event"):
        worker = workers.start()
        until(lambda: SAID[:-1] in worker.text, 30, "the worker to say what to do")
    make_webhook(Thing)
    thing = Thing.objects.create(name="a")
    until(lambda: Delivery.objects.filter(event__object_id=thing.pk).exists(), 30, "the event to be taken")
    assert worker.process.poll() is None


@pytest.mark.usefixtures("database")
def test_migrations_that_wait_are_found() -> None:
    assert not db.has_pending_migrations("default")
    execute("default", "UPDATE django_migrations SET app = 'aside' WHERE app = 'webhooks'")
    try:
        assert db.has_pending_migrations("default")
    finally:
        execute("default", "UPDATE django_migrations SET app = 'webhooks' WHERE app = 'aside'")


def test_a_database_that_is_away_says_nothing_of_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(dict):
        def __missing__(self, alias: str) -> object:
            raise DatabaseError("connection refused")

    monkeypatch.setattr(db, "connections", Away())
    assert not db.has_pending_migrations("default")
    assert connections["default"]
