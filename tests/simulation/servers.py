"""The database servers of a command: SQLite in memory, or a PostgreSQL of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db.models.signals import pre_migrate

from tests.simulation import postgresql
from tests.simulation.sqlite import SQLite
from tests.support import servers

COPY = "SIMULATION_COPY"


@contextmanager
def started(vendor: str) -> Iterator[Any]:
    """A migrated database, as the one of each seed. Processes with one ``SIMULATION_COPY`` migrate it once."""
    copy = Path(path) if (path := os.environ.get(COPY)) else None
    if vendor == servers.SQLITE:
        with servers.default_database(vendor, copy):
            yield SQLite()
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # the server runs as another user

        def prepare(**kwargs: Any) -> None:
            """Before the migrations, so that defaults of columns have the simulated time, too."""
            pre_migrate.disconnect(prepare)
            postgresql.prepare(directory)

        pre_migrate.connect(prepare)
        with servers.default_database(vendor, copy):
            yield postgresql.PostgreSQL(directory)
