"""A real Chromium before a real gunicorn, with a real worker behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browsing import launched_browser, logged_in, open_tab
from tests.support.site import Site, serve_site
from tests.support.workers import LOGS, Workers


@pytest.fixture(scope="module")
def site(django_db_setup: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The example site, served from the tests' database by one process for all tests of a module."""
    with serve_site(Workers(tmp_path_factory.mktemp("site"), redis_url)) as site:
        yield site


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this folder."""
    with launched_browser() as launched:
        yield launched


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
