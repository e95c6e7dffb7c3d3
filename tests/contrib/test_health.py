"""Health endpoints and the check of django-health-check, with parts that are away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from dcim.models import Site
from tests.support.makers import make_delivery, make_webhook
from tests.support.sessions import session
from tests.support.statements import statements_of
from tests.testapp.models import Thing
from webhooks.contrib import health
from webhooks.ground import registry
from webhooks.models import State

pytestmark = [pytest.mark.usefixtures("database", "redis"), pytest.mark.urls("tests.contrib.urls")]

DELIVERY, RECORDING = "/health/webhooks/", "/health/webhooks/ready/"


@pytest.fixture(autouse=True)
def check_installed(settings: Any) -> None:
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "health_check"]


def ask(path: str) -> tuple[int, Any]:
    response = Client().get(path)
    assert response["Content-Type"] == "application/json"
    assert "no-store" in response["Cache-Control"]
    return response.status_code, response.json()


def healthy() -> tuple[int, Any]:
    return 200, {"status": "healthy", "problems": []}


def unhealthy(*problems: str) -> tuple[int, Any]:
    return 503, {"status": "unhealthy", "problems": list(problems)}


@pytest.mark.usefixtures("live_worker")
def test_a_site_with_a_worker_is_healthy_although_a_receiver_fails() -> None:
    make_delivery(make_webhook(Thing), State.FAILED)
    assert ask(DELIVERY) == healthy()
    assert ask(RECORDING) == healthy()


@pytest.mark.usefixtures("live_worker", "own_registrations")
@pytest.mark.parametrize("count", [1, 2])
def test_webhooks_on_a_model_that_is_not_registered_leave_the_site_healthy(count: int) -> None:
    for _ in range(count):
        make_webhook(Thing)
    make_webhook(Site)
    registry.unregister(Thing)
    assert ask(DELIVERY) == healthy()


def test_without_a_worker_changes_are_recorded_and_not_delivered() -> None:
    make_webhook(Thing)
    assert ask(DELIVERY) == unhealthy("no_worker")
    assert ask(RECORDING) == healthy()


@pytest.mark.usefixtures("live_worker", "redis_away")
def test_without_redis_changes_are_recorded() -> None:
    make_webhook(Thing)
    assert ask(DELIVERY) == unhealthy("redis")
    assert ask(RECORDING) == healthy()


@pytest.mark.usefixtures("live_worker", "database_away")
def test_without_the_database_both_answer_all_the_same() -> None:
    assert ask(DELIVERY) == unhealthy("database")
    assert ask(RECORDING) == unhealthy("database")


@pytest.mark.usefixtures("live_worker")
def test_no_login_is_needed_where_all_else_needs_one(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    make_webhook(Thing)
    assert ask(DELIVERY) == ask(RECORDING) == healthy()


@pytest.mark.cost
@pytest.mark.usefixtures("live_worker")
def test_what_a_request_asks_for_cannot_make_it_read_again(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    make_webhook(Thing)
    assert ask(DELIVERY) == healthy()
    for language in ("de", "fr", "en-gb"):
        answers = statements_of(lambda one=language: Client().get(DELIVERY, headers={"Accept-Language": one}))
        assert answers == []


@pytest.mark.postgresql
@pytest.mark.usefixtures("live_worker")
@pytest.mark.parametrize("path", [DELIVERY, RECORDING])
def test_a_locked_table_holds_no_request_for_long(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STATEMENT_SECONDS", 0.2)
    with session("LOCK TABLE rq_webhooks_undispatched IN ACCESS EXCLUSIVE MODE"):
        assert ask(path) == unhealthy("database")


@pytest.mark.usefixtures("live_worker")
def test_while_one_request_hangs_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TURN_SECONDS", 0.1)
    with health._recording:
        assert ask(RECORDING) == unhealthy("database")
        assert ask(DELIVERY)[0] in (200, 503), "the other endpoint has its own turn"
    assert ask(RECORDING) == healthy()


@pytest.mark.postgresql
def test_a_database_that_only_reads_records_nothing() -> None:
    assert ask(RECORDING) == healthy()
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
        try:
            assert ask(RECORDING) == unhealthy("database")
        finally:
            cursor.execute("SET default_transaction_read_only = off")


def test_before_the_tables_are_created_a_site_with_webhooks_turned_off_is_ready(
    webhooks_settings: Callable[..., None],
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE rq_webhooks_undispatched RENAME TO elsewhere")
        try:
            assert ask(RECORDING) == unhealthy("database")
            webhooks_settings(ENABLED=False)
            assert ask(RECORDING) == healthy()
        finally:
            cursor.execute("ALTER TABLE elsewhere RENAME TO rq_webhooks_undispatched")


@pytest.mark.usefixtures("live_worker")
def test_only_reading_is_allowed() -> None:
    assert Client().post(DELIVERY).status_code == 405
    assert Client().head(RECORDING).status_code == 200


def check() -> tuple[int, Any]:
    response = Client().get("/health/?format=json")
    return response.status_code, response.json()


@pytest.mark.usefixtures("live_worker")
def test_django_health_check_reports_a_healthy_site() -> None:
    make_webhook(Thing)
    status, found = check()
    assert (status, list(found.values())) == (200, ["OK"])


def test_django_health_check_names_the_problem() -> None:
    make_webhook(Thing)
    status, found = check()
    assert status == 500
    assert "no_worker" in str(found)


@pytest.mark.usefixtures("database_away")
def test_django_health_check_works_without_the_database() -> None:
    status, found = check()
    assert status == 500
    assert "database" in str(found)
