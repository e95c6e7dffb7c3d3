from __future__ import annotations

from typing import Any

import pytest

from dcim.models import Site
from tests.support.makers import make_webhook
from webhooks.models import Webhook


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    return make_webhook(Site, name="CMDB")
