"""Fixtures for tests in the real NetBox."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
from django.conf import settings

from tests.support.inbox import Inbox, ReceiverProcess
from tests.support.netbox import IS_OLDER
from webhooks.pages import run_start
from webhooks.workers import jobs

# Modules that need another plugin, or a newer NetBox: event rules have no actions of plugins before 4.7.
collect_ignore = [] if "netbox_branching" in settings.PLUGINS else ["test_branching.py"]
if IS_OLDER:
    collect_ignore.append("test_event_rules.py")


@pytest.fixture(autouse=True)
def patient_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages before a run count all rows, however busy the machine is."""
    monkeypatch.setattr(run_start, "COUNT_SECONDS", 60)


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[ReceiverProcess]:
    process = ReceiverProcess()
    yield process
    process.stop()


@pytest.fixture
def inbox(receiver_process: ReceiverProcess) -> Inbox:
    """A corner of the receiver, for this test alone."""
    return Inbox(receiver_process)


@pytest.fixture(scope="module")
def sending() -> Iterator[None]:
    """Webhooks may reach the receiver, and a busy Redis loses no wake-up."""
    changed = {"ALLOW_NETWORKS": ["127.0.0.0/8"], "REDIS_TIMEOUT": 2}
    jobs._queue.cache_clear()
    with patch.dict(settings.WEBHOOKS, changed):
        yield
    jobs._queue.cache_clear()
