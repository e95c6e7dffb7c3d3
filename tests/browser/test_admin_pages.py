"""An admin's clicks, from the definition of a webhook to the retry of a failed delivery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from playwright.sync_api import Locator, Page, Route, expect

from dcim.models import Site
from tests.support.browsing import copy
from tests.support.fickle_receiver import FickleReceiver
from tests.support.hostile_rows import MARK, TOGETHER, fill, pages
from tests.support.inbox import Inbox
from tests.support.makers import make_attempt, make_site_delivery, make_site_event, make_webhook
from tests.support.waiting import until
from tests.support.workers import Workers
from webhooks.models import BodyKind, Delivery, Run, State, Webhook
from webhooks.models.webhook_secrets import CREDENTIAL_FIELDS

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.postgresql]

STATUS = "/admin/webhook-backend-status/"
WEBHOOKS, DELIVERIES, EVENTS = (f"/admin/rq_webhooks/{name}/" for name in ("webhook", "delivery", "event"))

FAILED = 250  # more than are retried without a run


def open_status(page: Page) -> None:
    """Open the status page, and let it refresh itself every second instead of every five."""

    def hurry(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace('data-every="5"', 'data-every="1"'))

    page.route(f"**{STATUS}", hurry)
    page.goto(STATUS)
    page.unroute(f"**{STATUS}", hurry)


@pytest.fixture
def receiver() -> Iterator[FickleReceiver]:
    fickle = FickleReceiver()
    yield fickle
    fickle.stop()


def test_a_condition_that_is_not_saved_contradicts_no_title_above_it(page: Page) -> None:
    page.goto("/admin/rq_webhooks/webhook/add/")
    title = page.locator("summary", has_text="Filters")
    expect(title).to_contain_text("Every change of these models is sent")
    title.click()
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_label("Path").fill("status.value")
    expect(title).to_contain_text("Changed and not saved yet")
    expect(title).not_to_contain_text("Every change")
    expect(page.locator("summary", has_text="Signature")).not_to_contain_text("Changed")


def test_chromium_has_no_advice_for_the_form_of_a_webhook(page: Page) -> None:
    advice: list[str] = []
    page.on("console", lambda message: advice.append(message.text))
    page.goto("/admin/rq_webhooks/webhook/add/")
    page.locator("summary", has_text="Signature").click()
    expect(page.locator("#id_secret")).to_be_visible()
    assert not [one for one in advice if "[DOM]" in one]


def test_a_worker_is_whole_on_a_phone(page: Page, workers: Workers) -> None:
    workers.start().wait_until_listening()
    page.set_viewport_size({"width": 375, "height": 812})
    page.goto("/admin/webhook-backend-status/")
    # In one step: the page replaces the table every few seconds.
    is_whole = """text => [...document.querySelectorAll(".wh-workers tbody td")].some(cell => {
        const box = cell.getBoundingClientRect()
        return cell.textContent.includes(text) && box.width > 0 && box.right <= 375
    })"""
    for text in ("idle", "WebhookWorker", "webhooks", "0/min"):
        page.wait_for_function(is_whole, arg=text)


def test_a_long_name_from_right_to_left_keeps_its_beginning(page: Page) -> None:
    make_site_event(1, "א" + "ב" * 80)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("/admin/rq_webhooks/event/")
    begins_within = """cell => {
        const range = document.createRange()
        range.setStart(cell.querySelector(".wh-object").firstChild, 0)
        range.setEnd(cell.querySelector(".wh-object").firstChild, 1)
        const letter = range.getBoundingClientRect(), box = cell.getBoundingClientRect()
        return box.left <= letter.left && letter.right <= box.right
    }"""
    assert page.locator("#result_list .field-object").first.evaluate(begins_within)


def test_a_newcomer_defines_a_webhook_tries_it_saves_it_and_sees_a_change_arrive(
    page: Page, workers: Workers, inbox: Inbox
) -> None:
    workers.start()
    ghent = Site.objects.create(name="Ghent", slug="ghent")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto("/admin/rq_webhooks/webhook/add/")
    below = page.locator("summary", has_text="Filters")
    assert below.evaluate("one => one.getBoundingClientRect().top") < 900, "all first steps are on the first screen"
    expect(below).to_contain_text("Every change of these models is sent")
    page.fill("#id_payload_url", "http://{{ data.nope.at.all }}/")

    page.get_by_label("Filter models").fill("sit")
    expect(page.get_by_label("Devices", exact=True)).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Sites", exact=True)).to_be_checked()
    expect(page.locator(".wh-models-chosen")).to_have_text("Chosen: Sites")
    for action in ("created", "updated", "deleted"):
        expect(page.locator(f"#id_on_{action}")).to_be_checked()

    tried = page.locator("#wh-try")
    expect(tried.get_by_label("Model", exact=True)).to_have_value("dcim.site")
    expect(tried.get_by_label("Object", exact=True)).to_have_value(str(ghent.pk))
    tried.get_by_label("Search").fill("ghe")
    expect(tried.get_by_label("Object", exact=True)).to_have_value(str(ghent.pk))
    tried.get_by_label("Search").press("Enter")
    expect(page.locator(".form-row.field-payload_url .wh-try-error")).to_contain_text("could not be rendered")
    page.fill("#id_payload_url", inbox.url("fail-first/1"))
    tried.get_by_role("button", name="Show the request").click()
    expect(page.locator(".wh-try-error")).to_have_count(0)
    expect(tried).to_contain_text("would be sent Ghent updated.")
    tried.get_by_role("button", name="Send as a test").click()
    expect(tried).to_contain_text("failed HTTP 503")
    tried.get_by_role("button", name="Send it again").click()
    expect(tried).to_contain_text("accepted HTTP 200")
    assert [one.headers["x-webhook-test"] for one in inbox.wait_for(2)] == ["true", "true"]
    assert not Webhook.objects.exists()

    page.fill("#id_name", "To the inventory")
    page.press("#id_name", "Enter")
    expect(page.locator(".messagelist .success")).to_contain_text("To the inventory")

    page.goto("/admin/dcim/site/add/")
    page.fill("#id_name", "Berlin")
    page.fill("#id_slug", "berlin")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text("Berlin")
    *_, request = inbox.wait_for(3)
    assert request.json["data"]["name"] == "Berlin"
    assert request.json["username"] == "admin"
    assert "x-webhook-test" not in request.headers

    def shows_the_delivery() -> bool:
        page.goto(f"/admin/rq_webhooks/webhook/{Webhook.objects.get().pk}/change/")
        return "succeeded Berlin created" in page.locator(".wh-health").inner_text()

    until(shows_the_delivery, 20, "the page of the webhook to show the delivery")
    page.get_by_role("link", name="Why didn't it fire?").click()
    expect(page.locator(".wh-verdict")).to_contain_text("The receiver accepted it")

    page.goto(STATUS)
    expect(page.locator("#wh-webhooks tbody tr")).to_contain_text("accepted")


def test_an_operator_sees_it_break_reads_why_repairs_it_and_recovers_what_failed(
    page: Page, workers: Workers, receiver: FickleReceiver
) -> None:
    make_webhook(Site, name="Inventory", url=f"http://127.0.0.1:{receiver.port}/")
    workers.start(RETRY_SCHEDULE=[], PAUSE_AFTER=1000).wait_until_listening()
    open_status(page)
    page.evaluate("window.isLoadedOnce = true")
    Site.objects.create(name="Ghent", slug="ghent")
    expect(page.locator("#wh-webhooks tr", has_text="Inventory")).to_contain_text("accepted")

    receiver.status = 401
    with transaction.atomic():
        for number in range(FAILED):
            Site.objects.create(name=f"Site {number}", slug=f"site-{number}")
    box = page.locator(".wh-cause", has_text="Inventory")
    expect(box.first).to_contain_text("HTTP 401 Unauthorized")
    expect(box.first).to_contain_text("Compare the secret")
    until(lambda: Delivery.objects.failed().count() == FAILED, 60, "all to fail")
    receiver.stop()
    Site.objects.create(name="Lyon", slug="lyon")
    expect(box.first).to_contain_text("connection refused")
    expect(box.first).to_contain_text("Start the receiver")

    receiver.status = 200
    receiver.start()
    assert page.evaluate("window.isLoadedOnce")
    box.get_by_role("button", name="Send test").first.click()
    expect(page.locator("#wh-webhooks tr", has_text="Inventory")).to_contain_text("accepted")
    page.get_by_role("button", name=f"Retry {FAILED + 1}").first.click()
    expect(page.get_by_role("heading", name=f"Retry {FAILED + 1} deliveries of Inventory?")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#run-progress")).to_be_visible()  # a reload on the way there would be aborted
    page.reload()
    expect(page.locator("#run-progress")).to_contain_text(f"{FAILED + 1} of {FAILED + 1}")
    expect(page.locator("#run-progress .wh-pill")).to_have_text("done")
    until(lambda: len({*receiver.accepted}) == FAILED + 3, 60, lambda: f"{len({*receiver.accepted})} are accepted")
    page.goto(STATUS)
    expect(page.locator("#wh-problems")).not_to_contain_text("Inventory")


@pytest.mark.parametrize(("language", "widths"), [("en", [1280, 1024]), ("de", [1280])])
def test_no_table_is_cut_off(page: Page, language: str, widths: list[int]) -> None:
    page.set_extra_http_headers({"Accept-Language": language})
    webhook = make_webhook(Site, name="Circuit monitoring", failures_in_a_row=9, probe_at=timezone.now())
    for state in (State.PENDING, State.FAILED, State.SUCCEEDED):
        event = make_site_event(state, "Amsterdam Science Park", error="KeyError" if state == State.FAILED else "")
        make_site_delivery(webhook, state, event, reason="HTTP 503 Service Unavailable")
    for address in (WEBHOOKS, DELIVERIES, EVENTS, STATUS):
        page.goto(address)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            cut = page.locator("#changelist .results, .wh-scroll").evaluate_all(
                "tables => tables.map(one => one.scrollWidth - one.clientWidth)"
            )
            assert cut
            assert max(cut) <= 0, (address, width)


def test_a_click_retries_a_failed_delivery_and_its_reason_is_shown(page: Page, workers: Workers, inbox: Inbox) -> None:
    make_webhook(Site, url=inbox.url("fail-first/1"), name="Fails once")
    workers.start(RETRY_SCHEDULE=[])
    Site.objects.create(name="Ghent", slug="ghent")
    inbox.wait_for(1)

    page.goto(STATUS)
    group = page.locator(".wh-groups > li", has_text="HTTP 503")
    group.locator("summary").click()
    line = group.locator("li", has_text="Ghent")
    expect(line).to_contain_text("HTTP 503")
    line.get_by_role("button", name="Retry Ghent").click()
    expect(page.locator(".messagelist .success")).to_contain_text("1 delivery")
    first, second = inbox.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    until(lambda: Delivery.objects.get().state == State.SUCCEEDED, 20, "the delivery to succeed")
    page.goto(STATUS)
    expect(page.locator("#wh-failed")).not_to_contain_text("Ghent")


def test_the_page_of_a_delivery_shows_the_result_of_the_retry_that_was_asked_for(
    page: Page, workers: Workers, inbox: Inbox
) -> None:
    webhook = make_webhook(Site, url=inbox.url())
    delivery = make_site_delivery(webhook, State.FAILED)
    page.goto(f"{DELIVERIES}{delivery.pk}/change/")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("#wh-now")).to_contain_text("It is due now.")
    expect(page.locator("#wh-said")).to_be_empty()
    assert page.locator("#wh-said").evaluate("one => one.offsetWidth") <= 1
    workers.start()
    expect(page.locator("#wh-now")).to_contain_text("Succeeded")
    expect(page.locator("#wh-timeline")).to_contain_text("Attempt 3: 200")
    expect(page.locator("#wh-now[hx-get]")).to_have_count(0)
    expect(page.get_by_role("status").filter(has_text="succeeded")).to_have_count(1)


def test_the_page_of_a_new_delivery_shows_its_first_attempt(page: Page, workers: Workers, inbox: Inbox) -> None:
    webhook = make_webhook(Site, url=inbox.url())
    delivery = make_site_delivery(webhook, State.PENDING)
    page.goto(f"{DELIVERIES}{delivery.pk}/change/")
    expect(page.locator("#attempt")).to_contain_text("There was no attempt yet.")
    workers.start()
    expect(page.locator("#wh-now")).to_contain_text("Succeeded")
    expect(page.locator("#attempt")).to_contain_text("Attempt 1 of 1")
    expect(page.locator("#wh-lane")).to_contain_text("It holds up no other change of this object")
    copy(page, "Copy cURL")


def test_a_refresh_leaves_the_attempt_that_is_read_as_it_is(page: Page) -> None:
    delivery = make_site_delivery(make_webhook(Site), State.PENDING, attempt_count=1)
    make_attempt(delivery, body_kind=BodyKind.PAYLOAD)
    page.goto(f"{DELIVERIES}{delivery.pk}/change/")
    page.locator("#attempt summary", has_text="As a curl command").click()
    page.locator("#wh-now").evaluate("one => { one.isOld = true }")
    page.wait_for_function("!document.getElementById('wh-now').isOld")
    expect(page.locator("#curl")).to_be_visible()


def test_a_webhook_needs_a_model_and_an_action(page: Page) -> None:
    page.goto("/admin/rq_webhooks/webhook/add/")
    page.fill("#id_name", "Nothing")
    page.fill("#id_payload_url", "ftp://example.org/")
    for action in ("created", "updated", "deleted"):
        page.uncheck(f"#id_on_{action}")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".errornote")).to_be_visible()
    errors = page.locator(".errorlist").all_inner_texts()
    assert any("http://" in text for text in errors), errors
    assert any("action" in text for text in errors), errors
    page.check("#id_on_created")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".errorlist", has_text="Choose at least one model.")).to_be_visible()
    assert not Webhook.objects.exists()


def test_a_secret_is_never_shown_again(page: Page) -> None:
    webhook = make_webhook(Site, secret="whsec_c2VjcmV0LXRoYXQtaXMtcGxhbnRlZA==")
    page.goto(f"/admin/rq_webhooks/webhook/{webhook.pk}/change/")
    assert "c2VjcmV0LXRoYXQ" not in page.content()
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text(webhook.name)
    assert Webhook.objects.get().secret == "whsec_c2VjcmV0LXRoYXQtaXMtcGxhbnRlZA=="


def test_the_preview_of_conditions_posts_no_secret(page: Page) -> None:
    page.goto("/admin/rq_webhooks/webhook/add/")
    page.locator("summary", has_text="Signature").click()
    page.locator("summary", has_text="Request POST").click()
    page.locator("summary", has_text="Filters").click()
    for name in CREDENTIAL_FIELDS:
        page.fill(f"#id_{name}", "X-Token: planted")
    page.fill("#id_name", "posted")
    with page.expect_request("**/condition-preview/") as asked:
        page.get_by_role("button", name="Try it on the last events").click()
    posted = asked.value.post_data or ""
    assert "posted" in posted
    assert "planted" not in posted


def test_all_models_of_an_app_are_chosen_and_left_with_one_click(page: Page) -> None:
    page.goto("/admin/rq_webhooks/webhook/add/")
    dcim = page.locator(".wh-models-app", has_text="DCIM")
    boxes = dcim.locator("input[type=checkbox]")
    dcim.get_by_role("button", name="DCIM: all").click()
    expect(dcim.locator("input:checked")).to_have_count(boxes.count())
    expect(page.locator(".wh-models-app input:checked")).to_have_count(boxes.count())
    dcim.get_by_role("button", name="DCIM: none").click()
    expect(page.locator(".wh-models-app input:checked")).to_have_count(0)


def test_the_boxes_of_a_group_are_aligned(page: Page) -> None:
    page.goto("/admin/rq_webhooks/webhook/add/")
    for action in ("created", "updated", "deleted"):
        page.uncheck(f"#id_on_{action}")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".field-on_created .errorlist")).to_be_visible()
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        lefts = page.locator(".wh-models-app").evaluate_all(
            "groups => groups.map("
            "    one => [...one.querySelectorAll('input')].map(box => box.getBoundingClientRect().left))"
        )
        assert lefts
        assert all(len(set(group)) == 1 for group in lefts), lefts
        tops = [page.locator(f"#id_on_{action}").bounding_box() for action in ("created", "updated", "deleted")]
        assert len({box["y" if width > 767 else "x"] for box in tops if box}) == 1, tops


def test_the_state_of_a_webhook_is_above_its_form_and_as_wide(page: Page) -> None:
    page.goto(f"/admin/rq_webhooks/webhook/{make_webhook(Site).pk}/change/")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        state, form = (page.locator(one).bounding_box() for one in (".wh-health", "#webhook_form"))
        assert state
        assert form
        assert (state["x"], state["width"]) == (form["x"], form["width"])
        assert state["y"] + state["height"] <= form["y"]


def test_conditions_are_edited_in_rows_previewed_and_kept_if_rows_cannot_show_them(page: Page) -> None:
    make_webhook(Site, name="Everything")
    for name, status in (("Berlin", "active"), ("Ghent", "planned"), ("Lyon", "active")):
        Site.objects.create(name=name, slug=name.lower(), status=status)
    page.goto("/admin/rq_webhooks/webhook/add/")
    page.fill("#id_name", "Active sites")
    page.fill("#id_payload_url", "http://127.0.0.1:1/")
    page.get_by_label("Sites", exact=True).check()
    page.check("#id_on_created")
    expect(page.locator("#id_conditions")).to_be_hidden()
    page.locator("summary", has_text="Filters").click()

    rows, result = page.locator(".wh-rows li"), page.locator(".wh-preview")
    for number, (path, operator, value) in enumerate(
        [("status.value", "in", 'active, "42"'), ("name", "regex", "B.*"), ("id", "changed", "")]
    ):
        page.get_by_role("button", name="Add a condition").click()
        rows.nth(number).get_by_label("Path").fill(path)
        rows.nth(number).get_by_label("Operator").select_option(operator)
        if value:
            rows.nth(number).get_by_label("Value").fill(value)
    page.get_by_role("button", name="Try it on the last events").click()
    text = "Tried on the last 3 events: 1 would have been sent, 2 would not."
    expect(result).to_have_text(text)
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_role("button", name="Try it on the last events").click()
    expect(result).to_have_text(f"{text} A condition without a path and a value was ignored.")
    rows.nth(3).get_by_role("button", name="Remove").click()
    rows.nth(1).get_by_role("button", name="Remove").click()
    rows.nth(1).get_by_label("not").check()
    page.locator(".wh-rule select").first.select_option("or")
    rows.nth(0).get_by_label("Path").fill("statuss")
    page.get_by_role("button", name="Try it on the last events").click()
    expect(result).to_contain_text("3 could not be judged")
    expect(result).to_contain_text("'statuss' is missing")
    rows.nth(0).get_by_label("Path").fill("status.value")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text("Active sites")
    rule = {
        "or": [
            {"attr": "status.value", "op": "in", "value": ["active", "42"]},
            {"attr": "id", "op": "changed", "negate": True},
        ]
    }
    webhook = Webhook.objects.get(name="Active sites")
    assert webhook.conditions == rule

    nested = {"and": [{"or": [{"attr": "name", "value": "Berlin"}]}, {"attr": "id", "op": "gt", "value": 1.5}]}
    Webhook.objects.filter(pk=webhook.pk).update(conditions=nested)
    page.goto(f"/admin/rq_webhooks/webhook/{webhook.pk}/change/")
    expect(page.locator("#id_conditions")).to_be_visible()
    expect(page.locator(".wh-note")).to_contain_text("Rows cannot show these conditions")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text("Active sites")
    assert Webhook.objects.get(pk=webhook.pk).conditions == nested


def test_editing_one_row_of_conditions_changes_no_other(page: Page) -> None:
    texts = ["Berlin, Mitte", "dc1east", "1234567890123456", "1e5", "[x]", "", " a", "true", '"q"']
    kept = [{"attr": "name", "op": "in", "value": texts}, *({"attr": "slug", "value": text} for text in texts)]
    last = {"attr": "id", "op": "gt", "value": 1.5}
    webhook = make_webhook(Site, conditions={"and": [*kept, last]})
    page.goto(f"/admin/rq_webhooks/webhook/{webhook.pk}/change/")
    rows = page.locator(".wh-rows li")
    rows.last.get_by_label("Value").fill("2.5")
    page.get_by_role("button", name="Add a condition").click()
    rows.last.get_by_label("Path").fill("slug")
    rows.last.get_by_label("Value").fill('"1e5"')
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.locator(".messagelist .success")).to_contain_text(webhook.name)
    stored = Webhook.objects.get(pk=webhook.pk).conditions["and"]
    assert stored == [*kept, last | {"value": 2.5}, {"attr": "slug", "value": "1e5"}]


def test_no_stored_text_runs_as_a_script_in_the_browser(page: Page, redis: Any) -> None:
    # What would run is a function that there is not: the page would report an error, which fails the test.
    for name in ("markup", "more markup"):
        fill(TOGETHER[name], redis)
    addresses = pages(of_each_row=False)
    for address in addresses:
        page.goto(address)
    assert len(addresses) > 30
    page.goto(STATUS)
    assert MARK in page.content()
    made_up = "iframe, img[src=x], svg[onload], [onmouseover], [onfocus]"
    assert page.locator(made_up).count() == 0


def test_the_status_page_refreshes_what_is_not_in_use_and_moves_nothing_that_is_read(page: Page, redis: Any) -> None:
    cmdb = make_webhook(Site, name="CMDB")
    make_site_delivery(cmdb, event=make_site_event(1, "Ghent"))
    page.set_viewport_size({"width": 1280, "height": 500})
    open_status(page)
    failed, summary = page.locator("#wh-failed"), page.locator("#wh-summary")
    expect(page.locator("[data-wh-live-text]")).to_contain_text("Live")
    expect(page.get_by_role("link", name="Refresh")).to_be_hidden()

    # What is unfolded stays unfolded, and stays where it is while boxes come above it.
    failed.locator("summary", has_text="HTTP 503").click()
    page.evaluate("document.activeElement.blur()")
    link = failed.get_by_role("link", name="Ghent")
    link.scroll_into_view_if_needed()
    failed.hover()
    before = top(link)
    for number in range(3):
        make_webhook(Site, name=f"paused {number}", paused_at=timezone.now(), paused_by="jstretch")
    expect(page.locator("#wh-problems")).to_contain_text("paused 2")
    assert abs(top(link) - before) < 1  # pixel

    # A section in use waits. The others go on.
    dns = make_webhook(Site, name="DNS")
    make_site_delivery(dns, event=make_site_event(2, "Lyon"), error_kind="refused")
    expect(page.locator("#wh-webhooks")).to_contain_text("DNS")
    expect(page.locator("[data-wh-live-text]")).to_contain_text("Waits while you use it")
    assert "DNS" not in failed.inner_text()
    page.locator("h1").first.hover()
    expect(failed).to_contain_text("DNS")
    expect(failed.get_by_role("link", name="Ghent")).to_be_visible()
    expect(page.locator("[data-wh-said]")).to_contain_text("problems")

    # A button stops it, and asking before a run is cancelled works in a part that came later.
    run = Run.objects.create(kind="retry", requested_by="admin", total=100, done=40)
    page.get_by_role("button", name=f"Cancel: Run {run.pk}").click()
    dialog = page.get_by_role("dialog", name=f"Cancel run {run.pk}?")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Stop refreshing").click()
    expect(page.locator("[data-wh-live-text]")).to_have_text(re.compile(r"Not refreshed for \d+ s"))
    said = summary.inner_text()
    Webhook.objects.all().delete()
    with page.expect_response("**/parts/"):
        page.get_by_role("button", name="Start refreshing").click()
    expect(summary).not_to_have_text(said)
    page.get_by_role("button", name=f"Cancel: Run {run.pk}").click()
    dialog.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".messagelist .success")).to_have_text("1 run cancelled.")


def top(locator: Locator) -> float:
    """The distance from the top of the window, in pixels."""
    return float(locator.evaluate("one => one.getBoundingClientRect().top"))


def test_the_status_page_says_when_the_site_does_not_answer(page: Page, redis: Any) -> None:
    open_status(page)
    text = page.locator("[data-wh-live-text]")
    expect(text).to_contain_text("Live")
    page.route("**/parts/", lambda route: route.abort())
    expect(text).to_have_text("No answer from the site, trying again")
    page.unroute("**/parts/")
    page.context.clear_cookies()
    expect(text).to_have_text("You are logged out: reload the page")
