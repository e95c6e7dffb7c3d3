"""Metrics: what a scrape says, and who may scrape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.draining import drain, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_site_skip, make_webhook
from tests.testapp.models import Thing
from webhooks.contrib.prometheus import WebhooksCollector
from webhooks.delivery import counting, sweep
from webhooks.models import QueuedDelivery, State, Statistic, StatisticTotal, Sweep, Webhook
from webhooks.models.statistic import Period
from webhooks.operations.webhooks import pause

pytestmark = [pytest.mark.usefixtures("database", "redis"), pytest.mark.urls("tests.contrib.urls")]

URL, TOKEN = "/metrics/webhooks", {"Authorization": "Bearer the token"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def token(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(METRICS_TOKEN="the token", RETRY_SCHEDULE=[])


def scrape() -> Callable[..., float | None]:
    """The values of one scrape, by name and labels."""
    response = Client().get(URL, headers=TOKEN)
    assert response.status_code == 200
    families = text_string_to_metric_families(response.content.decode())
    found: Samples = {(one.name, frozenset(one.labels.items())): one.value for each in families for one in each.samples}
    return lambda name, **labels: found.get((f"webhooks_{name}", frozenset(labels.items())))


def roll_up() -> None:
    sweep_step(counting.add_up, 1000)


# What the metrics say


def test_attempts_are_counted_with_their_times(inbox: Inbox) -> None:
    good, bad = make_webhook(url=inbox.url(), name="good"), make_webhook(url=inbox.url("status/500"), name="bad")
    for key in "123":
        make_event(good, bad, object_id=key)
    drain()
    roll_up()
    value = scrape()
    assert value("attempts_total", webhook="good", error_kind="") == 3
    assert value("attempts_total", webhook="bad", error_kind="http_500") == 3
    assert value("given_up_total", webhook="bad") == 3
    assert value("given_up_total", webhook="good") == 0
    for name in ("attempt_duration_seconds", "first_attempt_delay_seconds"):
        assert value(f"{name}_count", webhook="good") == value(f"{name}_bucket", webhook="good", le="+Inf") == 3
        assert value(f"{name}_sum", webhook="good") is not None
    assert value("attempt_duration_seconds_bucket", webhook="good", le="30") == 3
    assert value("deliveries", state="succeeded") == 3
    assert value("deliveries", state="failed") == 3
    assert value("problems", problem="failing") == 1, "what follows from it does not count"
    assert value("problems", problem="redis") == 0


def test_skips_are_counted() -> None:
    webhook = make_webhook(Thing, name="CMDB")
    make_site_skip(webhook)
    roll_up()
    assert scrape()("skips_total", webhook="CMDB") == 1


def test_counters_do_not_fall_when_retention_deletes_the_statistics(inbox: Inbox) -> None:
    webhook = make_webhook(url=inbox.url(), name="CMDB")
    for expected in (1, 2):
        make_event(webhook)
        drain()
        roll_up()
        for period in Period:
            assert sweep_step(Statistic.objects.delete_old, period, -1, 1000) == 1
        assert not Statistic.objects.exists()
        assert scrape()("attempts_total", webhook="CMDB", error_kind="") == expected
        assert scrape()("attempt_duration_seconds_count", webhook="CMDB") == expected


def test_a_total_holds_more_than_four_bytes(inbox: Inbox) -> None:
    webhook = make_webhook(url=inbox.url(), name="CMDB")
    StatisticTotal.objects.create(webhook=webhook, attempted=2**31)
    make_event(webhook)
    drain()
    roll_up()
    assert scrape()("attempts_total", webhook="CMDB", error_kind="") == 2**31 + 1


def test_the_series_of_a_deleted_webhook_end(inbox: Inbox) -> None:
    webhook = make_webhook(url=inbox.url(), name="CMDB")
    make_event(webhook)
    drain()
    webhook.delete()
    roll_up()
    assert scrape()("attempts_total", webhook="CMDB", error_kind="") is None
    sweep.sweep()
    assert not StatisticTotal.objects.exists()


def test_the_oldest_due_delivery_counts_if_its_webhook_sends() -> None:
    ago = timezone.now() - timedelta(hours=1)
    webhook = make_webhook(Thing, name="CMDB")
    assert scrape()("oldest_due_seconds") == 0
    make_delivery(webhook, due_at=ago)
    assert scrape()("oldest_due_seconds") == pytest.approx(3600, abs=60)
    assert scrape()("paused", webhook="CMDB") == 0
    pause(Webhook.objects.all(), "jane")
    assert scrape()("oldest_due_seconds") == 0
    assert scrape()("paused", webhook="CMDB") == 1
    assert scrape()("problems", problem="paused_by_user") == 1
    make_event(webhook, timestamp=ago)
    assert scrape()("oldest_due_seconds") == pytest.approx(3600, abs=60), "a worker must dispatch it all the same"
    assert scrape()("undispatched_events") == 1


def test_changes_that_could_not_be_captured_are_counted() -> None:
    make_event(error="ValueError: no such thing", dispatched=True)
    assert scrape()("failed_events") == 1


def test_live_workers_are_counted(live_worker: Any) -> None:
    assert scrape()("workers") == 1
    live_worker.register_death()
    assert scrape()("workers") == 0
    assert scrape()("problems", problem="no_worker") == 1


@pytest.mark.usefixtures("live_worker", "redis_away")
def test_without_redis_the_number_of_workers_is_unknown() -> None:
    value = scrape()
    assert value("workers") is None
    assert value("up") == value("problems", problem="redis") == 1


def test_deliveries_of_workers_that_died_are_counted() -> None:
    assert scrape()("lost_leases_total") == 0
    Sweep.get_or_begin()
    make_delivery(make_webhook(Thing), State.SENDING, lease_until=timezone.now() - timedelta(minutes=1))
    sweep_step(sweep.expire_leases)
    assert QueuedDelivery.objects.get().lost_leases == 1
    assert scrape()("lost_leases_total") == 1


def test_a_name_with_any_characters_is_a_label() -> None:
    name = 'a "b" \\ {c}="d" é'
    make_webhook(Thing, name=name)
    assert scrape()("paused", webhook=name) == 0


def test_the_number_of_queries_does_not_depend_on_the_number_of_webhooks() -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            scrape()
        return len(queries)

    make_webhook(Thing)
    before = count()
    for _ in range(5):
        make_webhook(Thing)
    assert count() == before


# Away


def test_without_the_database_the_metrics_say_so_once_in_the_log(
    request: pytest.FixtureRequest, app_log: pytest.LogCaptureFixture
) -> None:
    assert scrape()("up") == 1
    request.getfixturevalue("database_away")
    for _ in range(2):
        value = scrape()
        assert (value("up"), value("deliveries", state="failed")) == (0, None)
    assert app_log.text.count("Prometheus gets no metrics") == 1


def test_an_outage_ends_with_a_line_in_the_log(
    app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    registry.register(WebhooksCollector())
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE rq_webhooks_sweep RENAME TO elsewhere")
        try:
            assert registry.get_sample_value("webhooks_up") == 0
        finally:
            cursor.execute("ALTER TABLE elsewhere RENAME TO rq_webhooks_sweep")
    assert "run manage.py migrate" in app_log.text
    assert registry.get_sample_value("webhooks_up") == 1
    assert app_log.messages[-1] == "Prometheus gets the metrics again"


def test_a_collector_asks_the_database_only_when_it_is_scraped() -> None:
    with CaptureQueriesContext(connection) as queries:
        CollectorRegistry(auto_describe=True).register(WebhooksCollector())
    assert not queries


# Who may scrape


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    make_webhook(Thing)
    response = Client().get(URL, headers=TOKEN | {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response["Content-Type"].startswith("application/openmetrics-text")
    assert {"webhooks_skips", "webhooks_up"} <= {one.name for one in openmetrics(response.content.decode())}


@pytest.mark.parametrize("value", ["", "Bearer another", "Bearer", "Basic the token", "the token", "Bearer the tokén"])
def test_without_the_token_nothing_is_shown(value: str) -> None:
    response = Client().get(URL, headers={"Authorization": value})
    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert b"webhooks_" not in response.content


def test_without_the_setting_no_token_is_right(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(METRICS_TOKEN="")
    for value in ("Bearer", "Bearer ", "Bearer the token"):
        assert Client().get(URL, headers={"Authorization": value}).status_code == 401


def test_users_who_see_everything_may_look() -> None:
    users: Any = get_user_model().objects
    client = Client()
    client.force_login(users.create_superuser("root"))
    assert client.get(URL).status_code == 200
    client.force_login(users.create_user("jane"))
    assert client.get(URL).status_code == 401
