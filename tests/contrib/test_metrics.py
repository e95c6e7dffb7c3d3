"""Metrics: what a scrape says, and who may scrape."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.draining import drain, sweep_step
from tests.support.inbox import Inbox
from tests.support.makers import make_delivery, make_event, make_site_skip, make_webhook
from tests.support.sessions import session
from tests.support.waiting import until
from tests.testapp.models import Thing
from webhooks.contrib import prometheus
from webhooks.contrib.prometheus import WebhooksCollector
from webhooks.delivery import rollup, sweep
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
    sweep_step(rollup.add_up, 1000)


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


def test_the_workers_of_djangos_tasks_are_unknown(webhooks_settings: Callable[..., None]) -> None:
    webhooks_settings(WAKE_UP="tasks")
    assert scrape()("workers") is None
    webhooks_settings(WAKE_UP="database")
    assert scrape()("workers") == 0


@pytest.mark.one_database
def test_the_last_of_many_webhooks_counts() -> None:
    Webhook.objects.bulk_create(
        Webhook(name=f"{number:04}", payload_url="http://127.0.0.1:1/", on_created=True) for number in range(1100)
    )
    last, other = make_webhook(Thing, name="the last one"), make_webhook(Thing, name="the one before")
    make_delivery(last, due_at=timezone.now() - timedelta(hours=1))
    Webhook.objects.filter(pk=other.pk).update(enabled=False, disabled_reason="gone")
    value = scrape()
    assert value("oldest_due_seconds") == pytest.approx(3600, abs=60)
    assert value("problems", problem="disabled") == 1
    assert value("paused", webhook="the last one") == 0
    assert value("given_up_total", webhook="the last one") == 0


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


# No form takes a line break, but code does.
NAMES = ['a "b" \\ {c}="d" é', "two\nlines\\n", "\N{PARTY POPPER}\r\t", "\\", '"', "x" * 150]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_any_characters_is_a_label(name: str) -> None:
    make_webhook(Thing, name=name)
    assert scrape()("paused", webhook=name) == 0


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8"])
def test_the_endpoint_writes_what_the_library_would_write(accept: str, inbox: Inbox) -> None:
    for name in NAMES:
        make_webhook(url=inbox.url(), name=name)
    make_event(*Webhook.objects.all())
    drain()
    roll_up()
    registry = CollectorRegistry()
    registry.register(WebhooksCollector())
    encode, content_type = choose_encoder(accept)
    response = Client().get(URL, headers=TOKEN | {"Accept": accept})
    assert response["Content-Type"] == content_type
    parse: Any = openmetrics if accept else text_string_to_metric_families

    def parsed(text: bytes) -> Any:
        return [(one.name, one.documentation, one.type, one.samples) for one in parse(text.decode())]

    assert parsed(response.content) == parsed(encode(registry))


@pytest.mark.cost
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


@pytest.mark.cost
def test_a_collector_asks_the_database_only_when_it_is_scraped() -> None:
    with CaptureQueriesContext(connection) as queries:
        CollectorRegistry(auto_describe=True).register(WebhooksCollector())
    assert not queries


def test_an_error_of_another_kind_leaves_the_metrics_of_the_project_alone(
    app_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    registry.register(WebhooksCollector())
    with monkeypatch.context() as broken:
        broken.setattr("webhooks.contrib.prometheus.read_backend", lambda: {}["nothing"])
        for _ in range(2):
            assert registry.get_sample_value("webhooks_up") == 0
    assert app_log.text.count("KeyError: 'nothing'") == 1
    assert registry.get_sample_value("webhooks_up") == 1


# Outside of requests


def test_an_event_loop_can_scrape() -> None:
    registry = CollectorRegistry()
    registry.register(WebhooksCollector())

    async def scrape_it() -> bytes:
        return generate_latest(registry)

    make_webhook(Thing, name="CMDB")
    assert b'webhooks_paused{webhook="CMDB"} 0.0' in asyncio.run(scrape_it())


def in_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def sessions() -> int:
    """The sessions of this database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


@pytest.mark.postgresql
def test_a_scrape_in_a_thread_of_its_own_leaves_no_connection() -> None:
    registry = CollectorRegistry()
    registry.register(WebhooksCollector())
    before = sessions()
    gc.disable()
    try:
        assert {in_thread(lambda: registry.get_sample_value("webhooks_up")) for _ in range(3)} == {1}
        until(lambda: sessions() == before, 5, "the session of each scrape to end")  # the server ends it later
    finally:
        gc.enable()


def end_session(pid: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    connection.close()


@pytest.mark.postgresql
def test_a_thread_that_scrapes_gets_a_new_connection_after_a_restart_of_the_database() -> None:
    registry = CollectorRegistry()
    registry.register(WebhooksCollector())

    def scrape_before_and_after() -> list[float | None]:
        with connection.cursor() as cursor:  # the thread keeps this one
            cursor.execute("SELECT pg_backend_pid()")
            [pid] = cursor.fetchone()
        in_thread(lambda: end_session(pid))
        found = [registry.get_sample_value("webhooks_up") for _ in range(2)]
        connection.close()
        return found

    assert in_thread(scrape_before_and_after) == [0, 1]


@pytest.mark.postgresql
def test_a_scrape_in_a_request_leaves_its_connection_to_django() -> None:
    def scrape_it() -> bool:
        assert scrape()("up") == 1
        is_open = connection.connection is not None  # the client of tests does not close it at the end of the request
        connection.close()
        return is_open

    assert in_thread(scrape_it)


@pytest.mark.postgresql
def test_a_locked_table_holds_no_scrape_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with session("LOCK TABLE rq_webhooks_undispatched IN ACCESS EXCLUSIVE MODE"), monkeypatch.context() as patched:
        patched.setattr(prometheus, "STATEMENT_SECONDS", 0.2)
        assert scrape()("up") == 0
    assert scrape()("up") == 1


# Who may scrape


def test_the_token_needs_no_login(settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert scrape()("up") == 1
    assert Client().get(URL).status_code == 401


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
