"""A plugin of pytest, with a fixture for the tests of host projects. pytest finds it by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def webhook_events(db: None) -> Iterator[Any]:
    """The events of the changes that the test makes, as ``webhooks.testing.capture_webhooks()`` collects them. Fixtures
    that the test names before this one do not count."""
    from webhooks.testing import capture_webhooks

    with capture_webhooks(prechange=True) as events:
        yield events
