"""The columns of events as the worker reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.makers import make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.models import Event
from webhooks.models.event import TIME

pytestmark = pytest.mark.usefixtures("database")


@pytest.mark.parametrize("microsecond", [0, 1, 120_000, 123_456])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_a_time_that_is_read_as_text_is_the_stored_one(settings: Any, zone: str, microsecond: int) -> None:
    settings.TIME_ZONE = zone
    moment = datetime(2026, 7, 1, 23, 59, 58, microsecond, UTC)
    event = make_event(make_webhook(Thing), timestamp=moment)
    assert Event.objects.annotate(time=TIME).values_list("time", "timestamp").get(pk=event.pk) == (moment, moment)
