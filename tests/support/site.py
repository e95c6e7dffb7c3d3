"""The example site in its own process, served by gunicorn as in production."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, until
from tests.support.workers import Workers


@dataclass(frozen=True)
class Site:
    """The site's address and log file."""

    url: str
    log: Path


@contextmanager
def serve_site(workers: Workers, settings: str = "tests.settings") -> Iterator[Site]:
    """Serve the example site from the database of these workers, by one process with four threads."""
    address = f"127.0.0.1:{free_port()}"
    log = workers.directory / "web.log"
    command = ["-m", "gunicorn", "project.wsgi:application", "--bind", address, "--threads", "4", "--no-control-socket"]
    environment = workers.environment() | {"DJANGO_SETTINGS_MODULE": settings}
    with log.open("wb") as output:
        server = workers.run(command, environment, output)
    try:
        until(lambda: server.poll() is not None or _answers(f"http://{address}/"), 30, "the site to answer")
        assert server.poll() is None, log.read_text()
        yield Site(f"http://{address}", log)
    finally:
        server.terminate()
        server.wait(10 * PATIENCE)


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2 * PATIENCE) as response:
        return bool(response.status == 200)
    return False
