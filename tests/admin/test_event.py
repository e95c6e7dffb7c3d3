"""The pages of events: list, one event, replay."""

from __future__ import annotations

import re
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
from tests.support.makers import make_site_delivery, make_site_event, make_webhook
from webhooks.models import Event, Webhook
from webhooks.models.event import CUT


class TestEvents:
    def test_one_shows_its_data_and_its_deliveries(self, admin_client: Client, webhook: Webhook) -> None:
        event = make_site_event(12, "AMS1", username="jstretch")
        delivery = make_site_delivery(webhook, event=event)
        shown = page(admin_client, change_of(event))
        for text in ("AMS1", "jstretch", "&quot;name&quot;: &quot;AMS1&quot;", change_of(delivery), "CMDB"):
            assert text in shown

    @pytest.mark.parametrize(("changed", "shown"), [('["name","tags"]', "name, tags"), ("[]", "nothing"), ("", None)])
    def test_one_shows_the_changed_fields_if_known(self, admin_client: Client, changed: str, shown: str | None) -> None:
        found = page(admin_client, change_of(make_site_event(12, "AMS1", changed=changed)))
        assert ("<dt>Fields</dt>" in found) == (shown is not None)
        assert shown is None or f"<dt>Fields</dt><dd>{shown}</dd>" in found

    def test_failed_filters_are_shown(self, admin_client: Client) -> None:
        failed = make_site_event(1, "AMS1", error="TypeError", dispatched_at=None)
        assert "the filters of a webhook failed" in page(admin_client, change_of(failed))
        Event.objects.update(dispatched_at=failed.timestamp)
        assert "No webhook matched then" in page(admin_client, change_of(failed))

    @pytest.mark.parametrize(
        ("fields", "pill", "sentence", "button"),
        [
            ({"data": "", "error": "KeyError"}, "payload failed", "creating the payload failed", "with current data"),
            ({"error": "Undecided"}, "filters failed", "the filters of a webhook failed", "with current data"),
            ({"error": f"{CUT}depth 4"}, "loop protection", "the chain is too deep", "as the first of a new chain"),
        ],
    )
    def test_each_kind_of_failure_has_a_label(
        self, admin_client: Client, fields: dict[str, Any], pill: str, sentence: str, button: str
    ) -> None:
        failed = make_site_event(dispatched_at=None, **fields)
        shown = page(admin_client, change_of(failed))
        assert sentence in shown
        assert re.search(rf"<button[^>]*>Replay [^<]*{button}</button>", shown)
        for listed in (shown, page(admin_client, EVENTS)):
            assert f'wh-failed">{pill}</span>' in listed

    def test_the_list_shows_the_kind_of_failure_without_more_queries(self, admin_client: Client) -> None:
        make_site_event(1, dispatched_at=None, error="KeyError")
        few = statements(admin_client, EVENTS)
        make_site_event(2, dispatched_at=None, error="KeyError", data="")
        assert len(statements(admin_client, EVENTS)) == len(few)

    def test_a_failed_one_shows_its_traceback_and_can_be_found(self, admin_client: Client, webhook: Webhook) -> None:
        failed = make_site_event(1, "broken", data="", error="Traceback:\nKeyError: 'name'", dispatched_at=None)
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
        assert all("LIMIT" in sql for sql in few if "COUNT(" in sql)

    def test_a_replay_sends_current_data(self, admin_client: Client) -> None:
        site = Site.objects.create(name="Lisbon", slug="lis")
        webhook = make_webhook(Site)
        failed = make_site_event(
            site.pk, "old name", data="", error="KeyError", dispatched_at=None, webhook_ids=[webhook.pk]
        )
        address = reverse("admin:webhooks_event_replay", args=[failed.pk])
        assert address in page(admin_client, change_of(failed))
        assert messages_after(admin_client, address) == ["1 event replayed."]
        made = Event.objects.get(replay_of=failed.pk)
        assert '"Lisbon"' in made.data
        assert change_of(made) in page(admin_client, change_of(failed))
        assert change_of(failed) in page(admin_client, change_of(made))
        assert LogEntry.objects.get().change_message == "Replayed."

    def test_a_refused_replay_says_why(self, admin_client: Client, webhook: Webhook) -> None:
        gone = make_site_event(99, "gone", data="", error="KeyError", dispatched_at=None, webhook_ids=[webhook.pk])
        messages = messages_after(admin_client, EVENTS, action="replay_chosen", _selected_action=[gone.pk])
        assert messages == ["“gone” was not replayed: the object is gone."]

    def test_viewing_does_not_imply_replaying(self, webhook: Webhook) -> None:
        failed = make_site_event(1, error="KeyError", dispatched_at=None)
        assert staff("view_event").post(reverse("admin:webhooks_event_replay", args=[failed.pk])).status_code == 403
