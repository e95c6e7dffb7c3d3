"""The form of a webhook in a browser, on a page without Django's admin."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page, Route, expect

from dcim.models import Site
from tests.support.own_pages import own_pages
from users.models import User
from webhooks.models import Webhook

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.postgresql]

ADDRESS = "/webhooks/add/"


def test_models_and_conditions_are_chosen_without_the_admin(page: Page) -> None:
    """The page comes from this process, and the scripts and styles from the site."""
    errors: list[str] = []
    posted: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with own_pages(User.objects.get(), Site) as pages:
        shown = pages.ask(ADDRESS).content.decode()

        def answer(route: Route) -> None:
            posted.append(route.request.post_data or "")
            route.fulfill(body="Posted" if posted[-1] else shown, content_type="text/html; charset=utf-8")

        page.route(f"**{ADDRESS}", answer)
        page.goto(ADDRESS)
        page.get_by_label("Name:", exact=True).fill("Active sites")
        page.get_by_label("Payload URL:").fill("http://127.0.0.1:1/")
        page.get_by_label("Filter models").fill("sit")
        expect(page.get_by_label("Sites", exact=True)).to_be_visible()
        expect(page.get_by_label("Racks", exact=True)).to_be_hidden()
        page.get_by_label("Filter models").fill("dcim")
        page.get_by_role("button", name="DCIM: all").click()
        page.get_by_role("button", name="DCIM: none").click()
        page.get_by_label("Sites", exact=True).check()
        expect(page.locator(".wh-models-chosen")).to_have_text("Chosen: Sites")
        expect(page.locator("#id_conditions")).to_be_hidden()
        expect(page.get_by_role("button", name="Try it on the last events")).to_be_hidden()
        page.get_by_role("button", name="Add a condition").click()
        page.get_by_label("Path").fill("status.value")
        page.get_by_label("Operator").select_option("in")
        page.get_by_label("Value").fill("active, planned")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("body")).to_have_text("Posted")
        page.unroute(f"**{ADDRESS}", answer)
        pages.save(ADDRESS, parse_qs(posted[-1]))
    webhook = Webhook.objects.get()
    assert webhook.conditions == {"attr": "status.value", "op": "in", "value": ["active", "planned"]}
    assert [one.model for one in webhook.object_types.all()] == ["site"]
    assert errors == []
