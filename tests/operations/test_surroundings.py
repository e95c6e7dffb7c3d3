"""What else happened around the time that a problem began."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from tests.support.makers import make_webhook
from webhooks.models import Worker
from webhooks.operations import history
from webhooks.operations.alarms import Alarm, Level, Problem, with_surroundings
from webhooks.workers.status import Backend, RegisteredWorker

NOW = timezone.now()

pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.one_database]


def around(problem: Problem, *workers: RegisteredWorker, **values: Any) -> list[str]:
    """What is named for an alarm that began now, without the times."""
    alarm = Alarm(level=Level.WARNING, problem=problem, text="", since=timezone.now(), **values)
    [found] = with_surroundings([alarm], Backend("webhooks", workers=workers))
    return [re.sub(r"^\d\d:\d\d ", "", one) for one in found.around]


def test_an_edit_of_the_webhook_is_named_with_its_user() -> None:
    user, webhook, other = User.objects.create(username="jane"), make_webhook(), make_webhook()
    history.record(user, [webhook, other], history.ADDITION)
    history.record(user, [webhook], history.CHANGE, [{"changed": {"fields": ["Secret"]}}])
    named = around(Problem.FAILING, webhook_id=webhook.pk)
    assert named == ["jane added the webhook.", "jane: Changed Secret."]
    assert around(Problem.PAUSED_BY_USER, webhook_id=other.pk) == ["jane added the webhook."]


def test_a_worker_that_started_with_other_settings_is_named_with_them() -> None:
    earlier, later = NOW - timedelta(minutes=2), NOW - timedelta(minutes=1)
    changed = RegisteredWorker("w", host="web1", pid="10803", started_at=earlier, changed_settings=("SENDERS", "PROXY"))
    same = RegisteredWorker("w", host="web2", pid="7", started_at=later)
    old = RegisteredWorker("w", host="web3", pid="9", started_at=NOW - timedelta(hours=1))
    named = [
        "Worker web1:10803 started with other settings than the one before: SENDERS, PROXY.",
        "Worker web2:7 started.",
    ]
    assert around(Problem.FAULT, changed, same, old) == named
    assert around(Problem.FAILING, changed, same, old, error_kind="http_401") == named
    assert around(Problem.PAUSED_BY_USER, changed, same, old) == []


def test_a_worker_that_stopped_is_named() -> None:
    Worker.objects.create(token="5f1d3c52-8a4e-4c57-9a51-2f5a8f0f6f10", name="web1:10803", lease_until=NOW)
    assert around(Problem.NO_WORKER) == ["Worker web1:10803 stopped, or lost the database."]
