"""Hosts that are not like the example: without the admin, with other users, with another skin."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.contrib.admin.models import LogEntry
from rest_framework.test import APIClient

from tests.inbox import ROOT, Inbox
from tests.waiting import PATIENCE
from webhooks.models import Webhook


def test_a_host_without_the_admin_and_with_users_of_its_own_has_all_but_the_pages(
    tmp_path: Path, redis_url: str, inbox: Inbox
) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.bare_host.settings",
        "BARE_HOST_DATABASE": str(tmp_path / "db.sqlite3"),
        "REDIS_URL": redis_url,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bare_host", inbox.url()],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60 * PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [request] = inbox.received()
    assert (request.json["data"]["text"], request.json["username"]) == ("first", "other@example.org")
    for said in ("added webhook “notes”", "changed webhook “notes”", "changed delivery “", "deleted webhook “notes”"):
        assert f"operator@example.org {said}" in done.stderr
    assert "Traceback" not in done.stderr


@dataclass
class RemoteUser:
    """A user that another service vouches for: no row, and nothing of Django's permissions."""

    pk: str = "f3a1"
    is_authenticated: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return "remote"


class RemoteOperator(RemoteUser):
    def has_perm(self, perm: str) -> bool:
        return True


WANTED = {"name": "sites", "payload_url": "http://127.0.0.1/", "object_types": ["dcim.site"], "on_created": True}


def post_as(user: RemoteUser) -> int:
    client = APIClient()
    client.force_authenticate(user)
    return client.post("/api/webhooks/webhooks/", WANTED, format="json").status_code


def test_a_user_without_permissions_of_django_may_do_nothing(database: str) -> None:
    assert post_as(RemoteUser()) == 403
    assert not Webhook.objects.exists()


def test_what_a_user_did_that_is_no_row_is_in_the_log(database: str, app_log: pytest.LogCaptureFixture) -> None:
    assert post_as(RemoteOperator()) == 201
    assert "remote added webhook “sites”" in app_log.text
    assert not LogEntry.objects.exists()
