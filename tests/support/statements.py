"""The SQL statements that a piece of work costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

from webhooks.ground.db.django_internals import merges_statements


def statements_of(work: Callable[[], Any]) -> list[str]:
    """The statements that the work executes, in order."""
    with CaptureQueriesContext(connection) as captured:
        work()
    return [query["sql"] for query in captured.captured_queries]


def are_merged() -> bool:
    """Whether statements share round trips: on PostgreSQL, without ``--plain-savepoints``."""
    return connection.vendor == "postgresql" and merges_statements()
