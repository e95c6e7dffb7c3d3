"""The status page: sections, permissions, retry and resume."""

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
from tests.support.admin_pages import DELIVERIES, EVENTS, STATUS, WEBHOOKS, messages_after, page, staff
from tests.support.makers import make_site_deliveries, make_site_delivery, make_site_event, make_webhook
from tests.support.servers import free_port
from webhooks.admin import counts, status
from webhooks.models import Delivery, State, Webhook
from webhooks.models.event import LARGE_FIELDS
from webhooks.models.webhook import SECRET_FIELDS
from webhooks.operations import retries
from webhooks.operations.webhooks import delete_webhooks

RETRY = reverse("webhooks_backend_status_retry")
RETRY_ALL = reverse("webhooks_backend_status_retry_all")
RESUME = reverse("webhooks_backend_status_resume")


def found(client: Client) -> list[str]:
    return [one.text for one in client.get(STATUS).context["problems"]]


class TestPage:
    def test_its_address_is_fixed(self, webhook: Webhook) -> None:
        assert STATUS == "/admin/webhook-backend-status/"

    def test_it_shows_failed_deliveries_and_events_with_errors(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, event=make_site_event(12, "AMS1"))
        make_site_delivery(webhook, State.WAITING)
        make_site_event(3, "odd", data="", error="Traceback:\nKeyError: 'rack'", dispatched_at=None)
        shown = page(admin_client, STATUS)
        link = reverse("admin:webhooks_delivery_change", args=[delivery.pk])
        for text in (link, "AMS1", "HTTP 503 Service Unavailable", "CMDB", "KeyError: &#x27;rack&#x27;", "odd"):
            assert text in shown

    def test_failed_deliveries_come_in_pages_newest_first(self, admin_client: Client, webhook: Webhook) -> None:
        for age, delivery in enumerate(make_site_deliveries(webhook, 26)):
            finished = timezone.now() - timedelta(minutes=age)
            Delivery.objects.filter(pk=delivery.pk).update(finished_at=finished)
        first, second = page(admin_client, STATUS), page(admin_client, STATUS, page=2)
        assert "site 1<" in first
        assert "site 26<" not in first
        assert "site 26<" in second

    def test_the_number_of_queries_does_not_grow(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 1)
        page(admin_client, STATUS)
        few = self.statements(admin_client)
        for number in range(30):
            make_site_deliveries(make_webhook(Site, enabled=bool(number % 2)), 3)
            make_site_event(number, error="KeyError", dispatched_at=None)
        assert len(self.statements(admin_client)) == len(few) <= 18

    def test_it_reads_no_long_columns_and_no_secrets(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        make_site_event(1, data="", error="KeyError", dispatched_at=None)
        read = "".join(sql.partition(" FROM ")[0] for sql in self.statements(admin_client) if "object_repr" in sql)
        assert '"webhooks_event"."object_repr"' in read
        for name in LARGE_FIELDS:
            assert f'"webhooks_event"."{name}",' not in read
        for name in SECRET_FIELDS:
            assert f'"webhooks_webhook"."{name}",' not in read

    def test_counts_have_a_limit(self, admin_client: Client, webhook: Webhook) -> None:
        counting = [sql for sql in self.statements(admin_client) if "COUNT(" in sql]
        assert all(sql.count("COUNT(") == sql.count("LIMIT 1001") + sql.count("LIMIT 10001") for sql in counting)

    def statements(self, client: Client) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            page(client, STATUS)
        return [one["sql"] for one in captured if "webhooks_" in one["sql"]]

    def test_capped_counts_are_marked(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status, "TOTAL_CAP", 2)
        monkeypatch.setattr(counts, "TOTAL_CAP", 2)
        monkeypatch.setattr(status, "EACH_CAP", 2)
        monkeypatch.setattr(counts, "EACH_CAP", 2)
        make_site_deliveries(webhook, 5)
        shown = page(admin_client, STATUS)
        assert "<strong>2+</strong>" in shown
        assert ">2+</a>" in shown

    def test_a_capped_count_has_a_plural(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status, "TOTAL_CAP", 2)
        monkeypatch.setattr(counts, "TOTAL_CAP", 2)
        assert "not dispatched yet" not in page(admin_client, STATUS)
        for key, said in enumerate(("1 change recorded", "2 changes recorded", "2+ changes recorded")):
            make_site_event(key, dispatched_at=None)
            assert f"<p>{said} and not dispatched yet" in page(admin_client, STATUS)

    def test_many_webhooks_link_to_their_list(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(counts, "MAX_WEBHOOKS", 1)
        make_webhook(Site, name="Zabbix")
        shown = page(admin_client, STATUS)
        assert "the list of webhooks" in shown
        assert "Zabbix" not in shown

    def test_it_says_when_webhooks_are_turned_off(
        self, admin_client: Client, webhook: Webhook, webhooks_settings: Any
    ) -> None:
        webhooks_settings(ENABLED=False)
        assert "Webhooks are turned off" in found(admin_client)[0]

    def test_without_redis_it_comes_promptly_and_shows_the_error(
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

    def test_it_links_to_django_rq(self, admin_client: Client, webhook: Webhook) -> None:
        assert f'href="{reverse("django_rq:home")}"' in page(admin_client, STATUS)


def test_the_app_and_its_lists_link_to_the_status_page(admin_client: Client) -> None:
    status = reverse("webhooks_backend_status")
    for address in (WEBHOOKS, DELIVERIES, EVENTS, reverse("admin:app_list", args=["webhooks"])):
        assert f'href="{status}"' in page(admin_client, address)
    assert status not in page(staff("view_webhook"), WEBHOOKS)


class TestPermissions:
    def test_anonymous_users_must_log_in(self, webhook: Webhook) -> None:
        response = Client().get(STATUS)
        assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={STATUS}")

    def test_it_needs_permission_to_view_deliveries(self, webhook: Webhook) -> None:
        assert staff("view_webhook").get(STATUS).status_code == 403

    def test_viewers_see_no_retry_buttons(self, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        shown = page(staff("view_delivery"), STATUS)
        assert "HTTP 503" in shown
        assert RETRY_ALL not in shown
        assert f'value="{delivery.pk}"' not in shown
        assert reverse("admin:webhooks_webhook_change", args=[webhook.pk]) not in shown

    @pytest.mark.parametrize("address", [RETRY, RETRY_ALL, RESUME])
    def test_viewing_does_not_imply_retrying_or_resuming(self, webhook: Webhook, address: str) -> None:
        delivery = make_site_delivery(webhook)
        client = staff("view_delivery", "view_webhook")
        assert client.post(address, {"only": delivery.pk, "webhook": webhook.pk}).status_code == 403
        delivery.refresh_from_db()
        assert delivery.state == State.FAILED

    @pytest.mark.parametrize("address", [RETRY, RESUME])
    def test_get_requests_change_nothing(self, admin_client: Client, webhook: Webhook, address: str) -> None:
        assert admin_client.get(address).status_code == 405


class TestRetry:
    def test_one_is_retried_by_its_button(self, admin_client: Client, webhook: Webhook) -> None:
        one, other = make_site_deliveries(webhook, 2)
        assert messages_after(admin_client, RETRY, only=one.pk, delivery=[other.pk]) == [
            "1 delivery will be sent again."
        ]
        assert list(Delivery.objects.failed()) == [other]
        assert LogEntry.objects.get().object_id == str(one.pk)

    def test_selected_deliveries_are_retried(self, admin_client: Client, webhook: Webhook) -> None:
        one, other, third = make_site_deliveries(webhook, 3)
        messages = messages_after(admin_client, RETRY, delivery=[one.pk, other.pk])
        assert messages == ["2 deliveries will be sent again."]
        assert list(Delivery.objects.failed()) == [third]

    @pytest.mark.parametrize("sent", [{}, {"delivery": "nonsense"}])
    def test_an_empty_selection_is_reported(self, admin_client: Client, webhook: Webhook, sent: dict[str, str]) -> None:
        assert messages_after(admin_client, RETRY, **sent) == ["No delivery was selected: nothing is retried."]

    def test_all_are_retried_after_a_page_that_says_how_many(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 3)
        shown = page(admin_client, RETRY_ALL)
        assert "3 failed deliveries will be sent again" in shown
        assert Delivery.objects.failed().count() == 3
        assert messages_after(admin_client, RETRY_ALL) == ["3 deliveries will be sent again."]
        assert not Delivery.objects.failed().exists()

    def test_all_of_one_webhook_are_retried(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        other = make_site_delivery(make_webhook(Site))
        address = f"{RETRY_ALL}?webhook={webhook.pk}"
        assert "2 failed deliveries of “CMDB” will be sent again" in page(admin_client, address)
        assert messages_after(admin_client, address) == ["2 deliveries will be sent again."]
        assert list(Delivery.objects.failed()) == [other]

    def test_a_deleted_webhook_does_not_mean_all(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook)
        for gone in ("999", "nonsense"):
            assert admin_client.post(f"{RETRY_ALL}?webhook={gone}").status_code == 404
        assert Delivery.objects.failed().exists()

    def test_without_failed_deliveries_it_says_so(self, admin_client: Client, webhook: Webhook) -> None:
        assert "There are no failed deliveries" in page(admin_client, RETRY_ALL)

    def test_all_are_retried_in_chunks_and_oldest_first(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "READ", 4)
        monkeypatch.setattr(retries, "CHUNK", 2)
        lane = [make_site_delivery(webhook) for _ in range(9)]
        assert messages_after(admin_client, RETRY_ALL) == ["9 deliveries will be sent again."]
        assert Delivery.objects.get(state=State.PENDING) == lane[0]

    def test_it_stops_in_time_and_says_so(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "CHUNK", 2)
        monkeypatch.setattr(retries, "REQUEST_SECONDS", 0)
        make_site_deliveries(webhook, 5)
        assert messages_after(admin_client, RETRY_ALL) == [
            "2 deliveries will be sent again.",
            "There were too many for one request. Repeat the action for the rest.",
        ]
        assert Delivery.objects.failed().count() == 3

    def test_failed_deliveries_of_a_deleted_webhook_are_hidden_and_not_retried(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("webhooks.operations.webhooks.MAX_ROWS", 2)
        left = make_site_deliveries(webhook, 5)[-1]
        delete_webhooks(Webhook.objects.filter(pk=webhook.pk))
        shown = page(admin_client, STATUS)
        assert "1 deleted webhook still had many deliveries" in shown
        assert "will not be retried" not in shown
        assert "There are no failed deliveries" in page(admin_client, RETRY_ALL)
        assert messages_after(admin_client, RETRY, delivery=str(left.pk)) == [
            "Skipped 1: only failed, discarded or pending deliveries can be retried, and none of a deleted webhook."
        ]
        assert set(Delivery.objects.values_list("state", flat=True)) == {State.FAILED}

    def test_a_paused_webhook_is_resumed(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(probe_at=timezone.now() + timedelta(hours=1), failures_in_a_row=20)
        assert "Resume now" in page(admin_client, STATUS)
        assert messages_after(admin_client, RESUME, webhook=webhook.pk) == ["1 webhook resumed."]
        webhook.refresh_from_db()
        assert not webhook.is_paused
