"""The status page: what it shows, what it finds wrong, and what can be done there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dcim.models import Site
from tests.admin.test_pages import page, staff, told
from tests.support.makers import make_site_deliveries, make_site_delivery, make_site_event, make_webhook
from tests.support.servers import free_port
from webhooks.admin import counting, overview
from webhooks.admin.diagnostics import Level, judge
from webhooks.admin.overview import Situation, Standing
from webhooks.models import Delivery, State, Webhook
from webhooks.models.event import LARGE_FIELDS
from webhooks.models.webhook import SECRET_FIELDS
from webhooks.operations import retries
from webhooks.operations.webhooks import delete_webhooks
from webhooks.workers.redis import SILENT_SHIPPED, Backend, Worker

STATUS = reverse("webhooks_backend_status")
RETRY = reverse("webhooks_backend_status_retry")
RETRY_ALL = reverse("webhooks_backend_status_retry_all")
RESUME = reverse("webhooks_backend_status_resume")


@pytest.fixture
def webhook(db: None, redis: Any) -> Webhook:
    return make_webhook(Site, name="CMDB")


def found(client: Client) -> list[str]:
    return [finding.text for finding in client.get(STATUS).context["findings"]]


class TestPage:
    def test_it_is_at_the_address_that_people_know(self, webhook: Webhook) -> None:
        assert STATUS == "/admin/webhook-backend-status/"

    def test_it_shows_what_waits_and_what_failed_and_why(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, event=make_site_event(12, "AMS1"))
        make_site_delivery(webhook, State.WAITING)
        make_site_event(3, "odd", data="", error="Traceback:\nKeyError: 'rack'", dispatched_at=None)
        shown = page(admin_client, STATUS)
        link = reverse("admin:webhooks_delivery_change", args=[delivery.pk])
        for text in (link, "AMS1", "HTTP 503 Service Unavailable", "CMDB", "KeyError: &#x27;rack&#x27;", "odd"):
            assert text in shown

    def test_the_failed_ones_come_in_pages_the_newest_first(self, admin_client: Client, webhook: Webhook) -> None:
        for age, delivery in enumerate(make_site_deliveries(webhook, 26)):
            finished = timezone.now() - timedelta(minutes=age)
            Delivery.objects.filter(pk=delivery.pk).update(finished_at=finished)
        first, second = page(admin_client, STATUS), page(admin_client, STATUS, page=2)
        assert "site 1<" in first
        assert "site 26<" not in first
        assert "site 26<" in second

    def test_its_queries_grow_with_neither_webhooks_nor_rows(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 1)
        page(admin_client, STATUS)
        few = self.statements(admin_client)
        for number in range(30):
            make_site_deliveries(make_webhook(Site, enabled=bool(number % 2)), 3)
            make_site_event(number, error="KeyError", dispatched_at=None)
        assert len(self.statements(admin_client)) == len(few) <= 18

    def test_it_reads_nothing_that_may_be_long_and_no_secret(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        make_site_event(1, data="", error="KeyError", dispatched_at=None)
        read = "".join(sql.partition(" FROM ")[0] for sql in self.statements(admin_client) if "object_repr" in sql)
        assert '"webhooks_event"."object_repr"' in read
        for name in LARGE_FIELDS:
            assert f'"webhooks_event"."{name}",' not in read
        for name in SECRET_FIELDS:
            assert f'"webhooks_webhook"."{name}",' not in read

    def test_nothing_is_counted_to_the_end(self, admin_client: Client, webhook: Webhook) -> None:
        counting = [sql for sql in self.statements(admin_client) if "COUNT(" in sql]
        assert all(sql.count("COUNT(") == sql.count("LIMIT 1001") + sql.count("LIMIT 10001") for sql in counting)

    def statements(self, client: Client) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            page(client, STATUS)
        return [one["sql"] for one in captured if "webhooks_" in one["sql"]]

    def test_counts_stop_somewhere_and_say_so(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(counting, "ALL", 2)
        monkeypatch.setattr(counting, "EACH", 2)
        make_site_deliveries(webhook, 5)
        shown = page(admin_client, STATUS)
        assert "<strong>2+</strong>" in shown
        assert ">2+</a>" in shown

    def test_a_count_that_is_no_plain_number_has_its_plural(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(counting, "ALL", 2)
        assert "taken up yet" not in page(admin_client, STATUS)
        for key, said in enumerate(("1 change recorded", "2 changes recorded", "2+ changes recorded")):
            make_site_event(key, dispatched_at=None)
            assert f"<p>{said} that no worker has taken up yet" in page(admin_client, STATUS)

    def test_more_webhooks_than_it_shows_are_left_to_their_list(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overview, "MOST_WEBHOOKS", 1)
        make_webhook(Site, name="Zabbix")
        shown = page(admin_client, STATUS)
        assert "the list of webhooks" in shown
        assert "Zabbix" not in shown

    def test_it_says_when_webhooks_are_turned_off(
        self, admin_client: Client, webhook: Webhook, webhooks_settings: Any
    ) -> None:
        webhooks_settings(ENABLED=False)
        assert "Webhooks are turned off" in found(admin_client)[0]

    def test_it_comes_promptly_and_says_why_when_redis_is_away(
        self, admin_client: Client, webhook: Webhook, settings: Any
    ) -> None:
        settings.RQ_QUEUES = {"webhooks": {"URL": f"redis://user:pass@127.0.0.1:{free_port()}/3"}}
        make_site_delivery(webhook, event=make_site_event(12, "AMS1"))
        began = timezone.now()
        shown = page(admin_client, STATUS)
        assert (timezone.now() - began).total_seconds() < 3
        assert "Redis cannot be used" in shown
        assert "AMS1" in shown
        assert "pass" not in shown.split("Redis cannot be used")[1].split("</section>")[0].replace("password", "")

    def test_a_queue_that_is_not_in_the_settings_is_named(
        self, admin_client: Client, webhook: Webhook, webhooks_settings: Any
    ) -> None:
        webhooks_settings(QUEUE="nowhere")
        assert "the setting RQ_QUEUES has no queue &#x27;nowhere&#x27;" in page(admin_client, STATUS)

    def test_the_pages_of_django_rq_are_beside_it(self, admin_client: Client, webhook: Webhook) -> None:
        assert f'href="{reverse("django_rq:home")}"' in page(admin_client, STATUS)


class TestWhoMayWhat:
    def test_who_is_not_staff_must_log_in(self, webhook: Webhook) -> None:
        response = Client().get(STATUS)
        assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={STATUS}")

    def test_who_may_not_view_deliveries_is_refused(self, webhook: Webhook) -> None:
        assert staff("view_webhook").get(STATUS).status_code == 403

    def test_who_may_view_sees_it_without_the_means_to_retry(self, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        shown = page(staff("view_delivery"), STATUS)
        assert "HTTP 503" in shown
        assert RETRY_ALL not in shown
        assert f'value="{delivery.pk}"' not in shown
        assert reverse("admin:webhooks_webhook_change", args=[webhook.pk]) not in shown

    @pytest.mark.parametrize("address", [RETRY, RETRY_ALL, RESUME])
    def test_who_may_view_may_not_therefore_retry_or_resume(self, webhook: Webhook, address: str) -> None:
        delivery = make_site_delivery(webhook)
        client = staff("view_delivery", "view_webhook")
        assert client.post(address, {"only": delivery.pk, "webhook": webhook.pk}).status_code == 403
        delivery.refresh_from_db()
        assert delivery.state == State.FAILED

    @pytest.mark.parametrize("address", [RETRY, RESUME])
    def test_a_link_does_nothing(self, admin_client: Client, webhook: Webhook, address: str) -> None:
        assert admin_client.get(address).status_code == 405


class TestRetry:
    def test_one_is_retried_by_its_button(self, admin_client: Client, webhook: Webhook) -> None:
        one, other = make_site_deliveries(webhook, 2)
        assert told(admin_client, RETRY, only=one.pk, delivery=[other.pk]) == ["1 delivery will be sent again."]
        assert list(Delivery.objects.failed()) == [other]
        assert LogEntry.objects.get().object_id == str(one.pk)

    def test_the_ticked_ones_are_retried(self, admin_client: Client, webhook: Webhook) -> None:
        one, other, third = make_site_deliveries(webhook, 3)
        messages = told(admin_client, RETRY, delivery=[one.pk, other.pk])
        assert messages == ["2 deliveries will be sent again."]
        assert list(Delivery.objects.failed()) == [third]

    @pytest.mark.parametrize("sent", [{}, {"delivery": "nonsense"}])
    def test_nothing_ticked_is_said(self, admin_client: Client, webhook: Webhook, sent: dict[str, str]) -> None:
        assert told(admin_client, RETRY, **sent) == ["No delivery was selected: nothing is retried."]

    def test_all_are_retried_after_a_page_that_says_how_many(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        shown = page(admin_client, RETRY_ALL)
        assert "3 failed deliveries will be sent again" in shown
        assert Delivery.objects.failed().count() == 3
        assert told(admin_client, RETRY_ALL) == ["3 deliveries will be sent again."]
        assert not Delivery.objects.failed().exists()

    def test_all_of_one_webhook_are_retried(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        other = make_site_delivery(make_webhook(Site))
        address = f"{RETRY_ALL}?webhook={webhook.pk}"
        assert "2 failed deliveries of “CMDB” will be sent again" in page(admin_client, address)
        assert told(admin_client, address) == ["2 deliveries will be sent again."]
        assert list(Delivery.objects.failed()) == [other]

    def test_a_webhook_that_is_gone_does_not_mean_all(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        for gone in ("999", "nonsense"):
            assert admin_client.post(f"{RETRY_ALL}?webhook={gone}").status_code == 404
        assert Delivery.objects.failed().exists()

    def test_nothing_failed_is_said(self, admin_client: Client, webhook: Webhook) -> None:
        assert "there is nothing to retry" in page(admin_client, RETRY_ALL)

    def test_all_are_retried_in_chunks_and_oldest_first(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "READ", 4)
        monkeypatch.setattr(retries, "CHUNK", 2)
        lane = [make_site_delivery(webhook) for _ in range(9)]
        assert told(admin_client, RETRY_ALL) == ["9 deliveries will be sent again."]
        assert Delivery.objects.get(state=State.PENDING) == lane[0]

    def test_what_one_request_cannot_do_is_left_and_said(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "CHUNK", 2)
        monkeypatch.setattr(retries, "REQUEST_SECONDS", 0)
        make_site_deliveries(webhook, 5)
        assert told(admin_client, RETRY_ALL) == [
            "2 deliveries will be sent again.",
            "There were too many for one request: do it again for the rest.",
        ]
        assert Delivery.objects.failed().count() == 3

    def test_what_of_a_webhook_that_is_being_deleted_had_failed_is_neither_told_nor_retried(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webhooks.operations.webhooks.MAX_ROWS", 2)
        left = make_site_deliveries(webhook, 5)[-1]
        delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
        shown = page(admin_client, STATUS)
        assert "is being deleted" in shown
        assert "failed for good" not in shown
        assert "there is nothing to retry" in page(admin_client, RETRY_ALL)
        assert told(admin_client, RETRY, delivery=str(left.pk)) == [
            "1 was left as it is: only failed, discarded or pending ones can be retried, and none of a deleted webhook."
        ]
        assert set(Delivery.objects.values_list("state", flat=True)) == {State.FAILED}

    def test_a_paused_webhook_is_resumed(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(probe_at=timezone.now() + timedelta(hours=1), failures_in_a_row=20)
        assert "Resume now" in page(admin_client, STATUS)
        assert told(admin_client, RESUME, webhook=webhook.pk) == ["1 webhook is sent to again."]
        webhook.refresh_from_db()
        assert not webhook.is_paused


NOW = timezone.now()
LONG_AGO = NOW - timedelta(minutes=10)
SHIPPED = Worker("w", ("webhooks",), is_shipped=True)
STOCK = Worker("w", ("webhooks",))
SILENT = Worker("w", ("webhooks",), True, silence=SILENT_SHIPPED + 60)
FINE = Standing(1, "CMDB")


def backend(*workers: Worker, error: str = "") -> Backend:
    return Backend("webhooks", error=error, workers=workers)


@pytest.mark.parametrize(
    ("webhooks", "workers", "level", "text"),
    [
        ([FINE], [SHIPPED], Level.GOOD, "All is well: nothing is waiting"),
        ([FINE], [], Level.ERROR, "No worker is alive: nothing is delivered until one is started."),
        ([FINE], [Worker("w", ("default",))], Level.ERROR, "No worker that is alive serves the queue “webhooks”"),
        ([FINE], [SILENT], Level.ERROR, "No worker that is alive serves the queue “webhooks”"),
        ([FINE], [SHIPPED, SILENT], Level.WARNING, "The worker “w” has not been heard from for 2 min"),
        ([FINE], [STOCK], Level.WARNING, "Only rq's stock worker is running"),
        ([FINE], [STOCK, SHIPPED], Level.GOOD, "All is well"),
        ([], [SHIPPED], Level.WARNING, "No webhook is defined"),
        ([Standing(1, "CMDB", enabled=False)], [SHIPPED], Level.WARNING, "Every webhook is disabled"),
        (
            [FINE, Standing(2, "Chat", enabled=False, pending=1, waiting=2)], [SHIPPED], Level.WARNING,
            "3 deliveries of “Chat” wait because the webhook is disabled.",
        ),
        (
            [FINE, Standing(2, "Chat", enabled=False, pending=1, disabled_reason="410 Gone")], [SHIPPED],
            Level.WARNING, "“Chat” was disabled automatically: 410 Gone. 1 delivery of “Chat” waits because",
        ),
        (
            [Standing(1, "CMDB", failures_in_a_row=9, last_failure="HTTP 500", probe_at=NOW + timedelta(minutes=4))],
            [SHIPPED], Level.WARNING,
            "“CMDB” is paused after 9 failed attempts, the last one with: HTTP 500.",
        ),
        (
            [Standing(1, "CMDB", failures_in_a_row=1, last_failure="HTTP 500", retrying=1)],
            [SHIPPED], Level.WARNING, "did not take its last delivery: HTTP 500. It is tried again automatically.",
        ),
        (
            [Standing(1, "CMDB", failures_in_a_row=3, last_failure="HTTP 500", retrying=3)],
            [SHIPPED], Level.WARNING, "3 deliveries are tried again automatically.",
        ),
        (
            [Standing(1, "CMDB", pending=1, due_since=LONG_AGO)], [SHIPPED], Level.WARNING,
            "Deliveries of “CMDB” are due and not sent; the oldest has waited 10 min.",
        ),
        ([Standing(1, "CMDB", pending=1, due_since=NOW)], [SHIPPED], Level.GOOD, "All is well"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(webhooks: list[Standing], workers: list[Worker], level: Level, text: str) -> None:
    findings = judge(Situation(webhooks=tuple(webhooks)), backend(*workers), True, NOW)
    assert [one.level for one in findings if text in one.text] == [level], findings


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (Situation(counts={State.FAILED: 1}), "1 delivery failed for good and is not tried again unless you retry."),
        (Situation(counts={State.FAILED: 10_001}), "10,000+ deliveries failed for good and are not tried again"),
        (Situation(failed_events=1), "1 event failed: nothing was sent of it."),
        (Situation(failed_events=2), "2 events failed: nothing was sent of them."),
        (Situation(undispatched=5, undispatched_since=LONG_AGO), "5 changes recorded and not taken up by a worker"),
    ],
)
def test_what_is_left_over_is_found(seen: Situation, text: str) -> None:
    assert text in " ".join(one.text for one in judge(seen, backend(SHIPPED), True, NOW))


def test_all_that_somebody_has_to_put_right_says_how() -> None:
    late = Standing(1, "CMDB", pending=1, due_since=LONG_AGO)
    left = {"undispatched": 5, "undispatched_since": LONG_AGO, "failed_events": 1}
    seen = Situation(counts={State.FAILED: 1}, webhooks=(late,), **left)
    found = judge(seen, backend(SHIPPED, SILENT), True, NOW)
    assert len(found) == 5
    assert [one.text for one in found if not one.remedy] == []


def test_changes_that_no_worker_has_taken_up_yet_are_not_nothing() -> None:
    seen = Situation(undispatched=2, undispatched_since=NOW, webhooks=(FINE,))
    [finding] = judge(seen, backend(SHIPPED), True, NOW)
    assert finding.text.startswith("All is well: 2 changes to be taken up, nothing has failed")


@pytest.mark.parametrize(("state", "level"), [("suspended", Level.ERROR), ("idle", Level.WARNING)])
def test_suspended_workers_are_found(state: str, level: Level) -> None:
    seen = Backend("webhooks", workers=(Worker("w", ("webhooks",), is_shipped=True, state=state),), is_suspended=True)
    [finding] = judge(Situation(webhooks=(FINE,)), seen, True, NOW)
    assert (finding.level, finding.command) == (level, "rq resume --url redis://…")


def test_the_gravest_comes_first() -> None:
    seen = Situation(counts={State.FAILED: 1}, webhooks=(FINE,))
    levels = [finding.level for finding in judge(seen, backend(error="refused"), False, NOW)]
    assert levels == [Level.ERROR, Level.ERROR, Level.WARNING]


def test_nothing_is_blamed_on_workers_of_which_redis_cannot_tell() -> None:
    findings = judge(Situation(webhooks=(FINE,)), backend(error="refused"), True, NOW)
    assert [finding.text for finding in findings] == ["Redis cannot be used: refused"]
