"""The lists of events and of skipped changes in NetBox, the page of an event, and replay."""

from __future__ import annotations

import json
import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from dcim.models import Site
from tests.support.makers import make_site_delivery, make_site_event, make_site_skip, make_webhook
from tests.support.netbox_pages import address, messages, queries_of, rows, shown
from tests.support.netbox_users import browser, grant, make_user
from webhooks.models import Event, Run, State, Webhook

pytestmark = pytest.mark.django_db


@pytest.fixture
def webhook() -> Webhook:
    return make_webhook(Site, name="CMDB")


def test_a_row_has_object_outcomes_and_user(admin_client: Client, webhook: Webhook) -> None:
    event = make_site_event(7, "AMS1", username="jane", request_id="4f9a7d2c-0000")
    make_site_delivery(webhook, event=event)
    [row] = rows(shown(admin_client, address("event_list")))
    assert row.startswith("AMS1 dcim.site 7 updated 1 failed jane 4f9a7d2c")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"state": "failed"}, {"BAD1"}),
        ({"state": "recorded"}, {"AMS1", "BER1"}),
        ({"user": "jane"}, {"AMS1"}),
        ({"q": "BER"}, {"BER1"}),
        ({"object_type": "dcim.site", "object_id": "2"}, {"BER1"}),
    ],
)
def test_the_filters_are_those_of_the_core(admin_client: Client, query: dict[str, str], names: set[str]) -> None:
    make_site_event(1, "AMS1", username="jane")
    make_site_event(2, "BER1")
    make_site_event(3, "BAD1", error="Traceback: boom", data="")
    assert {row.split()[0] for row in rows(shown(admin_client, address("event_list"), **query))} == names


def test_lists_cost_as_many_queries_with_fifty_rows_as_with_ten(admin_client: Client, webhook: Webhook) -> None:
    def fill(first: int, last: int) -> None:
        for number in range(first, last):
            make_site_delivery(webhook, event=make_site_event(number, f"site {number}"))
            make_site_skip(webhook, number)

    urls = [address("event_list"), address("skip_list")]
    fill(0, 10)
    few = [queries_of(admin_client, url) for url in urls]
    fill(10, 50)
    assert [len(rows(shown(admin_client, url))) for url in urls] == [50, 50]
    assert [queries_of(admin_client, url) for url in urls] == few


def test_selected_events_are_replayed_with_current_data(admin_client: Client, webhook: Webhook) -> None:
    site = Site.objects.create(name="AMS2", slug="ams2")
    event = make_site_event(site.pk, "AMS1", webhook_ids=[webhook.pk])
    page = shown(admin_client, address("event_list"))
    [opened] = re.findall(r'name="opened_at" value="([^"]+)"', page)
    given = {"pk": [event.pk], "opened_at": opened}
    answer = admin_client.post(address("event_bulk_replay"), given, follow=True)
    assert messages(answer) == ["1 event replayed."]
    replay = Event.objects.get(replay_of=event.pk)
    assert json.loads(replay.data)["name"] == "AMS2"
    again = admin_client.post(address("event_bulk_replay"), given, follow=True)
    assert "it was replayed after this page was opened" in messages(again)[0]


def test_a_replay_of_all_that_match_asks_first_and_becomes_a_run(admin_client: Client) -> None:
    for number in (1, 2):
        site = Site.objects.create(name=f"AMS{number}", slug=f"ams{number}")
        make_site_event(site.pk, site.name, error="Traceback: boom", data="")
    asked = admin_client.post(f"{address('event_bulk_replay')}?state=failed", {"_all": "on"}, follow=True)
    assert "Replay 2 events" in asked.text
    [(url, _status)] = asked.redirect_chain
    admin_client.post(url)
    assert Run.objects.get().filters == {"failed": True}


def test_the_page_shows_change_deliveries_skips_and_data(admin_client: Client, webhook: Webhook) -> None:
    event = make_site_event(7, "AMS1", username="jane", data=json.dumps({"name": "AMS1", "colour": "teal"}))
    delivery = make_site_delivery(webhook, event=event)
    make_site_skip(make_webhook(Site, name="DNS"), 7, timestamp=event.timestamp)
    page = shown(admin_client, address("event", event.pk))
    for text in ("jane", "teal", "Skipped by", "DNS", address("delivery", delivery.pk)):
        assert text in page
    assert address("event_replay", event.pk) in page


def test_the_button_replays_the_event(admin_client: Client, webhook: Webhook) -> None:
    site = Site.objects.create(name="AMS2", slug="ams2")
    event = make_site_event(site.pk, "AMS1", webhook_ids=[webhook.pk])
    answer = admin_client.post(address("event_replay", event.pk), follow=True)
    assert answer.redirect_chain == [(address("event", event.pk), 302)]
    assert messages(answer) == ["1 event replayed."]


def test_an_event_that_failed_shows_its_error(admin_client: Client) -> None:
    event = make_site_event(7, error="Traceback (most recent call last)\nValueError: boom", data="")
    page = shown(admin_client, address("event", event.pk))
    assert "ValueError: boom" in page
    assert "Fix the cause, then replay the event." in page


def test_rights_decide_about_lists_pages_payloads_and_buttons(webhook: Webhook) -> None:
    event = make_site_event(7, "AMS1", data=json.dumps({"name": "SECRET-DATA"}))
    make_site_delivery(webhook, event=event)
    lists, page = address("event_list"), address("event", event.pk)
    for url in (lists, page, address("skip_list")):
        assert browser(make_user("dcim.view_site")).get(url).status_code == 403
    assert rows(shown(browser(make_user("view_event")), lists)) == [], "not without the permission for sites"
    viewer = browser(make_user("view_event", "dcim.view_site"))
    assert len(rows(shown(viewer, lists))) == 1
    text = shown(viewer, page)
    assert "SECRET-DATA" not in text
    assert "You need permission to view deliveries" in text
    assert "/replay/" not in text + shown(viewer, lists)
    assert viewer.post(address("event_replay", event.pk)).status_code == 403
    assert viewer.post(address("event_bulk_replay"), {"pk": [event.pk]}).status_code == 403
    reader = browser(make_user("view_event", "dcim.view_site", "read_payload_event"))
    assert "SECRET-DATA" in shown(reader, page)


def test_a_user_sees_events_of_permitted_objects_only() -> None:
    mine, theirs = Site.objects.create(name="Mine", slug="mine"), Site.objects.create(name="Theirs", slug="theirs")
    for site in (mine, theirs):
        make_site_event(site.pk, site.name)
    user = make_user("view_event")
    grant(user, "dcim.view_site", constraints={"slug": "mine"})
    client = browser(user)
    assert [row.split()[0] for row in rows(shown(client, address("event_list")))] == ["Mine"]
    hidden = Event.objects.get(object_repr="Theirs")
    assert client.get(address("event", hidden.pk)).status_code == 404


# Skips


def test_a_skip_says_why_it_was_not_sent(webhook: Webhook, admin_client: Client) -> None:
    make_site_skip(webhook, 7, actual="SECRET-VALUE")
    [row] = rows(shown(admin_client, address("skip_list")))
    assert row.startswith("AMS1 dcim.site 7 updated CMDB")
    assert "SECRET-VALUE" in row
    viewer = browser(make_user("view_skip", "dcim.view_site", "view_webhook"))
    [row] = rows(shown(viewer, address("skip_list")))
    assert "SECRET-VALUE" not in row


def test_skips_of_a_webhook_lead_to_their_recovery(webhook: Webhook, admin_client: Client) -> None:
    make_site_skip(webhook, 7)
    lists, recover = address("skip_list"), address("webhook_recover_skipped", webhook.pk)
    assert recover not in shown(admin_client, lists)
    assert f"{recover}?hours=168" in shown(admin_client, lists, webhook=webhook.pk)
    page = shown(admin_client, lists, webhook=webhook.pk, within="hour")
    [link] = re.findall(rf'href="({recover}[^"]+)"', page)
    assert "would be" in shown(admin_client, link.replace("&amp;", "&"))


def test_a_skip_filter_by_reason(webhook: Webhook, admin_client: Client) -> None:
    make_site_skip(webhook, 7)
    lists = address("skip_list")
    assert len(rows(shown(admin_client, lists, rule="condition"))) == 1
    assert rows(shown(admin_client, lists, rule="disabled")) == []


def test_a_failed_delivery_counts_as_an_outcome(webhook: Webhook, admin_client: Client) -> None:
    event = make_site_event(7, "AMS1")
    make_site_delivery(webhook, State.SUCCEEDED, event)
    [row] = rows(shown(admin_client, address("event_list")))
    assert "1 succeeded" in row


@pytest.mark.parametrize("name", ["delivery_list", "event_list", "skip_list", "run_list"])
def test_no_list_counts_a_whole_table(admin_client: Client, webhook: Webhook, name: str) -> None:
    make_site_delivery(webhook)
    make_site_skip(webhook)
    url = address(name)
    admin_client.get(url)
    with CaptureQueriesContext(connection) as found:
        admin_client.get(url)
    counts = [one["sql"] for one in found if "COUNT(" in one["sql"] and '"rq_webhooks_' in one["sql"]]
    # One counts up to a cap. One groups the deliveries of the events on the page.
    assert all("LIMIT 10001" in sql or '"event_id" IN (' in sql for sql in counts), counts
