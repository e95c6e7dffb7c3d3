"""Lists and runs in the browser, on a phone and on a laptop."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from dcim.models import Site
from tests.support.browsing import copy
from tests.support.makers import make_attempt, make_site_deliveries, make_site_delivery, make_site_event, make_webhook
from webhooks.models import Event, Run, RunState, State

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.postgresql]

FAILED = "/admin/rq_webhooks/delivery/?state=failed"


def test_all_that_match_become_a_run_with_a_progress_that_refreshes_itself(page: Page) -> None:
    webhook = make_webhook(Site, name="CMDB sync")
    make_site_deliveries(webhook, 120)

    # On a phone, the first delivery and its Retry are in view.
    page.set_viewport_size({"width": 375, "height": 812})
    page.goto(FAILED)
    retry = page.locator("#result_list tbody tr").first.get_by_role("button", name="Retry")
    box = retry.bounding_box()
    assert box
    assert box["x"] + box["width"] <= 375
    assert box["y"] + box["height"] <= 812
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    expect(page.locator("#filter_user")).to_be_hidden()

    # On a laptop, each row takes one line.
    page.set_viewport_size({"width": 1366, "height": 768})
    heights = page.locator("#result_list tbody tr").evaluate_all("rows => rows.map(row => row.offsetHeight)")
    assert max(heights) < 40
    page.get_by_text("Filters (1)").click()
    page.locator("#filter_webhook").select_option("CMDB sync")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile(rf"state=failed&webhook={webhook.pk}$"))

    page.locator("#action-toggle").check()
    page.get_by_role("button", name="Select all that match").click()
    page.locator("#changelist-form select[name=action]").select_option("Discard the selected deliveries")
    page.locator("#changelist-form .actions").get_by_role("button").first.click()  # "Go", since Django 6.0 "Run"
    expect(page.get_by_role("heading", name="Discard 120 deliveries of CMDB sync?")).to_be_visible()
    page.get_by_role("button", name="Discard").click()

    progress = page.locator("#run-progress")
    expect(progress).to_contain_text("Counting")
    run = Run.objects.get()
    Run.objects.update(total=120, done=60)
    expect(progress).to_contain_text("60 of 120")
    page.reload()
    expect(page.get_by_role("progressbar", name=f"Progress of run {run.pk}")).to_have_attribute("value", "50")
    page.get_by_role("button", name="Cancel run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel run").click()
    expect(progress.locator(".wh-pill")).to_have_text("cancelled")
    assert Run.objects.get().state == RunState.CANCELLED


@pytest.mark.parametrize("act", ["Cancel run", "Discard"])
def test_an_answer_counts_although_the_page_has_refreshed_itself_since_the_question(page: Page, act: str) -> None:
    webhook = make_webhook(Site)
    delivery = make_site_delivery(webhook, State.PENDING)
    run = Run.objects.create(kind="retry", filters={"webhook": webhook.pk}, requested_by="admin", total=9)
    part, address = (
        ("#run-progress", f"run/{run.pk}") if act == "Cancel run" else ("#wh-now", f"delivery/{delivery.pk}")
    )
    page.goto(f"/admin/rq_webhooks/{address}/change/")
    page.locator(part).evaluate("one => { one.isOld = true }")
    page.get_by_role("button", name=act).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.wait_for_function("part => !document.querySelector(part).isOld", arg=part)
    dialog.get_by_role("button", name=act).click()
    expect(page.locator(".wh-pill").first).to_have_text("cancelled" if act == "Cancel run" else "discarded")


def test_the_list_of_runs_cuts_nothing(page: Page) -> None:
    webhook = make_webhook(Site, name="An endpoint with a very long name that says a lot about what it is for " * 2)
    counts = {"state": RunState.CANCELLED, "total": 20_000, "done": 10_250}
    author = "manage.py webhooks_recover"
    Run.objects.create(kind="retry", filters={"webhook": webhook.pk}, requested_by=author, **counts)
    Run.objects.update(created=timezone.now() - timedelta(minutes=59))
    page.set_viewport_size({"width": 1280, "height": 768})
    page.goto("/admin/rq_webhooks/run/")
    expect(page.locator("#result_list .field-what")).to_contain_text(webhook.name.strip())
    for column in ("field-what", "field-progress", "field-requested_by", "column-requested_by", "field-begun"):
        cell = page.locator(f"#result_list .{column}")
        assert cell.evaluate("one => one.scrollWidth - one.clientWidth") <= 0, column


def test_a_list_finds_a_match_that_is_far_back(page: Page) -> None:
    make_site_event(1, "The oldest", action="deleted")
    newer = [Event(object_type="dcim.site", object_id="1", action="updated") for _ in range(7_000)]
    Event.objects.bulk_create(newer)
    page.goto("/admin/rq_webhooks/event/?object_type=dcim.site&object_id=1&action=deleted")
    expect(page.locator("#result_list tbody tr")).to_contain_text("The oldest")
    expect(page).to_have_url(re.compile("before="))
    page.go_back()
    expect(page).not_to_have_url(re.compile("/event/"))


def test_the_attempts_of_a_delivery_are_walked_by_the_keyboard(page: Page) -> None:
    webhook, event = make_webhook(Site, name="CMDB sync"), make_site_event(1)
    delivery = make_site_delivery(webhook, State.FAILED, event, attempt_count=2)
    for number, status in ((1, 503), (2, 401)):
        make_attempt(delivery, number=number, status=status, response_body=f'{{"answer": {number}}}')
    page.goto(f"/admin/rq_webhooks/delivery/{delivery.pk}/change/")
    expect(page.locator("#attempt")).to_contain_text("HTTP 401")
    page.locator("#attempt").get_by_role("link", name="Attempt 1").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#attempt")).to_contain_text("HTTP 503")
    expect(page.locator(".wh-timeline [aria-current]")).to_have_text("Attempt 1: 503")
    copy(page, "Copy cURL")
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_role("dialog")).to_contain_text("Discard this delivery?")
    page.get_by_role("dialog").get_by_role("button", name="Back").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
