"""``python -m tests.netbox PYTEST-ARGUMENTS``: start PostgreSQL and Valkey, and run the tests in the installed NetBox.

``--renew-tables`` writes the tables of a new NetBox again. It runs no tests. If the variable ``NETBOX_DATABASE_HOST``
is set, your own servers are used, see ``configuration.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.netbox import tables
from tests.support.servers import own_valkey
from tests.support.system_postgresql import Server, system_postgresql

HERE = Path(__file__).parent


@contextmanager
def servers() -> Iterator[tuple[Server, dict[str, str]]]:
    """A PostgreSQL, and the variables for NetBox's configuration that lead to it and to a Valkey."""
    with own_valkey() as (_server, url), system_postgresql() as server:
        yield (
            server,
            {
                "NETBOX_CONFIGURATION": "tests.netbox.configuration",
                "NETBOX_DATABASE_USER": server.user,
                "NETBOX_DATABASE_HOST": server.host,
                "NETBOX_DATABASE_PORT": str(server.port),
                "NETBOX_DATABASE_TEMPLATE": tables.NAME,
                "NETBOX_REDIS_PORT": str(urlsplit(url).port),
            },
        )


def run_tests(arguments: Sequence[str], environment: dict[str, str]) -> int:
    names_tests = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    chosen = [*arguments] if names_tests else [*arguments, str(HERE)]
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE), *chosen]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def main(*arguments: str) -> int:
    if "NETBOX_DATABASE_HOST" in os.environ:
        return run_tests(arguments, {})
    with servers() as (server, environment):
        if "--renew-tables" in arguments:
            tables.renew(server, environment)
            return 0
        tables.create(server, environment)
        return run_tests(arguments, environment)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
