"""The list of deliveries in NetBox, the page of one, and its acts."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone
from extras.models import SavedFilter

from core.models import ObjectType
from dcim.models import Site
from tests.support.makers import (
    make_attempt,
    make_delivery,
    make_site_deliveries,
    make_site_delivery,
    make_site_event,
    make_webhook,
)
from tests.support.netbox_pages import address, messages, queries_of, rows, shown
from tests.support.netbox_users import browser, grant, make_user
from webhooks.models import Delivery, Run, State, Webhook

VIEW = ("view_delivery", "dcim.view_site", "view_webhook")

pytestmark = pytest.mark.django_db


@pytest.fixture
def webhook() -> Webhook:
    return make_webhook(Site, name="CMDB")


@pytest.fixture
def lists() -> str:
    return address("delivery_list")


def states() -> set[str]:
    return {one.state for one in Delivery.objects.for_detail()}


def test_a_row_has_state_object_webhook_and_last_error(admin_client: Client, webhook: Webhook, lists: str) -> None:
    make_site_delivery(webhook, event=make_site_event(7, "AMS1"))
    [row] = rows(shown(admin_client, lists))
    assert row.startswith("failed AMS1 dcim.site 7 updated CMDB 2")
    assert "503" in row
    assert row.endswith("Retry")


def test_a_delivery_between_attempts_has_the_button_too(admin_client: Client, webhook: Webhook, lists: str) -> None:
    later = timezone.now() + timedelta(hours=1)
    waits = make_site_delivery(webhook, State.PENDING, make_site_event(7, "AMS1"), attempt_count=1, due_at=later)
    make_site_delivery(webhook, State.PENDING, make_site_event(8, "BER1"))
    buttons = re.findall(r'formaction="([^"]+)"[^>]*>(Retry[^<]*)<', shown(admin_client, lists))
    assert (address("delivery_retry", waits.pk), "Retry now") in buttons
    assert [text for _url, text in buttons].count("Retry now") == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"state": "failed"}, {"failed"}),
        ({"state": "open"}, {"pending"}),
        ({"error_kind": "http_503"}, {"failed"}),
        ({"q": "BER"}, {"succeeded"}),
        ({"q": "dcim.site:1"}, {"failed"}),
        ({"object_type": "dcim.site", "action": "updated"}, {"failed", "pending", "succeeded"}),
        ({"within": "hour"}, {"failed", "pending", "succeeded"}),
        ({"created_before": "2020-01-01T00:00:00"}, set()),
    ],
)
def test_the_filters_are_those_of_the_core(
    admin_client: Client, webhook: Webhook, lists: str, query: dict[str, str], found: set[str]
) -> None:
    make_site_delivery(webhook, event=make_site_event(1, "AMS1"))
    make_site_delivery(webhook, State.PENDING, make_site_event(2, "AMS2"))
    make_site_delivery(webhook, State.SUCCEEDED, make_site_event(3, "BER1"))
    assert {row.split()[0] for row in rows(shown(admin_client, lists, **query))} == found


def test_an_active_filter_can_be_removed(admin_client: Client, webhook: Webhook, lists: str) -> None:
    page = shown(admin_client, lists, state="failed", webhook=webhook.pk)
    assert re.search(rf'href="\?webhook={webhook.pk}"[^>]*>.*State: failed', page, re.DOTALL)


def test_filters_are_saved_and_used_again(admin_client: Client, webhook: Webhook, lists: str) -> None:
    make_site_delivery(webhook)
    make_site_delivery(webhook, State.SUCCEEDED, make_site_event(2, "AMS2"))
    page = shown(admin_client, lists, state="failed", per_page=25)
    [address] = re.findall(r'href="(/extras/saved-filters/add/[^"]+)"', page)
    given = parse_qs(urlsplit(unescape(address)).query)
    assert json.loads(given["parameters"][0]) == {"state": ["failed"]}
    saved = {"name": "Broken", "slug": "broken", "weight": 100, "enabled": "on", "shared": "on"}
    saved |= {"object_types": given["object_types"], "parameters": given["parameters"][0]}
    assert admin_client.post("/extras/saved-filters/add/", saved).status_code == 302
    SavedFilter.objects.create(name="Mine", slug="mine", shared=False, user=make_user(), parameters={})
    page = shown(admin_client, lists)
    assert "saved-filters/add/?" not in page, "there are no filters to save"
    [(address, name)] = re.findall(r'class="dropdown-item" href="(\?[^"]*)">([^<]*)</a>', page)
    assert (address, name) == ("?state=failed", "Broken")
    assert {row.split()[0] for row in rows(shown(admin_client, lists + address))} == {"failed"}


def test_a_user_without_permission_for_saved_filters_sees_none(client: Client, webhook: Webhook, lists: str) -> None:
    shared = SavedFilter.objects.create(name="Broken", slug="broken", parameters={"state": ["failed"]})
    shared.object_types.set([ObjectType.objects.get_for_model(Delivery)])
    client.force_login(make_user("view_delivery", "view_webhook", "dcim.view_site"))
    page = shown(client, lists, state="failed")
    assert "Broken" not in page
    assert "saved-filters/add/?" not in page


def test_a_submitted_filter_form_leaves_a_short_address(admin_client: Client, lists: str) -> None:
    answer = admin_client.get(f"{lists}?q=&state=failed&webhook=&within=")
    assert answer.headers["Location"] == f"{lists}?state=failed"


def test_an_unknown_filter_is_named_and_left_out(admin_client: Client, lists: str) -> None:
    answer = admin_client.get(lists, {"colour": "red", "state": "failed"}, follow=True)
    assert answer.redirect_chain == [(f"{lists}?state=failed", 302)]
    assert messages(answer) == ["This list has no filter “colour”, so the address was changed."]


def test_pages_go_from_new_rows_to_old_ones_and_back(admin_client: Client, webhook: Webhook, lists: str) -> None:
    make_site_deliveries(webhook, 30)
    first = shown(admin_client, lists, per_page=25)
    assert len(rows(first)) == 25
    [older] = set(re.findall(r'rel="next" href="([^"]+)"', first))
    second = shown(admin_client, lists + older.replace("&amp;", "&"))
    assert len(rows(second)) == 5
    assert not {*rows(first)} & {*rows(second)}
    assert "Newest" in second
    assert "30 deliveries" in first


def test_quick_search_gets_the_rows_alone(admin_client: Client, webhook: Webhook, lists: str) -> None:
    make_site_delivery(webhook, event=make_site_event(1, "AMS1"))
    make_site_delivery(webhook, event=make_site_event(2, "BER1"))
    headers = {"HX-Request": "true", "HX-Trigger": "quicksearch"}
    part = admin_client.get(f"{lists}?before=00000000-0000-0000-0000-000000000000&q=AMS", headers=headers).text
    assert [row.split()[1] for row in rows(part)] == ["AMS1"], "a search begins at the newest row"
    assert "<html" not in part
    assert "/deliveries/retry/?q=AMS" in part, "the buttons act on what is shown"


def test_the_rows_of_a_page_are_exported_as_text(admin_client: Client, webhook: Webhook, lists: str) -> None:
    make_site_delivery(webhook, event=make_site_event(7, "A & B"))
    answer = admin_client.get(lists, {"export": "table"})
    text = b"".join(answer.streaming_content).decode() if answer.streaming else answer.text
    header, row = text.splitlines()
    assert header == "State,Object,Action,Webhook,Attempts,Created"
    assert row.startswith("failed,A & B dcim.site 7,updated,CMDB,2 ")


def test_a_page_costs_as_many_queries_with_fifty_rows_as_with_ten(
    admin_client: Client, webhook: Webhook, lists: str
) -> None:
    make_site_deliveries(webhook, 10)
    few = queries_of(admin_client, lists)
    make_site_deliveries(webhook, 40)
    assert len(rows(shown(admin_client, lists))) == 50
    assert queries_of(admin_client, lists) == few


# Rights


def test_a_user_without_permission_gets_no_list_and_no_page(webhook: Webhook, lists: str) -> None:
    delivery = make_site_delivery(webhook)
    client = browser(make_user("dcim.view_site"))
    for url in (lists, address("delivery", delivery.pk)):
        assert client.get(url).status_code == 403
    assert Client().get(lists).status_code == 302, "an anonymous user logs in"


def test_a_user_sees_deliveries_of_permitted_objects_and_webhooks_only(webhook: Webhook, lists: str) -> None:
    mine, theirs = Site.objects.create(name="Mine", slug="mine"), Site.objects.create(name="Theirs", slug="theirs")
    for site in (mine, theirs):
        make_site_delivery(webhook, event=make_site_event(site.pk, site.name))
    user = make_user("view_delivery", "view_webhook")
    client = browser(user)
    assert rows(shown(client, lists)) == []
    grant(user, "dcim.view_site", constraints={"slug": "mine"})
    [row] = rows(shown(client, lists))
    assert "Mine" in row
    hidden = Delivery.objects.get(event__object_repr="Theirs")
    assert client.get(address("delivery", hidden.pk)).status_code == 404


def test_a_user_who_may_only_view_has_no_buttons_and_cannot_act(webhook: Webhook, lists: str) -> None:
    delivery = make_site_delivery(webhook)
    client = browser(make_user(*VIEW))
    assert "/retry/" not in shown(client, lists)
    assert "/retry/" not in shown(client, address("delivery", delivery.pk))
    for url in (address("delivery_retry", delivery.pk), address("delivery_bulk_retry")):
        assert client.post(url, {"pk": [delivery.pk]}).status_code == 403
    assert states() == {State.FAILED}


def test_a_constrained_permission_to_retry_changes_its_rows_alone(webhook: Webhook) -> None:
    other = make_webhook(Site, name="DNS")
    allowed, refused = make_site_delivery(webhook), make_site_delivery(other)
    user = make_user(*VIEW)
    grant(user, "retry_delivery", constraints={"webhook__name": "CMDB"})
    client = browser(user)
    assert client.post(address("delivery_retry", refused.pk)).status_code == 403
    client.post(address("delivery_bulk_retry"), {"pk": [allowed.pk, refused.pk]})
    found = {one.pk: one.state for one in Delivery.objects.for_detail()}
    assert found == {allowed.pk: State.PENDING, refused.pk: State.FAILED}


# Acts


def test_the_button_of_a_row_retries_it(admin_client: Client, webhook: Webhook, lists: str) -> None:
    delivery = make_site_delivery(webhook)
    [url] = re.findall(r'formaction="([^"]+)"[^>]*>Retry<', shown(admin_client, lists))
    answer = admin_client.post(url, {"return_url": f"{lists}?state=failed"}, follow=True)
    assert answer.redirect_chain == [(f"{lists}?state=failed", 302)]
    assert messages(answer) == ["1 delivery will be sent again."]
    assert Delivery.objects.for_detail().get(pk=delivery.pk).state == State.PENDING


def test_a_foreign_address_to_return_to_is_not_followed(admin_client: Client, webhook: Webhook) -> None:
    delivery = make_site_delivery(webhook)
    answer = admin_client.post(address("delivery_retry", delivery.pk), {"return_url": "https://evil.example/"})
    assert answer.headers["Location"] == address("delivery", delivery.pk)


def test_selected_deliveries_are_retried_at_once(admin_client: Client, webhook: Webhook, lists: str) -> None:
    chosen = make_site_deliveries(webhook, 3)
    answer = admin_client.post(address("delivery_bulk_retry"), {"pk": [one.pk for one in chosen[:2]]}, follow=True)
    assert answer.redirect_chain == [(lists, 302)]
    assert messages(answer) == ["2 deliveries will be sent again."]
    assert sorted(one.state for one in Delivery.objects.for_detail()) == ["failed", "pending", "pending"]


def test_an_act_without_a_selection_changes_nothing(admin_client: Client, webhook: Webhook) -> None:
    make_site_delivery(webhook)
    answer = admin_client.post(address("delivery_bulk_discard"), follow=True)
    assert messages(answer) == ["No rows were selected."]
    assert states() == {State.FAILED}


def test_discard_asks_before_it_changes_the_selected_ones(admin_client: Client, webhook: Webhook, lists: str) -> None:
    chosen = [one.pk for one in make_site_deliveries(webhook, 2)]
    url = address("delivery_bulk_discard")
    asked = admin_client.post(url, {"pk": chosen, "return_url": f"{lists}?state=failed"})
    assert "Discard 2 deliveries of CMDB?" in asked.text
    assert states() == {State.FAILED}
    fields = re.findall(r'name="(pk|_confirm|return_url)" value="([^"]+)"', asked.text)
    keys = [value for name, value in fields if name == "pk"]
    assert {*keys} == {str(pk) for pk in chosen}
    assert asked.text.index("site 1 updated") < asked.text.index("site 2 updated"), "the oldest comes first"
    given = {name: value for name, value in fields if name != "pk"}
    done = admin_client.post(url, given | {"pk": keys}, follow=True)
    assert done.redirect_chain == [(f"{lists}?state=failed", 302)]
    assert messages(done) == ["2 deliveries discarded."]
    assert states() == {State.DISCARDED}


def test_an_act_on_all_that_match_asks_with_their_number_and_becomes_a_run(
    admin_client: Client, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.operations.runs.AT_ONCE", 1)
    make_site_deliveries(webhook, 3)
    make_site_delivery(webhook, State.SUCCEEDED, make_site_event(9))
    asked = admin_client.post(f"{address('delivery_bulk_retry')}?state=failed", {"_all": "on"}, follow=True)
    assert asked.redirect_chain == [(f"{address('run_add')}?kind=retry&state=failed", 302)]
    assert "Retry 3 deliveries of CMDB?" in asked.text
    assert not Run.objects.exists()
    [nonce] = re.findall(r'name="nonce" value="([^"]+)"', asked.text)
    begun = admin_client.post(asked.redirect_chain[0][0], {"nonce": nonce}, follow=True)
    run = Run.objects.get()
    assert begun.redirect_chain == [(address("run", run.pk), 302)]
    assert (run.kind, run.filters, run.requested_by) == ("retry", {"state": ["failed"]}, "admin")


def test_few_that_match_are_changed_at_once(admin_client: Client, webhook: Webhook, lists: str) -> None:
    make_site_deliveries(webhook, 3)
    done = admin_client.post(f"{address('run_add')}?kind=retry&state=failed", {"return_url": lists}, follow=True)
    assert done.redirect_chain == [(lists, 302)]
    assert messages(done) == ["3 deliveries will be sent again."]
    assert not Run.objects.exists()


# The page of one


def test_the_page_shows_the_verdict_the_timeline_and_the_attempt(admin_client: Client, webhook: Webhook) -> None:
    delivery = make_site_delivery(webhook, event=make_site_event(7, "AMS1"))
    make_attempt(delivery, response_body="out of order", status=503)
    page = shown(admin_client, address("delivery", delivery.pk))
    for text in ("Failed after 2 attempts", "What to do", "Attempt 1", "HTTP 503", "out of order", str(delivery.pk)):
        assert text in page
    assert address("delivery_retry", delivery.pk) in page
    assert 'data-bs-target="#wh-delivery-discard' in page, "a dialog asks before a discard"


def test_payload_and_answers_are_shown_with_their_permissions_alone(webhook: Webhook) -> None:
    secret = json.dumps({"id": 7, "name": "SECRET-DATA"})
    delivery = make_site_delivery(webhook, event=make_site_event(7, "AMS1", data=secret))
    make_attempt(delivery, response_body="SECRET-ANSWER", request_headers={"X-Token": "SECRET-HEADER"})
    url = address("delivery", delivery.pk)
    viewer = shown(browser(make_user(*VIEW)), url)
    assert "SECRET" not in viewer
    reader = shown(browser(make_user(*VIEW, "read_payload_event")), url)
    assert "SECRET-ANSWER" not in reader
    assert "SECRET-HEADER" not in reader
    changer = shown(browser(make_user(*VIEW, "read_payload_event", "change_webhook")), url)
    assert "SECRET-ANSWER" in changer


def test_a_page_that_waits_for_an_attempt_refreshes_itself(admin_client: Client, webhook: Webhook) -> None:
    sending = make_delivery(webhook, State.SENDING, event=make_site_event())
    assert 'id="wh-now" role="status" hx-get=' in shown(admin_client, address("delivery", sending.pk))
    done = make_site_delivery(webhook, State.SUCCEEDED)
    answer: Any = admin_client.get(address("delivery", done.pk), headers={"HX-Request": "true"})
    assert answer.headers["HX-Refresh"] == "true"
