"""A real Chromium before a real gunicorn, with a real worker behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.inbox import ROOT
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, until
from tests.support.workers import LOGS, Workers

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Site:
    """The site's address and log file."""

    url: str
    log: Path


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
    address = f"127.0.0.1:{free_port()}"
    workers = Workers(tmp_path_factory.mktemp("site"), redis_url)
    log = workers.directory / "web.log"
    command = ["-m", "gunicorn", "project.wsgi:application", "--bind", address, "--threads", "4", "--no-control-socket"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=workers.environment(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: server.poll() is not None or answers(f"http://{address}/"), 30, "the site to answer")
        assert server.poll() is None, log.read_text()
        yield Site(f"http://{address}", log)
    finally:
        server.terminate()
        server.wait(10 * PATIENCE)


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2 * PATIENCE) as response:
        return bool(response.status == 200)
    return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patched, sync_playwright() as playwright:
        # While Playwright's event loop runs in this thread, Django would refuse to use the database in it.
        patched.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        expect.set_options(timeout=15_000 * PATIENCE)
        yield playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        connections.close_all()  # Django keeps extra ones where an event loop runs


@pytest.fixture
def page(request: pytest.FixtureRequest, database: str, redis: Any, site: Site, browser: Browser) -> Iterator[Page]:
    """A new tab for each test, logged in as admin. Fails the test when a script of a page fails."""
    request.node.stash.setdefault(LOGS, []).append(site.log)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("admin", "admin@example.org", "admin"))
    problems: list[str] = []
    with browser.new_context(base_url=site.url) as context:
        context.add_cookies(
            [{"name": name, "value": one.value, "url": site.url} for name, one in client.cookies.items()]
        )
        opened = context.new_page()
        opened.set_default_timeout(15_000 * PATIENCE)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        yield opened
    assert not problems
