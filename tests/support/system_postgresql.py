"""A PostgreSQL server from the packages of the system. Those have ICU and the extensions that NetBox needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.servers import START_TIMEOUT, free_port
from tests.support.waiting import PATIENCE, until

USER = "netbox"
PACKAGED = Path("/usr/lib/postgresql")
# PostgreSQL refuses to run as root. The packages add this user to the system.
UNPRIVILEGED = "postgres"

OPTIONS = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "listen_addresses": "",
    "max_connections": "50", "max_locks_per_transaction": "256",
}  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A running server, with ``host`` as the directory of its socket. Every local user may connect as ``user``."""

    programs: Path
    host: str
    port: int
    user: str = USER

    def run(self, program: str, *arguments: str, **options: Any) -> bytes:
        """Run one of PostgreSQL's programs with this server. Returns what it prints."""
        address = ["--host", self.host, "--port", str(self.port), "--username", self.user]
        command = [str(self.programs / program), *address, *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, **options)
        return done.stdout

    def is_ready(self) -> bool:
        command = [self.programs / "pg_isready", "--quiet", "--host", self.host, "--port", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0


def find_programs() -> Path:
    """The directory of the newest packaged PostgreSQL, or of the one on the PATH."""
    packaged = [path for path in PACKAGED.glob("*/bin") if (path / "initdb").exists()]
    if packaged:
        return max(packaged, key=lambda path: int(path.parent.name))
    if found := shutil.which("initdb"):
        return Path(found).parent
    sys.exit("PostgreSQL was not found. Debian: apt-get install postgresql")


@contextmanager
def system_postgresql() -> Iterator[Server]:
    """A new server on a Unix socket. Its files are deleted at the end."""
    programs = find_programs()
    directory = Path(tempfile.mkdtemp(prefix="npg-"))  # short: the path of a socket has 107 characters at most
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        user = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
        shutil.chown(directory, UNPRIVILEGED, UNPRIVILEGED)
    # Other users may reach the socket.
    directory.chmod(0o755)
    data, log = directory / "data", directory / "log"
    create = [programs / "initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync"]
    encoding = ["--encoding", "UTF8", "--locale", "C.UTF-8"]
    try:
        subprocess.run([*create, *encoding], check=True, cwd=directory, stdout=subprocess.DEVNULL, **user)
        server = Server(programs, str(directory), free_port())
        options = [text for name, value in OPTIONS.items() for text in ("-c", f"{name}={value}")]
        command = [programs / "postgres", "-D", data, "-k", directory, "-p", str(server.port), *options]
        with log.open("wb") as output:
            # In a session of its own: at Ctrl-C, it ends after those who use it.
            process = subprocess.Popen(
                command, cwd=directory, stdout=output, stderr=output, start_new_session=True, **user
            )
        try:
            until(server.is_ready, START_TIMEOUT, lambda: f"PostgreSQL: {log.read_text()[-2000:]}")
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # ends the connections
            process.wait(10 * PATIENCE)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
