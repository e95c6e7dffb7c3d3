"""The pages of events: list, one event, replay."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from dcim.models import Site
from tests.support.admin_pages import (
    EVENTS,
    change_of,
    messages_after,
    page,
    staff,
    statements,
)
from tests.support.makers import make_site_delivery, make_site_event, make_site_skip, make_webhook
from webhooks.models import Event, State, Webhook
from webhooks.models.event import LOOP_PROTECTION
from webhooks.models.ids import first_id, new_id


class TestEvents:
    def test_one_shows_its_data_and_its_deliveries(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", username="jstretch")
        delivery = make_site_delivery(webhook, event=event)
        shown = page(admin_client, change_of(event))
        for text in ("AMS1", "jstretch", "&quot;AMS1&quot;", change_of(delivery), "CMDB"):
            assert text in shown

    def test_one_shows_which_webhooks_skipped_it(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", request_id="r-1")
        same = {"action": "updated", "timestamp": event.timestamp, "id": first_id(event.timestamp)}
        make_site_skip(make_webhook(Site, name="DNS"), 12, request_id="r-1", **same)
        make_site_skip(make_webhook(Site, name="Chat"), 12, request_id="r-2", **same | {"id": new_id()})
        shown = page(admin_client, change_of(event))
        assert "<dt>DNS</dt><dd>The condition wants status.value" in shown
        assert "Chat" not in shown

    def test_one_shows_a_skip_with_an_id_from_the_begin_of_a_long_transaction(self, admin_client: Client) -> None:
        event = make_site_event(12, "AMS1")
        began = first_id(event.timestamp - timedelta(minutes=1))
        make_site_skip(make_webhook(Site, name="DNS"), 12, timestamp=event.timestamp, id=began)
        assert "<dt>DNS</dt><dd>The condition wants status.value" in page(admin_client, change_of(event))

    def test_failed_filters_are_shown(self, admin_client: Client) -> None:
        failed = make_site_event(1, "AMS1", error="TypeError")
        assert "the filters of a webhook failed" in page(admin_client, change_of(failed))
        Event.objects.update(replayed_at=failed.timestamp)
        assert "No webhook matched then" in page(admin_client, change_of(failed))

    @pytest.mark.parametrize(
        ("fields", "pill", "sentence", "button"),
        [
            ({"data": "", "error": "KeyError"}, "payload failed", "creating the payload failed", "with current data"),
            ({"error": "Undecided"}, "filters failed", "the filters of a webhook failed", "with current data"),
            ({"error": LOOP_PROTECTION}, "loop protection", "the chain is too deep", "as the first of a new chain"),
        ],
    )
    def test_each_kind_of_failure_has_a_label(
        self, admin_client: Client, fields: dict[str, Any], pill: str, sentence: str, button: str
    ) -> None:
        failed = make_site_event(**fields)
        shown = page(admin_client, change_of(failed))
        assert sentence in shown
        assert re.search(rf"<button[^>]*>Replay [^<]*{button}</button>", shown)
        for listed in (shown, page(admin_client, EVENTS)):
            assert f'wh-failed">{pill}</span>' in listed

    def test_the_list_shows_the_kind_of_failure_without_more_queries(self, admin_client: Client) -> None:
        make_site_event(1, error="KeyError")
        few = statements(admin_client, EVENTS)
        make_site_event(2, error="KeyError", data="")
        assert len(statements(admin_client, EVENTS)) == len(few)

    def test_a_failed_one_shows_its_traceback_and_can_be_found(self, admin_client: Client, webhook: Webhook) -> None:
        failed = make_site_event(1, "broken", data="", error="Traceback:\nKeyError: 'name'")
        make_site_event(2, "sound")
        assert "KeyError: &#x27;name&#x27;" in page(admin_client, change_of(failed))
        shown = page(admin_client, EVENTS, state="failed")
        assert "broken" in shown
        assert "sound" not in shown

    def test_the_list_has_a_fixed_number_of_capped_queries(self, admin_client: Client, webhook: Webhook) -> None:
        make_site_event()
        page(admin_client, EVENTS)
        few = statements(admin_client, EVENTS)
        for key in range(20):
            make_site_delivery(webhook, event=make_site_event(key))
        assert len(statements(admin_client, EVENTS)) == len(few)
        assert all("LIMIT" in sql or "GROUP BY" in sql for sql in few if "COUNT(" in sql)

    def test_the_list_and_the_page_say_what_became_of_the_deliveries(
        self, admin_client: Client, webhook: Webhook
    ) -> None:
        event = make_site_event()
        for one, state in (
            (webhook, State.FAILED),
            (make_webhook(Site), State.WAITING),
            (make_webhook(Site), State.PENDING),
        ):
            make_site_delivery(one, state, event)
        for address in (EVENTS, reverse("admin:webhooks_event_change", args=[event.pk])):
            shown = page(admin_client, address)
            assert shown.index("1 failed") < shown.index("2 not sent yet")
            assert "1 failed" not in page(staff("view_event"), address)

    def test_a_replay_sends_current_data(self, admin_client: Client) -> None:
        site = Site.objects.create(name="Lisbon", slug="lis")
        webhook = make_webhook(Site)
        failed = make_site_event(site.pk, "old name", data="", error="KeyError", webhook_ids=[webhook.pk])
        address = reverse("admin:webhooks_event_replay", args=[failed.pk])
        assert address in page(admin_client, change_of(failed))
        assert messages_after(admin_client, address) == ["1 event replayed."]
        made = Event.objects.get(replay_of=failed.pk)
        assert '"Lisbon"' in made.data
        assert change_of(made) in page(admin_client, change_of(failed))
        assert change_of(failed) in page(admin_client, change_of(made))
        assert LogEntry.objects.get().change_message == "Replayed."

    def test_a_refused_replay_says_why(self, admin_client: Client, webhook: Webhook) -> None:
        gone = make_site_event(99, "gone", data="", error="KeyError", webhook_ids=[webhook.pk])
        messages = messages_after(admin_client, EVENTS, action="replay_chosen", _selected_action=[gone.pk])
        assert messages == ["“gone” was not replayed: the object is gone."]

    def test_viewing_does_not_imply_replaying(self, webhook: Webhook) -> None:
        failed = make_site_event(1, error="KeyError")
        assert staff("view_event").post(reverse("admin:webhooks_event_replay", args=[failed.pk])).status_code == 403
