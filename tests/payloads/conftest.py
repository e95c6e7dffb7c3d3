"""Processes that render templates start as in production."""

from __future__ import annotations

import pytest

from tests.support.fork_server import START
from webhooks.ground.payloads import templates


@pytest.fixture(autouse=True)
def renderers_as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_started", START)
