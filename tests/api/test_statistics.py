"""``statistics/``: its permissions, its parameters, and its figures."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from dcim.models import Site
from tests.support.draining import sweep_step
from tests.support.makers import make_site_skip, make_webhook
from tests.support.users import api_client, make_user
from webhooks.delivery.rollup import add_up, roll_up
from webhooks.models import StatisticDelta, Webhook

ADDRESS = "/api/webhooks/statistics/"


@pytest.fixture
def webhook(db: None) -> Webhook:
    return make_webhook(Site)


def write(webhook: Webhook, minutes_ago: float = 0, kind: str = "", **counts: int) -> None:
    row = {"webhook_id": webhook.pk, "error_kind": kind, **counts}
    start = int(time.time() - 60 * minutes_ago) // 60 * 60
    StatisticDelta.objects.create(start=start, counts=json.dumps([row]))


def read(api: APIClient, **parameters: Any) -> Any:
    response = api.get(ADDRESS, parameters)
    assert response.status_code == 200, response.content
    return response.json()


def test_the_attempts_of_a_day_in_total_and_by_hour(api: APIClient, webhook: Webhook) -> None:
    write(webhook, attempted=98, duration_100=98, duration_total=7000, delay_100=90, delay_total=900)
    write(webhook, 120, "http_503", attempted=2, given_up=1, duration_250=2, duration_total=300)
    write(webhook, 60 * 30, attempted=1000)
    sweep_step(roll_up, 1000)
    found = read(api)
    assert {name: found["total"][name] for name in ("attempted", "succeeded", "failed", "given_up")} == {
        "attempted": 100, "succeeded": 98, "failed": 2, "given_up": 1,
    }  # fmt: skip
    assert found["total"]["failed_by_kind"] == {"http_503": 2}
    assert found["total"]["success_percent"] == 98.0
    duration, delay = found["total"]["duration"], found["total"]["delay"]
    assert (duration["count"], duration["total_ms"], duration["buckets"]["100"]) == (100, 7300, 98)
    assert 50 < duration["median_ms"] < duration["p95_ms"] < 100
    assert (delay["count"], delay["total_ms"], delay["buckets"]["100"]) == (90, 900, 90)
    assert [(one["attempted"], one["failed"]) for one in found["series"]] == [(2, 2), (98, 0)]
    starts = [datetime.fromisoformat(one["start"]).astimezone(UTC) for one in found["series"]]
    assert all((start.minute, start.second) == (0, 0) for start in starts)
    assert starts[0] < starts[1] <= datetime.now(UTC)


def test_skips_are_counted(api: APIClient, webhook: Webhook) -> None:
    now = timezone.now()  # one moment: the hour may change between two
    for minutes_ago, key in ((0, 1), (0, 2), (120, 3)):
        make_site_skip(webhook, key, timestamp=now - timedelta(minutes=minutes_ago))
    sweep_step(add_up, 1000)
    found = read(api)
    assert (found["total"]["skipped"], found["total"]["attempted"], found["total"]["success_percent"]) == (3, 0, None)
    assert [one["skipped"] for one in found["series"]] == [1, 2]


def test_one_webhook_by_minute_since_a_time(api: APIClient, webhook: Webhook) -> None:
    write(make_webhook(Site), attempted=1000)
    for minutes_ago in (0, 5, 20):
        write(webhook, minutes_ago, attempted=1)
    since = datetime.now(UTC) - timedelta(minutes=10)
    found = read(api, webhook=webhook.pk, period="minute", since=since.isoformat())
    assert found["total"]["attempted"] == 2
    assert [one["attempted"] for one in found["series"]] == [1, 1]
    assert datetime.fromisoformat(found["since"]) == since.replace(second=0, microsecond=0)


@pytest.mark.parametrize(("period", "days"), [("minute", 1), ("hour", 10)])
def test_it_reaches_back_as_far_as_statistics_are_stored(
    api: APIClient, webhook: Webhook, webhooks_settings: Any, period: str, days: int
) -> None:
    webhooks_settings(STATISTIC_DAYS=10)
    before = datetime.now(UTC)
    since = datetime.fromisoformat(read(api, period=period, since="2000-01-01T00:00:00Z")["since"])
    assert before - timedelta(days=days, hours=1) < since <= datetime.now(UTC) - timedelta(days=days)


@pytest.mark.parametrize(
    "parameters", [{"webhook": "x"}, {"period": "day"}, {"since": "yesterday"}, {"webhok": 1}, {"limit": 10}]
)
def test_wrong_parameters_are_refused(api: APIClient, parameters: dict[str, Any]) -> None:
    assert api.get(ADDRESS, parameters).status_code == 400


def test_a_webhook_that_does_not_exist_has_no_attempts(api: APIClient, webhook: Webhook) -> None:
    write(webhook, attempted=1)
    found = read(api, webhook=webhook.pk + 1)
    assert (found["total"]["attempted"], found["total"]["success_percent"], found["series"]) == (0, None, [])


def test_it_needs_the_permission_to_view_webhooks_and_nothing_can_be_written(webhook: Webhook) -> None:
    assert api_client(make_user("view_delivery", "view_event")).get(ADDRESS).status_code == 403
    viewer = api_client(make_user("view_webhook"))
    assert viewer.get(ADDRESS).status_code == 200
    assert viewer.post(ADDRESS, {}).status_code in {403, 405}
    assert APIClient().get(ADDRESS).status_code in {401, 403}
