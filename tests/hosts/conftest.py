"""The theatre of the generated hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.theatre import Theatre


@pytest.fixture
def theatre(database: str, redis: object, own_registrations: None) -> Iterator[Theatre]:
    with Theatre().open() as opened:
        yield opened
