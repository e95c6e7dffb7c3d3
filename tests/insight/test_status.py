"""The status by ``webhooks_status`` and by ``status/`` of the REST API, and what happened around each problem."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.utils import timezone
from rest_framework.test import APIClient
from rq import Queue, Worker

from dcim.models import Site
from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from tests.support.sessions import session
from tests.support.users import api_client, make_user
from users.models import User
from webhooks.ground.error_kinds import ErrorKind
from webhooks.insight import history, status
from webhooks.insight.alarms import Alarm, Level, Problem
from webhooks.management.commands import webhooks_status
from webhooks.models import State, Webhook
from webhooks.models import Worker as Lease
from webhooks.workers.status import CLASS_FIELD, Backend, RegisteredWorker

ADDRESS = "/api/webhooks/status/"


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    """With a live worker."""
    worker = Worker([Queue("webhooks", connection=redis)], name="w-1", connection=redis)
    worker.register_birth()
    redis.hset(worker.key, CLASS_FIELD, "webhooks.workers.WebhookWorker")
    return make_webhook(Site, name="CMDB")


def run(capsys: Any, **options: Any) -> tuple[int, str]:
    """The exit status and the output of the command."""
    exit_status = 0
    try:
        call_command("webhooks_status", no_color=True, **options)
    except SystemExit as end:
        exit_status = int(str(end.code))
    return exit_status, capsys.readouterr().out


def test_all_is_well(webhook: Webhook, capsys: Any) -> None:
    exit_status, said = run(capsys)
    assert exit_status == 0
    assert said.startswith("OK: no errors and no warnings\nOK  All is well: nothing is waiting, nothing has failed, ")
    assert "Deliveries: 0 waiting, 0 pending, 0 sending, 0 succeeded, 0 failed, 0 discarded. 0 changes" in said


@pytest.mark.postgresql
def test_a_locked_table_ends_the_command_with_an_error(
    database: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks_status, "STATEMENT_SECONDS", 0.2)
    lock = "LOCK TABLE rq_webhooks_undispatched IN ACCESS EXCLUSIVE MODE"
    with session(lock), pytest.raises(CommandError, match="statement timeout") as ended:
        call_command("webhooks_status")
    assert ended.value.returncode == 2


def test_a_note_is_no_problem(webhook: Webhook, capsys: Any) -> None:
    Webhook.objects.create(name="old", on_created=True, deleted_at=webhook.created, enabled=False)
    exit_status, said = run(capsys)
    assert exit_status == 0
    assert "\nNOTE  1 webhook is being deleted." in said


def test_failed_deliveries_that_no_retry_takes_are_no_problem(webhook: Webhook, capsys: Any) -> None:
    failed, later = ([make_site_event(key, "AMS") for key in (1, 2)] for _ in range(2))
    for event in failed:
        make_site_delivery(webhook, State.FAILED, event)
    make_site_delivery(webhook, State.SUCCEEDED, later[0])
    exit_status, said = run(capsys)
    assert (exit_status, "of “CMDB” failed and will not be retried" in said) == (1, True)
    make_site_delivery(webhook, State.SUCCEEDED, later[1])
    exit_status, said = run(capsys)
    assert exit_status == 0
    assert "NOTE  2 failed deliveries of “CMDB” are superseded" in said


def test_warnings_name_the_problem_and_what_to_do(webhook: Webhook, capsys: Any) -> None:
    make_site_delivery(webhook, State.FAILED)
    make_site_event(2, "odd", data="", error="KeyError")
    exit_status, said = run(capsys)
    assert exit_status == 1
    lines = [line for line in said.splitlines() if not line.startswith(("    since", "    Around"))]
    assert lines[:5] == [
        "WARNING: 2 warnings",
        "WARNING  1 delivery of “CMDB” failed and will not be retried automatically. Reasons: HTTP 503 Service "
        "Unavailable (1).",
        f"    {ErrorKind.HTTP_503.remedy()}",
        "WARNING  1 event failed, so nothing was sent. The newest: odd, KeyError",
        "    Open one of them to see its error. Correct the cause, then replay them.",
    ]


def test_a_problem_has_its_time_without_time_zones(webhook: Webhook, capsys: Any, settings: Any) -> None:
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kathmandu"
    make_site_delivery(webhook, State.FAILED)
    exit_status, said = run(capsys)
    assert exit_status == 1
    assert "\n    since " in said
    assert re.search(r"As of [0-9 :-]+ \+0545\.$", said, re.MULTILINE)
    as_of = datetime.fromisoformat(json.loads(run(capsys, json=True)[1])["as_of"])
    assert abs(datetime.now(UTC) - as_of) < timedelta(minutes=10)


def test_an_error_comes_first_with_the_command_to_type(webhook: Webhook, redis: Any, capsys: Any) -> None:
    redis.flushdb()
    make_site_delivery(webhook, State.FAILED)
    exit_status, said = run(capsys)
    assert exit_status == 2
    assert said.splitlines()[:4] == [
        "ERROR: 1 error, 1 warning",
        "ERROR  No worker is running, so nothing is delivered.",
        "    Start one:",
        "    python manage.py rqworker webhooks",
    ]


def test_json_has_the_fields_of_the_api(webhook: Webhook, api: APIClient, capsys: Any) -> None:
    Webhook.objects.filter(pk=webhook.pk).update(enabled=False)
    make_site_delivery(webhook, State.PENDING)
    exit_status, said = run(capsys, json=True)
    response = api.get(ADDRESS)
    assert (exit_status, response.status_code) == (1, 200)
    by_command, by_api = json.loads(said), response.json()
    assert datetime.fromisoformat(by_command.pop("as_of")) <= datetime.fromisoformat(by_api.pop("as_of"))
    assert by_command == by_api
    assert (by_api["level"], by_api["workers"], by_api["deliveries"]["pending"]) == ("warning", 1, 1)
    assert [(alarm["problem"], alarm["webhook"]) for alarm in by_api["alarms"]] == [
        ("disabled", webhook.pk), ("all_disabled", None),
    ]  # fmt: skip
    assert (by_api["alarms"][0]["waiting"], by_api["alarms"][0]["consequences"]) == (1, [])
    assert by_api["alarms"][0]["remedy"].startswith("Enable it, or discard its deliveries. Changes meanwhile")


def test_line_breaks_in_a_name_make_no_line_of_their_own(webhook: Webhook, capsys: Any) -> None:
    Webhook.objects.filter(pk=webhook.pk).update(name="CMDB\nOK", enabled=False, disabled_reason="gone")
    assert "“CMDB\\nOK” was disabled automatically" in run(capsys)[1]


def test_without_the_database_the_exit_status_is_that_of_an_error(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(user: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(status, "read_overview", fail)
    with pytest.raises(CommandError, match=r"^The database cannot be used: .*connection refused") as failed:
        call_command("webhooks_status")
    assert failed.value.returncode == 2


def may_view_nothing(user: Any, rows: Any) -> Any:
    return rows.filter(username=user.email)


def test_the_command_sees_all_whatever_may_view_says(webhook: Webhook, capsys: Any, webhooks_settings: Any) -> None:
    webhooks_settings(MAY_VIEW="tests.insight.test_status.may_view_nothing")
    make_site_delivery(webhook, State.FAILED)
    assert run(capsys)[0] == 1


def test_the_api_needs_the_permission_to_view_deliveries_and_shows_what_the_user_may_view(webhook: Webhook) -> None:
    Webhook.objects.filter(pk=webhook.pk).update(name="Chatname", enabled=False, disabled_reason="gone")
    make_site_event(2, "odd", data="", error="KeyError")
    assert api_client(make_user("view_webhook", "view_event")).get(ADDRESS).status_code == 403
    found = api_client(make_user("view_delivery")).get(ADDRESS).json()
    assert (found["level"], found["alarms"], found["failed_events"]) == ("good", [], 0)
    whole = api_client(make_user("view_delivery", "view_webhook", "view_event")).get(ADDRESS).json()
    assert [one["problem"] for one in whole["alarms"]] == ["all_disabled", "disabled", "failed_events"]


def test_only_users_who_see_all_share_statements(webhook: Webhook, api: APIClient, webhooks_settings: Any) -> None:
    make_site_delivery(webhook, State.FAILED)
    make_site_event(2, data="", error="KeyError")

    def seen(client: APIClient) -> tuple[int, int]:
        found = client.get(ADDRESS).json()
        return found["deliveries"]["failed"], found["failed_events"]

    assert seen(api) == (1, 1)
    webhooks_settings(MAY_VIEW="tests.insight.test_status.may_view_nothing")
    assert seen(api) == (0, 0)
    assert seen(api_client(make_user("view_delivery", "view_webhook", "view_event"))) == (0, 0)


def test_the_api_refuses_a_parameter(webhook: Webhook, api: APIClient) -> None:
    assert api.get(ADDRESS, {"since": 1}).status_code == 400


# What else happened around the time that a problem began


def around(problem: Problem, *workers: RegisteredWorker, **values: Any) -> list[str]:
    """What is named for an alarm that began now, without the times."""
    alarm = Alarm(level=Level.WARNING, problem=problem, text="", **{"since": timezone.now()} | values)
    [found] = status.with_surroundings([alarm], Backend("webhooks", workers=workers))
    # After midnight, a moment ago has the day before it.
    return [re.sub(r"^(\d+ \w+ )?\d\d:\d\d ", "", one) for one in found.around]


@pytest.mark.usefixtures("db")
@pytest.mark.one_database
def test_an_edit_of_the_webhook_is_named_with_its_user() -> None:
    user, webhook, other = User.objects.create(email="jane"), make_webhook(), make_webhook()
    history.record(user, [webhook, other], history.ADDITION)
    history.record(user, [webhook], history.CHANGE, [{"changed": {"fields": ["Secret"]}}])
    named = around(Problem.FAILING, webhook_id=webhook.pk)
    assert named == ["jane added the webhook.", "jane: Changed Secret."]
    assert around(Problem.PAUSED_BY_USER, webhook_id=other.pk) == ["jane added the webhook."]


@pytest.mark.usefixtures("db")
@pytest.mark.one_database
def test_a_worker_that_started_with_other_settings_is_named_with_them() -> None:
    now = timezone.now()
    earlier, later = now - timedelta(minutes=2), now - timedelta(minutes=1)
    changed = RegisteredWorker("w", host="web1", pid="10803", started_at=earlier, changed_settings=("SENDERS", "PROXY"))
    same = RegisteredWorker("w", host="web2", pid="7", started_at=later)
    old = RegisteredWorker("w", host="web3", pid="9", started_at=now - timedelta(hours=1))
    named = [
        "Worker web1:10803 started with other settings than the one before: SENDERS, PROXY.",
        "Worker web2:7 started.",
    ]
    assert around(Problem.FAULT, changed, same, old) == named
    assert around(Problem.FAILING, changed, same, old, error_kind="http_401") == named
    assert around(Problem.PAUSED_BY_USER, changed, same, old) == []


@pytest.mark.usefixtures("db")
@pytest.mark.one_database
@pytest.mark.parametrize("lease_left", [0, 14])
def test_a_worker_that_stopped_or_was_killed_is_named(lease_left: int) -> None:
    """The lease of a killed worker ends some seconds after its last sign of life."""
    since = timezone.now() - timedelta(minutes=1)
    until = since + timedelta(seconds=lease_left)
    Lease.objects.create(token="5f1d3c52-8a4e-4c57-9a51-2f5a8f0f6f10", name="web1:10803", lease_until=until)
    assert around(Problem.NO_WORKER, since=since) == ["Worker web1:10803 stopped, or lost the database."]


LONG_COMMAND = """
import django

django.setup()

from webhooks.management.base import DatabaseCommand


class Command(DatabaseCommand):
    requires_system_checks = []

    def handle(self, *args, **options):
        for _ in range(10_000):
            self.stdout.write("WARNING: 7 warnings")


Command().run_from_argv(["manage.py", "webhooks_status"])
"""


def test_a_command_ends_quietly_if_its_reader_has_read_enough() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LONG_COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"WARNING: 7 warnings\n"
        process.stdout.close()  # as in: manage.py webhooks_status | head -1
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_a_note_about_superseded_deliveries_hides_no_older_failure(
    webhook: Webhook, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.insight.counts.EACH_CAP", 2)
    make_site_delivery(webhook, State.FAILED, make_site_event(1))
    for _ in range(4):
        make_site_delivery(webhook, State.FAILED, make_site_event(2))
    make_site_delivery(webhook, State.SUCCEEDED, make_site_event(2))
    exit_status, said = run(capsys)
    assert exit_status == 1
    assert "failed and will not be retried automatically" in said
