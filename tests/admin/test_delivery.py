"""The pages of deliveries: list, one delivery, retry and discard."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
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
from tests.support.draining import STATE
from tests.support.makers import make_attempt, make_site_deliveries, make_site_delivery, make_site_event, make_webhook
from webhooks.ground import payloads
from webhooks.ground.db import to_utc
from webhooks.ground.error_kinds import ErrorKind
from webhooks.ground.text.redaction import REDACTED
from webhooks.insight import counts
from webhooks.insight.counts import TOTAL_CAP
from webhooks.models import Body, BodyKind, Delivery, Event, QueuedDelivery, State, Webhook
from webhooks.models.event import PING
from webhooks.models.ids import first_id, new_id
from webhooks.pages import delivery as delivery_page

pytestmark = pytest.mark.one_database

NASTY = '<script>alert("x")</script>'
ESCAPED = "&lt;script&gt;alert("


class TestList:
    def test_it_shows_object_webhook_and_reason(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_delivery(webhook, event=make_site_event(12, "AMS1", action="created"))
        shown = page(admin_client, DELIVERIES)
        for text in ("AMS1", "dcim.site 12", "created", "CMDB", "HTTP 503 Service Unavailable", "wh-failed"):
            assert text in shown

    def test_it_shows_the_next_attempt(self, admin_client: Client, webhook: Webhook) -> None:
        later = timezone.now() + timedelta(minutes=10, seconds=5)
        make_site_delivery(webhook, State.PENDING, due_at=later)
        assert "in 10 min" in page(admin_client, DELIVERIES)
        Webhook.objects.update(enabled=False)
        assert "webhook is disabled" in page(admin_client, DELIVERIES)

    @pytest.mark.cost
    def test_the_number_of_queries_does_not_grow(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 2)
        page(admin_client, DELIVERIES)
        few = len(statements(admin_client, DELIVERIES))
        make_site_deliveries(make_webhook(Site), 10)
        assert len(statements(admin_client, DELIVERIES)) == few

    def test_the_count_has_a_limit(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_deliveries(webhook, 51)
        counts = [sql for sql in statements(admin_client, DELIVERIES) if "COUNT(" in sql]
        assert len(counts) == 1
        assert f"LIMIT {TOTAL_CAP + 1}" in counts[0]
        assert "51 deliveries" in page(admin_client, DELIVERIES)

    def test_it_is_filtered(self, admin_client: Client, webhook: Webhook) -> None:
        wanted = make_site_delivery(webhook, event=make_site_event(1, "wanted", username="ann", request_id="r-1"))
        make_attempt(wanted, number=2)
        long_ago = first_id(datetime(2025, 12, 31, tzinfo=UTC))
        unwanted = make_site_event(2, "unlike", object_type="dcim.device", action="created")
        make_site_delivery(make_webhook(Site), State.SUCCEEDED, unwanted, id=long_ago)
        for query in (
            {"state": "failed"},
            {"error_kind": "http_503"},
            {"webhook": webhook.pk},
            {"object_type": "dcim.site"},
            {"object_type": "dcim.site", "object_id": "1"},
            {"action": "updated"},
            {"user": "ann"},
            {"request_id": "r-1"},
            {"status": "503"},
            {"within": "hour"},
            {"created_after": "2026-01-01T00:00"},
            {"state": "failed", "webhook": webhook.pk, "action": "updated", "user": "ann", "error_kind": "http_503"},
        ):
            shown = page(admin_client, DELIVERIES, **query)
            assert ("wanted" in shown, "unlike" in shown) == (True, False), query

    def test_a_time_is_in_the_zone_of_the_site_and_the_form_says_which(
        self, admin_client: Client, webhook: Webhook, settings: Any
    ) -> None:
        settings.TIME_ZONE = "Australia/Lord_Howe"
        moment = timezone.localtime(to_utc(make_site_delivery(webhook).created))
        asked = f"{moment - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}"
        shown = page(admin_client, f"{DELIVERIES}?created_after={asked}")
        assert "1 delivery<" in shown
        assert ">From (Australia/Lord_Howe):</label>" in shown
        assert f"{asked.replace('T', ' ')} {moment.tzname()} <" in shown
        assert "0 deliveries<" in page(admin_client, f"{DELIVERIES}?created_before={asked}")

    def test_it_offers_the_errors_that_some_delivery_has(self, admin_client: Client, webhook: Webhook) -> None:
        for kind in (ErrorKind.REFUSED, ErrorKind.HTTP_503, ErrorKind.REFUSED):
            make_site_delivery(webhook, error_kind=kind)
        make_site_delivery(webhook, State.SUCCEEDED)
        assert Delivery.objects.error_kinds() == {ErrorKind.REFUSED, ErrorKind.HTTP_503}
        shown = page(admin_client, DELIVERIES, error_kind="closed")
        offered = {kind for kind in ErrorKind if f'<option value="{kind}"' in shown}
        assert offered == {"refused", "http_503", "closed"}, "the chosen one stays"

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

    def test_a_search_for_an_id_keeps_to_the_other_filters(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, State.FAILED)
        found = [
            page(admin_client, DELIVERIES, q=str(delivery.pk), state=state) for state in ("failed", "open", "succeeded")
        ]
        assert ["1 delivery<" in shown for shown in found] == [True, False, False]


class TestOneDelivery:
    def test_its_heading_and_title_name_object_action_and_webhook(self, admin_client: Client) -> None:
        delivery = make_site_delivery(make_webhook(Site, name="CMDB sync"), event=make_site_event(12, "Amsterdam AMS1"))
        shown = page(admin_client, change_of(delivery))
        name = "Amsterdam AMS1 updated → CMDB sync"
        assert f"<h1>{name}</h1>" in shown
        assert re.search(rf"<title>\s*{name} \|", shown)

    def test_it_shows_request_and_answer(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "Zürich", username="jstretch", data='{"id":12,"name":"Z\\u00fcrich"}')
        delivery = make_site_delivery(webhook, event=event)
        body = payloads.json_body(Event.objects.get(pk=event.pk))
        make_attempt(
            delivery,
            method="PUT",
            request_headers={"X-Request": "of it", "Authorization": REDACTED},
            body_kind=BodyKind.PAYLOAD,
            body_sha256=hashlib.sha256(body).hexdigest(),
            response_headers={"Server": "nginx"},
            response_body="Sorry & bye",
            worker="w-1",
        )
        shown = page(admin_client, change_of(delivery))
        for text in (
            "Zürich",
            "jstretch",
            "47 ms",
            "503",
            "<code>PUT</code> http://127.0.0.1:1/",
            "X-Request",
            "of it",
            f"Body: {len(body)} bytes, from the payload as JSON",
            "nginx",
            "Sorry &amp; bye",
            "w-1",
            str(delivery.pk),
        ):
            assert text in shown
        assert '<span class="s2">&quot;Zürich&quot;</span>' in shown  # the body, to read
        assert "&quot;name&quot;:&quot;Z\\u00fcrich&quot;" in shown  # for curl, byte for byte
        assert "Authorization: &#x27;&quot;${AUTHORIZATION}&quot;" in shown

    def test_a_form_is_shown_as_a_form(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        body = payloads.form_body(Event.objects.get())
        make_attempt(delivery, body_kind=BodyKind.FORM, body_sha256=hashlib.sha256(body).hexdigest())
        assert "event=updated&amp;timestamp=" in page(admin_client, change_of(delivery))

    @pytest.mark.parametrize(
        ("state", "fields", "said"),
        [
            (State.PENDING, {}, "There was no attempt yet. This will be sent:"),
            (State.DISCARDED, {}, "It was discarded before an attempt. This was not sent:"),
            (State.PENDING, {"body_template": "x"}, "The template will make the body from this payload:"),
            (State.DISCARDED, {"body_template": "x"}, "The template would have made the body from this payload:"),
        ],
    )
    def test_before_an_attempt_it_says_what_becomes_of_the_payload(
        self, admin_client: Client, state: State, fields: dict[str, str], said: str
    ) -> None:
        delivery = make_site_delivery(make_webhook(Site, **fields), state)
        shown = page(admin_client, change_of(delivery))
        assert said in shown
        assert "&quot;AMS1&quot;" in shown

    def test_before_an_attempt_a_form_is_shown_as_a_form(self, admin_client: Client) -> None:
        form = {"content_type": "application/x-www-form-urlencoded"}
        sent = make_site_delivery(make_webhook(Site, **form), State.PENDING)
        assert "event=updated&amp;timestamp=" in page(admin_client, change_of(sent))
        templated = make_site_delivery(make_webhook(Site, **form, body_template="x"), State.PENDING)
        assert "&quot;AMS1&quot;" in page(admin_client, change_of(templated)), "a template gets the payload itself"

    def test_a_discarded_one_shows_no_remedy(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, State.FAILED, error_kind="http_503")
        assert "look at its load" in page(admin_client, change_of(delivery))
        Delivery.objects.filter(pk=delivery.pk).discard()
        assert "look at its load" not in page(admin_client, change_of(delivery))

    def test_it_shows_one_attempt_at_a_time_with_links_to_the_others(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        delivery = make_site_delivery(webhook, attempt_count=3)
        for number, body in enumerate(("<first>", "other", "<last>"), 1):
            digest = hashlib.sha256(body.encode()).hexdigest()
            Body.objects.create(delivery=delivery, sha256=digest, content=zlib.compress(body.encode()))
            make_attempt(delivery, number=number, body_kind=BodyKind.TEMPLATE, body_sha256=digest)
        shown = page(admin_client, change_of(delivery))
        assert "&lt;last&gt;" in shown
        assert "6 bytes, from the body template" in shown
        assert "Attempt 3 of 3" in shown
        first = page(admin_client, change_of(delivery), attempt="1")
        assert "Attempt 1 of 3" in first
        assert "&lt;first&gt;" in first
        assert "&lt;last&gt;" not in first
        for text, links in ((shown, {1: 1, 2: 2, 3: 1}), (first, {1: 1, 2: 2, 3: 1})):
            assert {number: text.count(f'href="?attempt={number}#attempt"') for number in links} == links
        for unknown in ("4", "nonsense", "9" * 30):
            assert "Attempt 3 of 3" in page(admin_client, change_of(delivery), attempt=unknown)

    def test_a_pending_one_shows_its_next_attempt(self, admin_client: Client, webhook: Webhook) -> None:
        later, earlier = (timezone.now() + timedelta(hours=hours) for hours in (2, -2))
        delivery = make_site_delivery(webhook, State.PENDING, due_at=later, reason="HTTP 503")
        assert "The last attempt failed: <strong>HTTP 503" in page(admin_client, change_of(delivery))
        assert "in 2 h" in page(admin_client, change_of(delivery))
        Delivery.objects.update(error_kind="http_503")
        make_attempt(delivery, error_kind="http_404")
        shown = page(admin_client, change_of(delivery))
        assert "http://127.0.0.1:1 is overloaded, or down for maintenance. Wait for the receiver" in shown
        assert "Correct the path in the webhook&#x27;s URL." in shown
        QueuedDelivery.objects.update(due_at=earlier)
        assert "It is due now." in page(admin_client, change_of(delivery))
        Webhook.objects.update(probe_at=later)
        shown = page(admin_client, change_of(delivery))
        assert "It waits because the webhook is paused." in shown
        assert "due now" not in shown

    @pytest.mark.parametrize(("due", "seconds"), [(5, 2), (-19, 2), (-100, 10), (-86_400, 60), (60, None)])
    def test_it_refreshes_itself_more_seldom_the_longer_an_attempt_is_due(
        self, admin_client: Client, webhook: Webhook, due: int, seconds: int | None
    ) -> None:
        due_at = timezone.now() + timedelta(seconds=due)
        shown = page(admin_client, change_of(make_site_delivery(webhook, State.PENDING, due_at=due_at)))
        assert re.findall(r"load delay:(\d+)s", shown) == ([str(seconds)] if seconds else [])

    def test_text_from_elsewhere_is_escaped(self, admin_client: Client) -> None:
        webhook = make_webhook(Site, name=f"hook {NASTY}", url=f"https://x.example/?{NASTY}")
        event = make_site_event(
            NASTY, NASTY, username=NASTY, request_id=NASTY, data=f'{{"a":"{NASTY[8:14]}"}}', request=f'"{NASTY[:8]}"'
        )
        delivery = make_site_delivery(webhook, event=event, reason=NASTY)
        digest = hashlib.sha256(NASTY.encode()).hexdigest()
        Body.objects.create(delivery=delivery, sha256=digest, content=zlib.compress(NASTY.encode()))
        make_attempt(
            delivery,
            request_headers={NASTY: NASTY},
            body_kind=BodyKind.TEMPLATE,
            body_sha256=digest,
            response_headers={NASTY: NASTY},
            response_body=NASTY,
            worker=NASTY,
        )
        broken = make_site_event(2, NASTY, error=NASTY, data="")
        status = reverse("webhooks_backend_status")
        for address in (DELIVERIES, EVENTS, WEBHOOKS, status, *map(change_of, (delivery, event, broken, webhook))):
            shown = page(admin_client, address)
            assert NASTY not in shown, address
            assert "<script>alert" not in shown, address
            assert ESCAPED in shown, address

    def test_it_shows_the_change_as_a_comparison(self, admin_client: Client, webhook: Webhook) -> None:
        before = {"status": "active", "tags": ["core", "eu"], "owner": {"team": "net", "floor": 1}}
        after = {"status": "retired", "tags": ["eu", "new"], "owner": {"team": "noc", "floor": 1}}
        event = make_site_event(
            username="jstretch",
            changed='["owner", "status", "tags"]',
            snapshots=json.dumps({"prechange": before, "postchange": after}),
            request='{"method": "PATCH", "path": "/api/dcim/sites/1/"}',
            request_id="r-1",
        )
        make_site_event(2, request_id="r-1")
        shown = page(admin_client, change_of(make_site_delivery(webhook, event=event)))
        table = " ".join(shown.split())
        arrow = '<span class="wh-arrow" aria-hidden="true">→</span>'
        assert f"status</th> <td> <del>active</del> {arrow} <ins>retired" in table
        assert '<del>core</del> <ins class="wh-new">new</ins> <span class="wh-quiet">1 more stayed</span>' in table
        assert "owner.team</th>" in shown
        assert "owner.floor</th>" not in shown
        assert "PATCH /api/dcim/sites/1/" in shown
        assert f'href="{reverse("admin:dcim_site_change", args=[1])}">AMS1</a>' in shown
        assert f'href="{EVENTS}?request_id=r-1">request r-1</a> <span class="wh-quiet"> 2 events </span>' in table

    def test_without_snapshots_it_shows_the_names_of_the_changed_fields(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        delivery = make_site_delivery(webhook, event=make_site_event(changed='["name", "status"]'))
        assert "Changed fields: name, status" in page(admin_client, change_of(delivery))
        other = json.dumps({"brief": {"webhooks": [webhook.pk], "data": "{}", "snapshots": "", "changed": '["slug"]'}})
        delivery = make_site_delivery(webhook, event=make_site_event(2, changed='["name"]', serializers=other))
        assert "Changed fields: slug" in page(admin_client, change_of(delivery))
        unknown = make_site_delivery(webhook)
        assert "The values before are unknown" in page(admin_client, change_of(unknown))
        test = make_site_delivery(webhook, event=make_site_event(3, action=PING))
        assert "The values before are unknown" not in page(admin_client, change_of(test))

    def test_it_leads_to_the_changes_of_the_object_before_and_after(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        first, second, third = (make_site_delivery(webhook) for _ in range(3))
        make_site_delivery(make_webhook(Site))
        shown = page(admin_client, change_of(second))
        assert f'rel="prev" href="{change_of(first)}"' in shown
        assert f'rel="next" href="{change_of(third)}"' in shown
        assert 'rel="next"' not in page(admin_client, change_of(third))

    def test_it_shows_the_head_that_follows_it(self, admin_client: Client, webhook: Webhook) -> None:
        failed, head = make_site_delivery(webhook), make_site_delivery(webhook, State.PENDING)
        shown = page(admin_client, change_of(failed))
        assert f'The next one to be sent: <a href="{change_of(head)}">AMS1 updated</a>' in shown

    @pytest.mark.usefixtures("in_utc")
    def test_the_times_of_attempts_have_a_zone(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        started = make_attempt(delivery).started_at
        assert f"{started:%Y-%m-%d %H:%M:%S} UTC ·" in page(admin_client, change_of(delivery))

    def test_it_shows_its_place_in_the_lane(self, admin_client: Client, webhook: Webhook) -> None:
        head = make_site_delivery(webhook, State.PENDING, reason="HTTP 500", attempt_count=1)
        first, second, third = (make_site_delivery(webhook, State.WAITING) for _ in range(3))
        make_site_delivery(webhook, State.WAITING, make_site_event(2))
        shown = " ".join(page(admin_client, change_of(second)).split())
        assert "#3: this delivery" in shown
        assert f'#1 <a href="{change_of(head)}">AMS1 updated</a>' in shown
        assert "HTTP 500" in shown
        assert f'<a href="{change_of(third)}">AMS1 updated</a>' in shown
        assert "1 delivery waits behind it." in shown
        assert "#1: this delivery" in page(admin_client, change_of(head))
        assert "It holds up no other change of this object" in page(
            admin_client, change_of(make_site_delivery(webhook, event=make_site_event(3)))
        )
        assert change_of(first) in page(admin_client, change_of(head))

    def test_counts_of_a_lane_have_a_limit(
        self, admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (counts, delivery_page):
            monkeypatch.setattr(module, "EACH_CAP", 2)
        head, *waiting = [make_site_delivery(webhook, state) for state in (State.PENDING, *[State.WAITING] * 4)]
        assert "2+ deliveries wait behind it" in page(admin_client, change_of(head))
        assert "#2+: this delivery" in page(admin_client, change_of(waiting[-1]))
        assert "#2: this delivery" in page(admin_client, change_of(waiting[0]))

    @pytest.mark.cost
    def test_attempts_and_lane_do_not_add_queries(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook, State.PENDING)
        make_attempt(delivery)
        make_site_delivery(webhook, State.WAITING)
        page(admin_client, change_of(delivery))
        few = len(statements(admin_client, change_of(delivery)))
        for _ in range(20):
            make_attempt(delivery)
            make_site_delivery(webhook, State.WAITING)
        assert len(statements(admin_client, change_of(delivery))) == few

    def test_only_its_own_event_is_loaded_with_its_data(self, admin_client: Client, webhook: Webhook) -> None:
        _, head, waiting = (
            make_site_delivery(webhook, state) for state in (State.FAILED, State.PENDING, State.WAITING)
        )
        for delivery in (head, waiting):
            ran = statements(admin_client, change_of(delivery))
            assert len([sql for sql in ran if '"rq_webhooks_event"."data"' in sql]) == 1

    def test_an_unknown_one_is_not_found(self, admin_client: Client, webhook: Webhook) -> None:
        address = reverse("admin:rq_webhooks_delivery_change", args=[new_id()])
        assert "doesn" in admin_client.get(address, follow=True).content.decode()
        assert admin_client.post(reverse("admin:rq_webhooks_delivery_retry", args=["nonsense"])).status_code == 404


class TestRetryAndDiscard:
    def test_a_button_retries_one(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        assert do("retry", delivery) in page(admin_client, change_of(delivery))
        assert messages_after(admin_client, do("retry", delivery)) == ["1 delivery will be sent again."]
        delivery.refresh_from_db()
        assert delivery.state == State.PENDING
        entry = LogEntry.objects.get()
        assert (entry.object_id, entry.change_message) == (str(delivery.pk), "Retried.")

    def test_the_list_has_the_button_for_a_delivery_between_attempts_too(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        later = timezone.now() + timedelta(hours=1)
        waits = make_site_delivery(webhook, State.PENDING, make_site_event(1), attempt_count=1, due_at=later)
        make_site_delivery(webhook, State.PENDING, make_site_event(2))
        buttons = re.findall(r'formaction="([^"]+)"[^>]*>(Retry[^<]*)<', page(admin_client, DELIVERIES))
        assert buttons == [(f"{waits.pk}/retry/", "Retry now")]

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
        another = make_site_event("another", "another site")
        chosen = [*make_site_deliveries(webhook, 3), make_site_delivery(webhook, State.SUCCEEDED, another)]
        ids = [delivery.pk for delivery in chosen]
        assert messages_after(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids) == [
            "3 deliveries will be sent again. "
            "Skipped 1: only failed, discarded or pending deliveries can be retried, and none of a deleted webhook."
        ]
        assert LogEntry.objects.count() == 3

    def test_superseded_ones_are_marked_and_sent_by_their_own_button_only(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        old = make_site_delivery(webhook)
        make_site_delivery(webhook, State.SUCCEEDED)
        assert page(admin_client, DELIVERIES).count(">superseded<") == 1
        shown = page(admin_client, change_of(old))
        assert "The receiver has a later state of this object." in shown
        assert messages_after(admin_client, DELIVERIES, action="retry_chosen", _selected_action=[old.pk]) == [
            "It leaves out 1 superseded delivery: its receiver has a later state of the object."
        ]
        assert messages_after(admin_client, do("retry", old)) == ["1 delivery will be sent again."]

    def test_many_are_discarded(self, admin_client: Client, webhook: Webhook) -> None:
        chosen = [
            make_site_delivery(webhook),
            make_site_delivery(webhook, State.SUCCEEDED),
            make_site_delivery(webhook, State.SENDING),
        ]
        ids = [delivery.pk for delivery in chosen]
        asked = admin_client.post(DELIVERIES, {"action": "discard_chosen", "_selected_action": ids}).content.decode()
        assert '<h1 id="wh-question">Discard 1 delivery of CMDB?</h1>' in asked
        assert "2 of the chosen deliveries stay as they are" in asked
        assert QueuedDelivery.objects.count() == 2
        chosen = {"action": "discard_chosen", "_selected_action": ids, "confirmed": "1"}
        assert messages_after(admin_client, DELIVERIES, **chosen) == [
            "1 delivery discarded. "
            "Skipped 2: finished deliveries, and deliveries that a worker is sending, cannot be discarded."
        ]

    def test_a_lane_is_retried_in_its_order(self, admin_client: Client, webhook: Webhook) -> None:
        ids = [make_site_delivery(webhook).pk for _ in range(3)]
        messages_after(admin_client, DELIVERIES, action="retry_chosen", _selected_action=ids[::-1])
        assert list(Delivery.objects.order_by("event_id").values_list(STATE, flat=True)) == [
            "pending",
            "waiting",
            "waiting",
        ]

    def test_deliveries_cannot_be_added_changed_or_deleted(self, admin_client: Client, webhook: Webhook) -> None:
        delivery = make_site_delivery(webhook)
        assert admin_client.get(reverse("admin:rq_webhooks_delivery_add")).status_code == 403
        assert admin_client.post(change_of(delivery), {"state": "succeeded"}).status_code == 403
        assert admin_client.post(reverse("admin:rq_webhooks_delivery_delete", args=[delivery.pk])).status_code == 403
