"""A transport for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.sending import Transport


@pytest.fixture
def transport() -> Iterator[Transport]:
    with closing(Transport()) as opened:
        yield opened
