"""Hosts unlike the example: without the admin, with other user models, with Grappelli."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.inbox import ROOT, Inbox
from tests.support.makers import make_webhook
from tests.support.own_pages import DUTIES
from tests.support.waiting import PATIENCE
from webhooks.middleware import WebhooksMiddleware
from webhooks.models import Event, Webhook, permissions


def run(package: str, *arguments: str, **environment: str) -> str:
    """Run a package of the tests in a process with its own settings, and return its log."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", package, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment, "DJANGO_SETTINGS_MODULE": f"{package}.settings"},
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_a_host_without_the_admin_and_with_its_own_users_has_everything_and_can_show_it_on_its_own_pages(
    tmp_path: Path, redis_url: str, inbox: Inbox
) -> None:
    database = str(tmp_path / "db.sqlite3")
    logged = run("tests.bare_host", inbox.url(), BARE_HOST_DATABASE=database, REDIS_URL=redis_url)
    [request] = inbox.received()
    assert (request.json["data"]["text"], request.json["username"]) == ("first", "other@example.org")
    for action in ("added webhook “notes”", "changed webhook “notes”", "changed delivery “", "deleted webhook “notes”"):
        assert f"operator@example.org {action}" in logged
    assert [duty for duty in DUTIES if f"Own pages: {duty}\n" not in logged] == []
    assert "Traceback" not in logged


def test_a_host_that_has_an_app_called_webhooks_itself_installs_this_one_beside_it(
    tmp_path: Path, redis_url: str, inbox: Inbox
) -> None:
    places = {"TWIN_HOST_DATABASE": str(tmp_path / "db.sqlite3"), "REDIS_URL": redis_url}
    run("tests.twin_host", **places)  # leaves its tables, and rows in django_migrations
    logged = run("tests.twin_host", inbox.url(), TWIN_HOST_HAS_THE_APP="yes", **places)
    [request] = inbox.received()
    data = request.json["data"]
    assert (request.json["object_type"], data["name"]) == ("webhooks.webhook", "newer, number 2")
    assert data["kinds"] == ["generic"], "a serializer was imported before its app was ready"
    assert "Traceback" not in logged


@dataclass
class RemoteUser:
    """A user from another service: without a row in the database and without Django's permissions."""

    pk: str = "f3a1"
    is_authenticated: bool = True

    def __str__(self) -> str:
        return "remote"


class RemoteOperator(RemoteUser):
    def has_perm(self, perm: str) -> bool:
        return True


WANTED = {"name": "sites", "payload_url": "http://127.0.0.1/", "object_types": ["dcim.site"], "on_created": True}


@pytest.fixture
def remote_users(settings: Any) -> None:
    """The host's permission classes require no permission of Django."""
    settings.REST_FRAMEWORK = {
        **settings.REST_FRAMEWORK,
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    }


def post_as(user: RemoteUser) -> int:
    client = APIClient()
    client.force_authenticate(user)
    return client.post("/api/webhooks/webhooks/", WANTED, format="json").status_code


@pytest.mark.usefixtures("remote_users")
def test_a_user_without_django_permissions_may_do_nothing(database: str) -> None:
    assert post_as(RemoteUser()) == 403
    assert not Webhook.objects.exists()
    assert not any(may(RemoteUser()) for may in (permissions.may_view_webhooks, permissions.may_view_events))
    assert not permissions.may(RemoteUser(), "change", make_webhook(Site))
    assert not permissions.visible_webhooks(RemoteUser()).exists()


def test_a_change_by_a_user_without_a_row_has_the_username(database: str, app_log: pytest.LogCaptureFixture) -> None:
    make_webhook(Site)

    def save(request: HttpRequest) -> HttpResponse:
        Site.objects.create(name="AMS1", slug="ams1")
        return HttpResponse()

    request = RequestFactory().post("/", headers={"X-Webhook-Depth": "2"})
    request.user = RemoteUser()  # type: ignore[assignment]
    WebhooksMiddleware(save)(request)
    event = Event.objects.get()
    assert (event.username, event.depth) == ("remote", 1)
    assert "Traceback" not in app_log.text


@pytest.mark.usefixtures("remote_users")
def test_an_action_by_a_user_without_a_row_is_in_the_log(database: str, app_log: pytest.LogCaptureFixture) -> None:
    assert post_as(RemoteOperator()) == 201
    assert "remote added webhook “sites”" in app_log.text
    assert not LogEntry.objects.exists()
