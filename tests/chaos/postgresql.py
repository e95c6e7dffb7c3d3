"""Restarting the PostgreSQL that the tests run on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection, connections

from tests.support.servers import restart_postgresql


def restart(mode: str) -> None:
    """As ``restart_postgresql``, for a server that the tests have started."""
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        pytest.skip("the server that DATABASE_URL names is not ours to restart")
    restart_postgresql(mode)


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
