"""What an admin clicks, from a webhook's definition to the retry of what failed."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from dcim.models import Site
from tests.inbox import Inbox
from tests.makers import make_webhook
from tests.threads import aside
from tests.waiting import until
from tests.workers import Workers
from webhooks.models import Delivery, State, Webhook

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.postgresql]

STATUS = "/admin/webhook-backend-status/"


def test_an_admin_defines_a_webhook_changes_a_site_and_sees_the_delivery(
    page: Page, workers: Workers, inbox: Inbox
) -> None:
    workers.start()
    page.goto("/admin/webhooks/webhook/add/")
    page.fill("#id_name", "To the inventory")
    page.fill("#id_payload_url", inbox.url())
    page.get_by_label("Sites", exact=True).check()
    page.check("#id_on_created")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text("To the inventory")

    page.goto("/admin/dcim/site/add/")
    page.fill("#id_name", "Berlin")
    page.fill("#id_slug", "berlin")
    page.get_by_role("button", name="Save", exact=True).first.click()
    [request] = inbox.wait_for(1)
    assert request.json["data"]["name"] == "Berlin"
    assert request.json["username"] == "admin"

    def shows_a_success() -> bool:
        page.goto(STATUS)
        return "s ago" in page.locator("tr", has_text="To the inventory").inner_text()

    until(shows_a_success, 20, "the status page to tell of the success")


def test_what_failed_is_seen_with_its_reason_and_sent_again_by_a_click(
    page: Page, workers: Workers, inbox: Inbox
) -> None:
    aside(lambda: make_webhook(Site, url=inbox.url("fail-first/1"), name="Fails once"))
    workers.start(RETRY_SCHEDULE=[])
    aside(lambda: Site.objects.create(name="Ghent", slug="ghent"))
    inbox.wait_for(1)

    def shows_the_failure() -> bool:
        page.goto(STATUS)
        return page.locator("tr", has_text="Ghent").count() == 1

    until(shows_the_failure, 20, "the status page to tell of the failure")
    row = page.locator("tr", has_text="Ghent")
    expect(row).to_contain_text("HTTP 503")
    row.get_by_role("button", name="Retry").click()
    expect(page.locator(".messagelist .success")).to_contain_text("1 delivery")
    first, second = inbox.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    until(lambda: aside(lambda: Delivery.objects.get().state) == State.SUCCEEDED, 20, "the delivery to succeed")
    page.goto(STATUS)
    expect(page.locator("tr", has_text="Ghent")).to_have_count(0)


def test_a_webhook_without_a_model_or_an_action_is_refused_in_words(page: Page) -> None:
    page.goto("/admin/webhooks/webhook/add/")
    page.fill("#id_name", "Nothing")
    page.fill("#id_payload_url", "ftp://example.org/")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".errornote")).to_be_visible()
    errors = page.locator(".errorlist").all_inner_texts()
    assert any("http://" in text for text in errors), errors
    assert any("model" in text for text in errors), errors
    assert any("action" in text for text in errors), errors
    assert not aside(lambda: Webhook.objects.exists())


def test_a_secret_is_never_shown_again(page: Page) -> None:
    webhook = aside(lambda: make_webhook(Site, secret="whsec_c2VjcmV0LXRoYXQtaXMtcGxhbnRlZA=="))
    page.goto(f"/admin/webhooks/webhook/{webhook.pk}/change/")
    assert "c2VjcmV0LXRoYXQ" not in page.content()
    page.get_by_role("button", name="Save", exact=True).first.click()
    assert aside(lambda: Webhook.objects.get().secret) == "whsec_c2VjcmV0LXRoYXQtaXMtcGxhbnRlZA=="


def test_all_models_of_an_app_are_chosen_and_left_with_one_click(page: Page) -> None:
    page.goto("/admin/webhooks/webhook/add/")
    dcim = page.locator(".wh-models-app", has_text="DCIM")
    boxes = dcim.locator("input[type=checkbox]")
    dcim.get_by_role("button", name="Select all of DCIM").click()
    expect(dcim.locator("input:checked")).to_have_count(boxes.count())
    expect(page.locator(".wh-models-app input:checked")).to_have_count(boxes.count())
    dcim.get_by_role("button", name="Select none of DCIM").click()
    expect(page.locator(".wh-models-app input:checked")).to_have_count(0)
