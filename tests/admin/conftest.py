from __future__ import annotations

from typing import Any

import pytest

from dcim.models import Site
from tests.support.makers import make_webhook
from webhooks.models import Webhook
from webhooks.pages import run_start


@pytest.fixture(autouse=True)
def patient_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages before a run count all rows, however busy the machine is."""
    monkeypatch.setattr(run_start, "COUNT_SECONDS", 60)


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    return make_webhook(Site, name="CMDB")
