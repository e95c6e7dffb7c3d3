"""The pages of deliveries: list, one delivery, retry and discard."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dcim.models import Site
from tests.support.admin_pages import (
    DELIVERIES,
    EVENTS,
    WEBHOOKS,
    change_of,
    do,
    messages_after,
    page,
    staff,
    statements,
)
from tests.support.makers import make_attempt, make_site_deliveries, make_site_delivery, make_site_event, make_webhook
from tests.support.observing import committed_before_each_chunk
from webhooks.admin import delivery as delivery_admin
from webhooks.admin import filters
from webhooks.admin.counts import CappedPaginator
from webhooks.db import first_id, new_id
from webhooks.models import Delivery, State, Webhook

NASTY = '<script>alert("x")</script>'
ESCAPED = "&lt;script&gt;alert("


class TestList:
    def test_it_shows_object_webhook_and_reason(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook, event=make_site_event(12, "AMS1", action="created"))
        shown = page(admin_client, DELIVERIES)
        for text in ("AMS1", "dcim.site 12, created", "CMDB", "HTTP 503 Service Unavailable", "wh-failed"):
            assert text in shown

    def test_it_shows_the_next_attempt(self, admin_client: Client, webhook: Webhook) -> None:
        later = timezone.now() + timedelta(minutes=10, seconds=5)
        make_site_delivery(webhook, State.PENDING, next_attempt_at=later)
        assert "in 10 min" in page(admin_client, DELIVERIES)
        Webhook.objects.update(enabled=False)
        assert "next when enabled" in page(admin_client, DELIVERIES)

    def test_the_number_of_queries_does_not_grow(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        page(admin_client, DELIVERIES)
        few = len(statements(admin_client, DELIVERIES))
        make_site_deliveries(make_webhook(Site), 30)
        assert len(statements(admin_client, DELIVERIES)) == few

    def test_counts_have_a_limit(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        counts = [sql for sql in statements(admin_client, DELIVERIES) if "COUNT(" in sql]
        assert len(counts) == 1
        assert f"LIMIT {CappedPaginator.cap + 1}" in counts[0]

    def test_it_says_that_there_are_more_rows(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CappedPaginator, "cap", 3)
        make_site_deliveries(webhook, 5)
        assert "These are the newest 3" in page(admin_client, DELIVERIES)

    @pytest.mark.parametrize(
        "query",
        [
            {"state": "failed"},
            {"webhook__id__exact": "WEBHOOK"},
            {"model": "dcim.site"},
            {"event_action": "updated"},
            {"within": "hour"},
        ],
    )
    def test_it_is_filtered(self, admin_client: Client, webhook: Webhook, query: dict[str, str]) -> None:
        make_site_delivery(webhook, event=make_site_event(1, "wanted"))
        day_ago = first_id(timezone.now() - timedelta(days=1))
        unwanted = make_site_event(2, "unlike", object_type="dcim.device", action="created")
        make_site_delivery(make_webhook(Site), State.SUCCEEDED, unwanted, pk=day_ago)
        query = {name: str(webhook.pk) if value == "WEBHOOK" else value for name, value in query.items()}
        shown = page(admin_client, DELIVERIES, **query)
        assert "wanted" in shown
        assert "unlike" not in shown

    def test_not_finished_means_three_states(self, admin_client: Client, webhook: Webhook) -> None:
        for number, state in enumerate(State):
            make_site_delivery(webhook, state, make_site_event(number, f"site-{state}"))
        shown = page(admin_client, DELIVERIES, state="open")
        assert [state for state in State if f"site-{state}" in shown] == ["waiting", "pending", "sending"]

    @pytest.mark.parametrize("term", ["4711", "dcim.site:4711", "frankf", "DELIVERY", "REQUEST"])
    def test_it_is_searched_by_object_delivery_and_request(
        self, admin_client: Client, webhook: Webhook, term: str
    ) -> None:
        request = str(uuid4())
        wanted = make_site_delivery(webhook, event=make_site_event(4711, "Frankfurt", request_id=request))
        make_site_delivery(webhook, event=make_site_event(1, "Amsterdam"))
        term = {"DELIVERY": str(wanted.pk), "REQUEST": request}.get(term, term)
        shown = page(admin_client, DELIVERIES, q=term)
        assert "Frankfurt" in shown
        assert "Amsterdam" not in shown

    def test_names_are_searched_in_the_newest_events(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(filters, "NEWEST", 1)
        make_site_delivery(webhook, event=make_site_event(1, "Frankfurt"))
        make_site_delivery(webhook, event=make_site_event(2, "Amsterdam"))
        assert "Frankfurt" not in page(admin_client, DELIVERIES, q="frank")
        assert "Amsterdam" in page(admin_client, DELIVERIES, q="amst")


class TestOneDelivery:
    def test_it_shows_request_and_answer(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "Zürich", username="jstretch", data='{"id":12,"name":"Z\\u00fcrich"}')
        delivery = make_site_delivery(webhook, event=event)
        make_attempt(delivery, response_headers={"Server": "nginx"}, response_body="Sorry & bye", worker="w-1")
        shown = page(admin_client, change_of(delivery))
        for text in (
            "Zürich",
            "jstretch",
            "47 ms",
            "503",
            "nginx",
            "Sorry &amp; bye",
            "w-1",
            str(delivery.pk),
        ):
            assert text in shown
        assert "&quot;name&quot;: &quot;Zürich&quot;" in shown  # indented
        assert "&quot;name&quot;:&quot;Z\\u00fcrich&quot;" in shown  # the body

    def test_a_form_is_shown_as_a_form(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(content_type="application/x-www-form-urlencoded")
        assert "event=updated&amp;timestamp=" in page(admin_client, change_of(make_site_delivery(webhook)))

    def test_a_template_body_is_shown_rendered(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(body_template="<{{ event }} of {{ model }}>")
        assert "&lt;updated of site&gt;" in page(admin_client, change_of(make_site_delivery(webhook)))

    def test_a_pending_one_shows_its_next_attempt(self, admin_client: Client, webhook: Webhook) -> None:
        later, earlier = (timezone.now() + timedelta(hours=hours) for hours in (2, -2))
        delivery = make_site_delivery(webhook, State.PENDING, next_attempt_at=later, reason="HTTP 503")
        assert "; the last attempt failed: <strong>HTTP 503" in page(admin_client, change_of(delivery))
        assert "in 2 h" in page(admin_client, change_of(delivery))
        Delivery.objects.update(next_attempt_at=earlier)
        assert "due now" in page(admin_client, change_of(delivery))
        Webhook.objects.update(probe_at=later)
        shown = page(admin_client, change_of(delivery))
        assert "waits because the webhook is paused" in shown
        assert "due now" not in shown

    def test_the_size_of_a_body_is_in_bytes(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(body_template="Zürich")
        assert "(7 bytes)" in page(admin_client, change_of(make_site_delivery(webhook)))

    def test_a_template_error_is_shown(self, admin_client: Client, webhook: Webhook) -> None:
        Webhook.objects.update(body_template="{{ data.nope.deeper }}")
        shown = page(admin_client, change_of(make_site_delivery(webhook)))
        assert "Nothing is sent: the body could not be rendered: line 1: UndefinedError" in shown
        assert "bytes)" not in shown

    def test_text_from_elsewhere_is_escaped(self, admin_client: Client) -> None:
        webhook = make_webhook(Site, name=f"hook {NASTY}", url=f"https://x.example/?{NASTY}")
        event = make_site_event(
            NASTY, NASTY, username=NASTY, request_id=NASTY, data=f'{{"a":"{NASTY[8:14]}"}}', request=f'"{NASTY[:8]}"'
        )
        delivery = make_site_delivery(webhook, event=event, reason=NASTY)
        make_attempt(delivery, response_headers={NASTY: NASTY}, response_body=NASTY, worker=NASTY)
        broken = make_site_event(2, NASTY, error=NASTY, data="", dispatched_at=None)
        status = reverse("webhooks_backend_status")
        for address in (DELIVERIES, EVENTS, WEBHOOKS, status, *map(change_of, (delivery, event, broken, webhook))):
            shown = page(admin_client, address)
            assert NASTY not in shown, address
            assert "<script>alert" not in shown, address
            assert ESCAPED in shown, address

    def test_it_shows_its_place_in_the_lane(self, admin_client: Client, webhook: Webhook) -> None:
        head = make_site_delivery(webhook, State.PENDING, reason="HTTP 500", attempt_count=1)
        first, second, third = (make_site_delivery(webhook, State.WAITING) for _ in range(3))
        make_site_delivery(webhook, State.WAITING, make_site_event(2))
        shown = " ".join(page(admin_client, change_of(second)).split())
        assert "Number 3 in its lane" in shown
        assert f'href="{change_of(head)}">the head of the lane</a>' in shown
        assert f'1 waits behind it. <a href="{change_of(third)}"' in shown
        assert "The head of its lane" in page(admin_client, change_of(head))
        assert "No longer in its lane" in page(
            admin_client, change_of(make_site_delivery(webhook, event=make_site_event(3)))
        )
        assert change_of(first) in page(admin_client, change_of(head))

    def test_counts_of_a_lane_have_a_limit(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delivery_admin, "EACH_CAP", 2)
        head, *waiting = [make_site_delivery(webhook, state) for state in (State.PENDING, *[State.WAITING] * 4)]
        assert "2+ wait behind it" in page(admin_client, change_of(head))
        assert "Number 2+ in its lane" in page(admin_client, change_of(waiting[-1]))
        assert "Number 2 in its lane" in page(admin_client, change_of(waiting[0]))

    def test_the_next_one_may_be_claimed_meanwhile(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head, after = make_site_delivery(webhook, State.PENDING), make_site_delivery(webhook, State.WAITING)
        first = QuerySet.first

        def take_and_read(rows: QuerySet[Any]) -> Any:
            if "waiting" in str(rows.query):
                Delivery.objects.filter(pk=after.pk).update(state=State.SUCCEEDED)
            return first(rows)

        monkeypatch.setattr(QuerySet, "first", take_and_read)
        assert "behind it." not in page(admin_client, change_of(head))

    def test_attempts_and_lane_do_not_add_queries(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, State.PENDING)
        make_attempt(delivery)
        page(admin_client, change_of(delivery))
        few = len(statements(admin_client, change_of(delivery)))
        for number in range(20):
            make_attempt(delivery, number=number)
            make_site_delivery(webhook, State.WAITING)
        assert len(statements(admin_client, change_of(delivery))) == few

    def test_an_unknown_one_is_not_found(self, admin_client: Client, webhook: Webhook) -> None:
        address = reverse("admin:webhooks_delivery_change", args=[new_id()])
        assert "doesn" in admin_client.get(address, follow=True).content.decode()
        assert admin_client.post(reverse("admin:webhooks_delivery_retry", args=["nonsense"])).status_code == 404


class TestRetryAndDiscard:
    def test_a_button_retries_one(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        assert do("retry", delivery) in page(admin_client, change_of(delivery))
        assert messages_after(admin_client, do("retry", delivery)) == ["1 delivery will be sent again."]
        delivery.refresh_from_db()
        assert delivery.state == State.PENDING
        entry = LogEntry.objects.get()
        assert (entry.object_id, entry.change_message) == (str(delivery.pk), "Retried.")

    def test_a_button_discards_one(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, State.PENDING)
        assert messages_after(admin_client, do("discard", delivery)) == ["1 delivery discarded."]
        delivery.refresh_from_db()
        assert delivery.state == State.DISCARDED
        assert LogEntry.objects.get().change_message == "Discarded."

    @pytest.mark.parametrize("deed", ["retry", "discard"])
    def test_get_requests_change_nothing(self, admin_client: Client, webhook: Webhook, deed: str) -> None:
        assert admin_client.get(do(deed, make_site_delivery(webhook))).status_code == 405

    @pytest.mark.parametrize("deed", ["retry", "discard"])
    def test_viewing_implies_neither_retrying_nor_discarding(self, webhook: Webhook, deed: str) -> None:
        delivery = make_site_delivery(webhook)
        viewer = staff("view_delivery")
        assert do(deed, delivery) not in page(viewer, change_of(delivery))
        assert f"{deed}_chosen" not in page(viewer, DELIVERIES)
        assert viewer.post(do(deed, delivery)).status_code == 403
        viewer.post(DELIVERIES, {"action": f"{deed}_chosen", "_selected_action": [delivery.pk]})
        delivery.refresh_from_db()
        assert delivery.state == State.FAILED

    def test_it_needs_only_its_permission(self, webhook: Webhook) -> None:
        client = staff("view_delivery", "retry_delivery")
        assert messages_after(client, do("retry", make_site_delivery(webhook))) == ["1 delivery will be sent again."]

    def test_many_are_retried_and_skipped_ones_counted(self, admin_client: Client, webhook: Webhook) -> None:
        chosen = [*make_site_deliveries(webhook, 3), make_site_delivery(webhook, State.SUCCEEDED)]
        ids = [delivery.pk for delivery in chosen]
        assert messages_after(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids) == [
            "3 deliveries will be sent again. "
            "Skipped 1: only failed, discarded or pending deliveries can be retried, and none of a deleted webhook."
        ]
        assert LogEntry.objects.count() == 3

    def test_many_are_discarded(self, admin_client: Client, webhook: Webhook) -> None:
        chosen = [
            make_site_delivery(webhook),
            make_site_delivery(webhook, State.SUCCEEDED),
            make_site_delivery(webhook, State.SENDING),
        ]
        ids = [delivery.pk for delivery in chosen]
        assert messages_after(admin_client, DELIVERIES, action="discard_chosen", _selected_action=ids) == [
            "1 delivery discarded. "
            "Skipped 2: finished deliveries, and deliveries that a worker is sending, cannot be discarded."
        ]

    def test_very_many_leave_one_log_entry(self, admin_client: Client, webhook: Webhook) -> None:
        ids = [delivery.pk for delivery in make_site_deliveries(webhook, 101)]
        messages_after(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids)
        assert LogEntry.objects.get().object_repr == "101 deliveries of CMDB"

    def test_a_lane_is_retried_in_its_order(self, admin_client: Client, webhook: Webhook) -> None:
        ids = [make_site_delivery(webhook).pk for _ in range(3)]
        messages_after(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids[::-1])
        assert list(Delivery.objects.order_by("event_id").values_list("state", flat=True)) == [
            "pending",
            "waiting",
            "waiting",
        ]

    def test_select_all_stops_at_the_cap(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CappedPaginator, "cap", 3)
        oldest = make_site_deliveries(webhook, 5)[0]
        chosen = {"action": "retry_chosen", "_selected_action": [oldest.pk], "select_across": "1"}
        assert messages_after(admin_client, DELIVERIES, **chosen) == ["3 deliveries will be sent again."]

    def test_many_are_committed_in_chunks(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        committed = committed_before_each_chunk(monkeypatch)
        chosen = [delivery.pk for delivery in make_site_deliveries(make_webhook(Site), 3)]
        messages_after(
            staff("view_delivery", "retry_delivery"), DELIVERIES, action="retry_chosen", _selected_action=chosen
        )
        assert committed == [0, 2]

    def test_deliveries_cannot_be_added_changed_or_deleted(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        assert admin_client.get(reverse("admin:webhooks_delivery_add")).status_code == 403
        assert admin_client.post(change_of(delivery), {"state": "succeeded"}).status_code == 403
        assert admin_client.post(reverse("admin:webhooks_delivery_delete", args=[delivery.pk])).status_code == 403
