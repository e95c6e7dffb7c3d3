"""PgBouncer in transaction mode, in front of the PostgreSQL of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from django.db import connection
from psycopg.rows import dict_row

from tests.support.servers import free_port
from tests.support.waiting import PATIENCE, until

# Debian installs it where only root's PATH looks.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")

POOL_SIZE = 3

# PgBouncer restores these settings for each client. All others must end with their transaction.
TRACKED = [
    "application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings",
]  # fmt: skip

TRACES = """
SELECT 'setting', name FROM pg_settings WHERE source = 'session' AND name <> ALL (%s)
UNION ALL SELECT 'lock', objid::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'statement', name FROM pg_prepared_statements WHERE from_sql
UNION ALL SELECT 'cursor', name FROM pg_cursors WHERE is_holdable
UNION ALL SELECT 'channel', name FROM pg_listening_channels() AS channels (name)
UNION ALL SELECT 'table', relname FROM pg_class WHERE relpersistence = 't' AND relnamespace = pg_my_temp_schema()
"""

CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
stats_users = {stats}
pool_mode = transaction
default_pool_size = {size}
{user}
"""


class PgBouncer:
    """A pooler with ``POOL_SIZE`` connections to the server. Its clients are more, and share them."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.log = directory / "pgbouncer.log"
        self._configuration = directory / "pgbouncer.ini"
        self._configuration.write_text(_configuration(self.port), encoding="utf-8")
        self.start()

    def start(self) -> None:
        assert PROGRAM, "PgBouncer is not installed (Debian: apt-get install pgbouncer)"
        command = [PROGRAM, str(self._configuration)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        until(lambda: self.process.poll() is not None or self._answers(), 10, "PgBouncer to answer")
        assert self.process.poll() is None, self.log.read_text()

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), self._connect():
            return True
        return False

    def _connect(self, database: str = "", **options: Any) -> psycopg.Connection[Any]:
        current = connection.settings_dict
        database = database or current["NAME"]
        return psycopg.connect(host="127.0.0.1", port=self.port, user=current["USER"], dbname=database, **options)

    def traces(self) -> list[tuple[str, str]]:
        """What earlier transactions left in the connections to the server: settings, locks, statements and cursors."""
        with ExitStack() as stack:
            clients = [stack.enter_context(self._connect()) for _ in range(POOL_SIZE)]
            # Each transaction keeps its connection, so these are all different ones.
            servers = {client.execute("SELECT pg_backend_pid()").fetchone() for client in clients}
            assert len(servers) == POOL_SIZE, servers
            return [row for client in clients for row in client.execute(TRACES, [TRACKED]).fetchall()]

    def count_transactions(self) -> int:
        """How many transactions it has passed on so far."""
        with self._connect("pgbouncer", autocommit=True, cursor_factory=psycopg.ClientCursor) as console:
            totals = console.cursor(row_factory=dict_row).execute("SHOW STATS_TOTALS").fetchall()
        return sum(int(row["xact_count"]) for row in totals if row["database"] != "pgbouncer")

    def url(self, **options: str) -> str:
        """A DATABASE_URL through the pooler."""
        name, query = connection.settings_dict["NAME"], "&".join(f"{key}={quote(options[key])}" for key in options)
        return f"postgresql://{quote(connection.settings_dict['USER'])}@127.0.0.1:{self.port}/{name}?{query}"

    def restart(self) -> None:
        """Kill it, with all its connections, and start it again on the same port."""
        self.process.kill()
        self.process.wait(5 * PATIENCE)
        self.start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(10 * PATIENCE)


def _configuration(port: int) -> str:
    current = connection.settings_dict
    host = str(current["HOST"] or current["OPTIONS"].get("host", ""))
    server = {"host": host, "port": current["PORT"], "user": current["USER"], "password": current["PASSWORD"]}
    given = " ".join(f"{name}='{value}'" for name, value in server.items() if value)
    # It refuses to run as root. The owner of the server's socket may open it.
    account = Path(host).owner() if host.startswith("/") else "nobody"
    user = f"user = {account}" if os.geteuid() == 0 else ""
    return CONFIGURATION.format(server=given, port=port, size=POOL_SIZE, stats=current["USER"], user=user)


@contextmanager
def pgbouncer(directory: Path) -> Iterator[PgBouncer]:
    """Start PgBouncer, with its files in this directory, and stop it afterwards."""
    pooler = PgBouncer(directory)
    try:
        yield pooler
    finally:
        pooler.stop()
