"""Health endpoints and the check of django-health-check, with parts that are away."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.support.makers import make_delivery, make_webhook
from tests.testapp.models import Thing
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
