"""One start of the demo: its directory, ports and secrets, and the environment that its programs get."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from demo import ports

EXAMPLE = Path(__file__).resolve().parent.parent
ROOT = EXAMPLE.parent
USERNAME = PASSWORD = "admin"  # noqa: S105 # nosec B105 # it listens on the loopback address only

# Of the caller's environment no more than this: a DATABASE_URL that is set there must not be touched.
INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")

# The path of a Unix socket has room for 104 bytes on some systems, and supervisord adds its process id.
SOCKET_NAME = "supervisor.sock"
SHORT = "/tmp"  # noqa: S108 # nosec B108 # only a directory of a name that nobody knows is made there
LONGEST_SOCKET_PATH = 104 - len(".1234567") - 1


@dataclass(frozen=True)
class Run:
    """``key`` is a random text that only this run knows: passwords, paths and the API token come from it."""

    directory: Path
    key: str
    web_port: int
    valkey_port: int
    receiver_port: int

    @property
    def site_url(self) -> str:
        return f"http://{ports.HOST}:{self.web_port}"

    @property
    def receiver_url(self) -> str:
        return f"http://{ports.HOST}:{self.receiver_port}/{self.key[:8]}"

    @property
    def own_url(self) -> str:
        """A URL of the receiver for a webhook that somebody defines while the demo runs."""
        return f"{self.receiver_url}/mine"

    @property
    def redis_url(self) -> str:
        return f"redis://:{self.key}@{ports.HOST}:{self.valkey_port}/0"

    @property
    def webhook_secret(self) -> str:
        return "whsec_" + base64.b64encode(self.key.encode()).decode()

    @property
    def inbox(self) -> Path:
        """Where the receiver keeps what it got, a line of JSON for each request."""
        return self.directory / "received.jsonl"

    @property
    def lock(self) -> Path:
        """Locked for as long as the demo's own process lives."""
        return self.directory / "lock"

    @property
    def socket(self) -> Path:
        return self.directory / SOCKET_NAME

    def log(self, program: str) -> Path:
        return self.directory / "logs" / f"{program}.log"

    def environment(self) -> dict[str, str]:
        """The whole environment of every program."""
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            # What supervisord.conf.example asks of an operator ...
            "SITE_VENV": sys.prefix,
            "SITE_DIR": str(EXAMPLE),
            "SITE_BIND": f"{ports.HOST}:{self.web_port}",
            "SITE_LOGS": str(self.directory / "logs"),
            "SITE_RUN": str(self.directory),
            # ... what the example's settings read ...
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "EXAMPLE_DATA_DIR": str(self.directory),
            "REDIS_URL": self.redis_url,
            "SECRET_KEY": self.key,
            "WEBHOOKS_RETRY_SCHEDULE": "1,2,5",
            # ... and what the demo's own programs read.
            "DEMO_PORTS": f"{self.web_port} {self.valkey_port} {self.receiver_port}",
            "DEMO_KEY": self.key,
        }


def current() -> Run:
    """The run that started this program."""
    web, valkey, receiver = map(int, os.environ["DEMO_PORTS"].split())
    return Run(Path(os.environ["SITE_RUN"]), os.environ["DEMO_KEY"], web, valkey, receiver)


def new(directory: Path, web_ports: range) -> Run:
    """A run with ports that are free now, and secrets of its own."""
    web, valkey, receiver = ports.choose(web_ports, (), ())
    return Run(directory, secrets.token_hex(20), web, valkey, receiver)


@contextmanager
def directory() -> Iterator[Path]:
    """A directory of this start alone, locked while it runs and removed afterwards unless the demo failed."""
    path, lock = _make()
    with lock:
        try:
            yield path
        except Exception:
            raise
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)


def _make() -> tuple[Path, IO[str]]:
    home = ROOT / ".demo"
    home.mkdir(exist_ok=True)
    door = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        _remove_old(home)
        path = _new_directory(home)
        lock = _lock(path)
        if lock is None:
            raise RuntimeError(f"{path} is new, and yet locked")
        return path, lock
    finally:
        os.close(door)


def _new_directory(home: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix="run-", dir=home))
    if len(os.fsencode(path / SOCKET_NAME)) > LONGEST_SOCKET_PATH:
        path.rmdir()
        path = Path(tempfile.mkdtemp(prefix="webhooks-demo-", dir=SHORT))
    (path / "logs").mkdir()
    return path


def _remove_old(home: Path) -> None:
    """What demos that failed or were killed have left: nobody holds its lock any more."""
    for path in home.glob("run-*"):
        lock = _lock(path)
        if lock is not None:
            with lock:
                shutil.rmtree(path, ignore_errors=True)


def _lock(path: Path) -> IO[str] | None:
    lock = (path / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
