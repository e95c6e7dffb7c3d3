"""An admin in Chromium finds out in NetBox why a webhook fails, and mends it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connections
from django.urls import reverse
from playwright.sync_api import ConsoleMessage, Locator, Page, expect
from pytest_django.live_server_helper import LiveServer

from dcim.models import Site
from tests.netbox.databases import copied_database
from tests.netbox.workers import redis_alone, usual_worker
from tests.support import accessibility
from tests.support.browsing import launched_browser, open_tab
from tests.support.fickle_receiver import FickleReceiver
from tests.support.netbox import admin

pytestmark = pytest.mark.django_db

PASSWORD = "a long passphrase"
# The colours of NetBox's buttons, its own and those of plugins.
OF_NETBOX = re.compile(r'color-contrast: .* class="[^"]*\bbtn\b', re.DOTALL)


# ``scripts/screenshots --netbox`` sets it, to renew the pictures of the docs.
PICTURES = os.environ.get("NETBOX_PICTURES", "")
# The address of the receiver in the pictures.
RENAME = """([address, shown]) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(address, shown)
    for (const one of [window, ...document.querySelectorAll("#sidebar-menu, .navbar")]) one.scrollTo(0, 0)
}"""


@pytest.fixture
def receiver() -> Iterator[FickleReceiver]:
    receiver = FickleReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def netbox(
    django_db_setup: None, django_db_blocker: Any, sending: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a NetBox with a site, served with its static files, and a worker behind it."""
    with (
        copied_database(django_db_blocker),
        patch.dict(connections.settings["default"], {"ATOMIC_REQUESTS": True}),
        redis_alone() as redis,
        usual_worker(redis, tmp_path_factory.mktemp("worker") / "worker.log"),
    ):
        user = admin()
        user.set_password(PASSWORD)
        user.save()
        Site.objects.create(name="AMS1", slug="ams1")
        server = LiveServer("localhost")
        try:
            yield server.url
        finally:
            server.stop()


@pytest.fixture(scope="module")
def tab(netbox: str) -> Iterator[Page]:
    with launched_browser() as browser, open_tab(browser, netbox) as tab:
        yield tab


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """The tab. Fails the test when a page has an error in its console, or an answer of the server is one."""
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") or message.text.startswith("[DOM]"):
            problems.append(f"{message.text} on {tab.url}")

    tab.on("console", note)
    tab.on("pageerror", lambda error: problems.append(f"{error} on {tab.url}"))
    yield tab
    assert not problems, problems


def log_in(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign In").click()


def change_site(page: Page, description: str) -> None:
    """Edit the site in NetBox's own form, and open the tab of its webhooks."""
    page.goto(Site.objects.get().get_absolute_url())
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Description").fill(description)
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator(".nav-tabs").get_by_role("link", name="Webhooks").click()


def newest_delivery(page: Page) -> Locator:
    """The first row of the deliveries on the tab."""
    return page.locator("section").filter(has=page.get_by_role("heading", name="Deliveries")).locator("tbody tr").first


def wait_for_row(page: Page, text: str) -> None:
    """Wait until the newest delivery has this text. The tab refreshes itself."""
    expect(newest_delivery(page)).to_contain_text(text)


@contextmanager
def resized(page: Page, width: int, height: int) -> Iterator[None]:
    usual: Any = page.viewport_size
    page.set_viewport_size({"width": width, "height": height})
    yield
    page.set_viewport_size(usual)


def cut_on_a_phone(page: Page) -> int:
    """How many pixels the page is wider than a phone."""
    with resized(page, 390, 844):
        return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def take_picture(page: Page, name: str, height: int, address: str) -> None:
    """Take a picture of the upper part of the page, if pictures are wanted."""
    if not PICTURES:
        return
    with resized(page, 1280, height):
        page.evaluate(RENAME, [address, "https://cmdb.example.com"])
        page.screenshot(path=f"{PICTURES}/netbox-{name}.png", animations="disabled")


def test_an_admin_sees_why_a_webhook_fails_and_mends_it(page: Page, receiver: FickleReceiver) -> None:
    violations: list[str] = []
    address = f"http://127.0.0.1:{receiver.port}"

    def look(name: str) -> None:
        page.add_style_tag(content="* { transition: none !important }")  # or axe may see a colour on its way
        found = accessibility.violations(page, "body")
        violations.extend(f"{name}: {one}" for one in found if not OF_NETBOX.match(one))
        if cut := cut_on_a_phone(page):
            violations.append(f"{name}: a phone shows {cut} px too few")

    log_in(page)
    menu = page.locator("#sidebar-menu")
    menu.get_by_role("button", name="Webhooks").click()
    menu.locator(f"a[href='{reverse('plugins:rq_webhooks:webhook_list')}']").hover()  # shows its button
    menu.locator(f"a[href='{reverse('plugins:rq_webhooks:webhook_add')}']").click()
    page.get_by_label("Name", exact=True).fill("CMDB sync")
    page.get_by_label("Payload URL").fill(f"{address}/hooks")
    page.get_by_label("Filter models").fill("sites")
    page.get_by_role("checkbox", name="Sites", exact=True).check()
    look("form")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("heading", name="CMDB sync")).to_be_visible()
    webhook_url = page.url

    change_site(page, "the first change")
    wait_for_row(page, "succeeded")
    assert len(receiver.accepted) == 1
    look("tab")

    receiver.status = 500
    change_site(page, "the second change")
    wait_for_row(page, "HTTP 500 Internal Server Error")
    expect(newest_delivery(page)).to_contain_text(re.compile(r"next in \d+ min"))  # the second attempt has failed, too
    expect(page.get_by_role("button", name="Retry now")).to_be_visible()
    take_picture(page, "object-tab", 560, address)
    page.goto(reverse("plugins:rq_webhooks:status"))
    expect(page.locator("#wh-problems")).to_contain_text("“CMDB sync” failed")
    look("status")
    take_picture(page, "status", 760, address)
    page.goto(webhook_url)
    look("webhook")
    take_picture(page, "webhook", 760, address)
    page.get_by_role("link", name="See request").click()
    explanation = page.locator("#wh-now")
    expect(explanation).to_contain_text("HTTP 500 Internal Server Error")
    expect(explanation).to_contain_text("Look into the log of the receiver")
    expect(page.locator("#wh-timeline")).to_contain_text("Attempt 2: 500")
    look("delivery")

    receiver.status = 200
    page.get_by_role("button", name="Retry now").click()
    expect(explanation).to_contain_text("Succeeded at attempt 3")
    page.goto(f"{Site.objects.get().get_absolute_url()}webhooks/")
    expect(newest_delivery(page)).to_contain_text("succeeded")
    assert len(receiver.accepted) == 2
    page.goto(reverse("plugins:rq_webhooks:status"))
    expect(page.locator("#wh-problems")).not_to_contain_text("CMDB sync")
    assert not violations, "\n".join(violations)
