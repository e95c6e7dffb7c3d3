"""Fixtures for tests in the real NetBox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import connections

from tests.support.inbox import Inbox, ReceiverProcess
from webhooks import hooks
from webhooks.workers import jobs


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
def committed(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """A copy of the test database, in which the tests of this module commit. To empty NetBox's tables takes longer."""
    default = connections["default"]
    name = default.settings_dict["NAME"]
    quoted, copy = default.ops.quote_name(name), default.ops.quote_name(f"{name}_copy")
    with django_db_blocker.unblock():
        leave(name)
        with default._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {copy}")
            cursor.execute(f"CREATE DATABASE {copy} TEMPLATE {quoted}")
        leave(f"{name}_copy")
        try:
            yield
        finally:
            leave(name)
            with default._nodb_cursor() as cursor:
                cursor.execute(f"DROP DATABASE {copy} WITH (FORCE)")


def leave(name: str) -> None:
    """Let all connections of this process lead to the database ``name``."""
    hooks.flush()
    hooks._begin_anew()  # its thread has a connection to the database before
    connections.close_all()
    connections["default"].settings_dict["NAME"] = name
    ContentType.objects.clear_cache()


@pytest.fixture(scope="module")
def sending() -> Iterator[None]:
    """Webhooks may reach the receiver, and a busy Redis loses no wake-up."""
    changed = {"ALLOW_NETWORKS": ["127.0.0.0/8"], "REDIS_TIMEOUT": 2}
    jobs._queue.cache_clear()
    with patch.dict(settings.WEBHOOKS, changed):
        yield
    jobs._queue.cache_clear()
