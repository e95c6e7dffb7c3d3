"""Fixtures of the tests that kill real processes and real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chaos.crew import Crew, Writer
from tests.chaos.writer import Plan
from tests.support.workers import LOGS
from tests.testapp.models import Label


@pytest.fixture
def crew(request: pytest.FixtureRequest, tmp_path: Any, database: str, redis: Any, redis_url: str) -> Iterator[Crew]:
    """Starts workers, and ends them with the test. PostgreSQL logs their claims."""
    started = Crew(tmp_path, redis_url)
    request.node.stash[LOGS] = started.logs
    with started.at_work():
        yield started


@pytest.fixture
def writers(crew: Crew) -> Iterator[Callable[[Plan], Writer]]:
    """Starts a writer."""
    started: list[Writer] = []

    def start(plan: Plan) -> Writer:
        started.append(Writer(plan, crew))
        return started[-1]

    yield start
    for writer in started:
        writer.stop()


@pytest.fixture
def labels(database: str) -> list[int]:
    """The ids of fifty labels, created before any webhook exists."""
    return [label.pk for label in Label.objects.bulk_create([Label(name="new") for _ in range(50)])]
