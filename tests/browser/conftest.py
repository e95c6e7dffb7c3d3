"""A real Chromium before a real gunicorn, with a real worker behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
from django.contrib.auth import get_user_model
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.inbox import ROOT
from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, until
from tests.support.workers import Workers

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    name = os.environ.get("CHROMIUM", "chromium")
    path = shutil.which(name)
    assert path, (
        f"no {name} on this machine: install it (Debian: apt-get install chromium), or set CHROMIUM to its path"
    )
    return path


@pytest.fixture
def site(workers: Workers) -> Iterator[str]:
    """The address of the example site, served from this test's database."""
    address = f"127.0.0.1:{free_port()}"
    log = workers.directory / "web.log"
    workers.logs.append(log)
    command = ["-m", "gunicorn", "project.wsgi:application", "--bind", address, "--threads", "4", "--no-control-socket"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=workers.environment(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: server.poll() is not None or answers(f"http://{address}/"), 30, "the site to answer")
        assert server.poll() is None, log.read_text()
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(10 * PATIENCE)


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2 * PATIENCE) as response:
        return bool(response.status == 200)
    return False


@pytest.fixture
def page(site: str) -> Iterator[Page]:
    """The admin's first page, logged in. Fails the test when a script of the page fails."""
    # Before playwright starts: its event loop makes Django take this thread for an async one.
    get_user_model().objects.create_superuser("admin", "admin@example.org", "admin")
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        expect.set_options(timeout=15_000 * PATIENCE)
        opened = browser.new_page(base_url=site)
        opened.set_default_timeout(15_000 * PATIENCE)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.goto("/admin/")
        opened.fill("#id_username", "admin")
        opened.fill("#id_password", "admin")
        opened.click("input[type=submit]")
        yield opened
        browser.close()
    assert not problems
