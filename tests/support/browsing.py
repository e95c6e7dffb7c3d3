"""Chromium, and a tab of it for a user of the site."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.support.waiting import PATIENCE

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-features=NetworkServiceInProcess2",  # takes a tenth less CPU
]


def _chromium() -> str:
    name = os.environ.get("CHROMIUM", "chromium")
    path = shutil.which(name)
    assert path, (
        f"no {name} on this machine: install it (Debian: apt-get install chromium), or set CHROMIUM to its path"
    )
    return path


@contextmanager
def launched_browser() -> Iterator[Browser]:
    """Chromium, in a thread that may go on using the database."""
    with pytest.MonkeyPatch.context() as patched, sync_playwright() as playwright:
        # While Playwright's event loop runs in this thread, Django would refuse to use the database in it.
        patched.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        expect.set_options(timeout=15_000 * PATIENCE)
        yield playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        connections.close_all()  # Django keeps extra ones where an event loop runs


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


def copy(page: Page, label: str) -> None:
    """Click a button that copies, and wait until it has said "Copied". It says so for two seconds only."""
    button = page.get_by_role("button", name=label)
    button.evaluate("""one => {
        window.said = new Promise((resolve) => {
            new MutationObserver(() => resolve(one.textContent)).observe(one, {childList: true})
        })
    }""")
    button.click()
    assert page.evaluate("window.said") == "Copied"


def _forget(tab: Page) -> None:
    """Undo what a test can do to its tab. It stays at the site: another one would take a new process of Chromium."""
    tab.unroute_all()
    tab.goto("/static/rq_webhooks/lists.css")
    tab.evaluate("sessionStorage.clear()")
    tab.set_extra_http_headers({})
    tab.set_viewport_size({"width": 1280, "height": 720})
    tab.emulate_media(color_scheme="light", reduced_motion="no-preference")
    tab.mouse.move(0, 0)
