"""A tab of Chromium for a user of the site."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth import get_user_model
from django.test import Client
from playwright.sync_api import Browser, Page

from tests.support.waiting import PATIENCE


@contextmanager
def logged_in(browser: Browser, url: str) -> Iterator[Page]:
    """A new tab, logged in as admin. Fails the test when a script of a page fails."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("admin", "admin@example.org", "admin"))
    problems: list[str] = []
    with browser.new_context(base_url=url) as context:
        context.add_cookies([{"name": name, "value": one.value, "url": url} for name, one in client.cookies.items()])
        opened = context.new_page()
        opened.set_default_timeout(15_000 * PATIENCE)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        yield opened
    assert not problems, problems
