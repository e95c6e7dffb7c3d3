"""A real Chromium before a real gunicorn, with a real worker behind it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browsing import logged_in, open_tab
from tests.support.site import Site, serve_site
from tests.support.waiting import PATIENCE
from tests.support.workers import LOGS, Workers

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


def chromium() -> str:
    name = os.environ.get("CHROMIUM", "chromium")
    path = shutil.which(name)
    assert path, (
        f"no {name} on this machine: install it (Debian: apt-get install chromium), or set CHROMIUM to its path"
    )
    return path


@pytest.fixture(scope="module")
def site(django_db_setup: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The example site, served from the tests' database by one process for all tests of a module."""
    with serve_site(Workers(tmp_path_factory.mktemp("site"), redis_url)) as site:
        yield site


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this folder."""
    with pytest.MonkeyPatch.context() as patched, sync_playwright() as playwright:
        # While Playwright's event loop runs in this thread, Django would refuse to use the database in it.
        patched.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        expect.set_options(timeout=15_000 * PATIENCE)
        yield playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        connections.close_all()  # Django keeps extra ones where an event loop runs


@pytest.fixture(scope="module")
def tab(site: Site, browser: Browser) -> Iterator[Page]:
    """One tab for all tests of a module."""
    with open_tab(browser, site.url) as opened:
        yield opened


@pytest.fixture
def page(request: pytest.FixtureRequest, database: str, redis: Any, site: Site, tab: Page) -> Iterator[Page]:
    """The tab as if it were new, logged in as admin."""
    request.node.stash.setdefault(LOGS, []).append(site.log)
    with logged_in(tab, site.url) as opened:
        yield opened
