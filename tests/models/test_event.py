"""How events are found by their time, and read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.support.makers import make_event, make_webhook
from tests.testapp.models import Thing
from webhooks.ground.db import to_db_time, to_utc
from webhooks.insight.paging import in_order
from webhooks.models import Event
from webhooks.models.event import TIME
from webhooks.operations import runs

pytestmark = pytest.mark.usefixtures("database")


@pytest.mark.parametrize("microsecond", [0, 1, 120_000, 123_456])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_a_time_that_is_read_as_text_is_the_stored_one(settings: Any, zone: str, microsecond: int) -> None:
    settings.TIME_ZONE = zone
    moment = datetime(2026, 7, 1, 23, 59, 58, microsecond, UTC)
    event = make_event(make_webhook(Thing), timestamp=moment)
    read = Event.objects.annotate(time=TIME).values_list("time", "timestamp").get(pk=event.pk)
    assert tuple(map(to_utc, read)) == (moment, moment)


def minutes_ago(kind: str) -> list[float]:
    """The times of 380 events, in the order of their ids."""
    match kind:
        case "a clock that was set back":
            return [*(200 - number / 2 for number in range(200)), *(190 - number for number in range(180))]
        case "two sites":
            return [380 - number + (5 if number % 2 else 0) for number in range(380)]
    return [380 - number + (60 if 100 < number < 110 else 0) for number in range(380)]


def events_since(moment: datetime) -> Any:
    found, *_ = in_order("events", {"created_after": moment.isoformat()}, Event.objects.all())
    return found


@pytest.mark.parametrize("kind", ["a clock that was set back", "two sites", "a clock that was wrong for a while"])
def test_events_since_a_time_are_found_although_clocks_differ(kind: str) -> None:
    webhook, now = make_webhook(Thing), datetime.now(UTC)
    minutes = minutes_ago(kind)
    rows = [
        Event(
            action="updated",
            object_type="testapp.thing",
            object_id="1",
            webhook_ids=[webhook.pk],
            timestamp=to_db_time(now - timedelta(minutes=ago)),
        )
        for ago in minutes
    ]
    Event.objects.bulk_create(rows)
    for begin in (*range(0, 400, 7), 100):
        moment = now - timedelta(minutes=begin, seconds=1)
        assert events_since(moment).count() == sum(ago <= begin for ago in minutes), begin
        before, *_ = in_order("events", {"created_before": moment.isoformat()}, Event.objects.all())
        assert before.count() == sum(ago > begin for ago in minutes), begin
        filters = {"object_id": "1", "object_type": "testapp.thing", "created_after": moment.isoformat(), "each": True}
        assert runs.preview("replay", filters).count == sum(ago <= begin for ago in minutes), begin


def test_the_first_event_since_a_time_is_found_by_bisection_in_one_statement() -> None:
    webhook, now = make_webhook(Thing), datetime.now(UTC)
    assert Event.objects.first_since(now) <= 1
    made = [make_event(webhook, timestamp=now - timedelta(hours=10 * (9 - number))) for number in range(10)]
    for number in (0, 4, 9):
        moment = now - timedelta(hours=10 * (9 - number))
        with CaptureQueriesContext(connection) as captured:
            assert Event.objects.all().first_since(moment) <= made[number].pk
        assert len(captured) == 1
        assert list(events_since(moment).order_by("pk")) == made[number:]
    assert not events_since(now + timedelta(hours=1)).exists()
    assert Event.objects.first_since(now - timedelta(days=9)) == made[0].pk, "deleted events leave ids before it"
