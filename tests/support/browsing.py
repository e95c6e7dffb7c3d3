"""A tab of Chromium for a user of the site."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth import get_user_model
from django.test import Client
from playwright.sync_api import Browser, Error, Page

from tests.support.waiting import PATIENCE


@contextmanager
def open_tab(browser: Browser, url: str) -> Iterator[Page]:
    """A tab for the site at this address. A new tab takes as much CPU as two pages, so tests share one."""
    with browser.new_context(base_url=url) as context:
        tab = context.new_page()
        tab.set_default_timeout(15_000 * PATIENCE)
        yield tab


@contextmanager
def logged_in(tab: Page, url: str) -> Iterator[Page]:
    """The tab as if it were new, logged in as admin. Fails the test when a script of a page fails."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("admin", "admin"))
    tab.context.clear_cookies()
    tab.context.add_cookies([{"name": name, "value": one.value, "url": url} for name, one in client.cookies.items()])
    problems: list[str] = []

    def note(error: Error) -> None:
        problems.append(str(error))

    tab.on("pageerror", note)
    try:
        yield tab
    finally:
        tab.remove_listener("pageerror", note)
        _forget(tab)
    assert not problems, problems


def _forget(tab: Page) -> None:
    """Undo what a test can do to its tab. It stays at the site: another one would take a new process of Chromium."""
    tab.unroute_all()
    tab.goto("/static/rq_webhooks/lists.css")
    tab.evaluate("sessionStorage.clear()")
    tab.set_extra_http_headers({})
    tab.set_viewport_size({"width": 1280, "height": 720})
    tab.emulate_media(color_scheme="light", reduced_motion="no-preference")
    tab.mouse.move(0, 0)
