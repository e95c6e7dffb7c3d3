"""A database with the tables of a new NetBox, without the plugin.

NetBox's migrations take minutes, so ``tables.sql.gz`` has their result. If the installed NetBox has more migrations,
Django applies them to each test database. ``scripts/test-netbox --renew-tables`` writes the file again.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.support.system_postgresql import Server

FILE = Path(__file__).with_name("tables.sql.gz")
NAME = "netbox_tables"

# Settings that other releases may not know, and what older releases of psql do not understand.
_SETTINGS = (
    rb"\w+_timeout|client_min_messages|check_function_bodies|default_table\w+|row_security|standard_conforming_strings"
    rb"|xmloption"
)
_LEFT_OUT = re.compile(
    rb"(?m)^(SET (%s) = |SELECT pg_catalog\.set_config|\\restrict|\\unrestrict|--(?= |$)|COMMENT ON EXTENSION).*\n"
    % _SETTINGS
)


def installed() -> str:
    """The version of the installed NetBox."""
    return version("netbox")


def contained() -> str:
    """The version of NetBox in the file."""
    with gzip.open(FILE, "rt") as file:
        return file.readline().removeprefix("-- NetBox ").strip()


def create(server: Server, environment: dict[str, str]) -> None:
    """Create the database: from the file, or by all migrations if the installed NetBox is another or an older one."""
    server.run("createdb", NAME)
    if parts(contained()) > parts(installed()) or parts(contained())[:2] != parts(installed())[:2]:
        print(f"{FILE.name} has the tables of NetBox {contained()}. So {installed()} migrates, which takes minutes.")
        migrate(environment)
        return
    statements = "SET client_min_messages = warning; SET check_function_bodies = false;\n" + text()
    options = ["--quiet", "--no-psqlrc", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    server.run("psql", *options, NAME, input=statements.encode())


def parts(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


def migrate(environment: dict[str, str]) -> None:
    """Let NetBox create its tables, without the plugin."""
    without = {**os.environ, **environment, "NETBOX_DATABASE": NAME, "NETBOX_PLUGINS": ""}
    subprocess.run([sys.executable, "-m", "netbox", "migrate", "--no-input"], env=without, check=True)


def text() -> str:
    """The statements, with the rows that the migrations insert."""
    return gzip.decompress(FILE.read_bytes()).decode()


def renew(server: Server, environment: dict[str, str]) -> None:
    """Migrate an empty database, and write the file."""
    server.run("createdb", NAME)
    migrate(environment)
    dumped = server.run("pg_dump", "--no-owner", "--no-privileges", NAME)
    kept = re.sub(rb"\n{2,}", b"\n", _LEFT_OUT.sub(b"", dumped))
    written = b"-- NetBox %s\n%s" % (installed().encode(), kept)
    # Without a time, so that the same tables are the same file.
    FILE.write_bytes(gzip.compress(written, 9, mtime=0))
    print(f"{FILE}: NetBox {installed()}, {FILE.stat().st_size:,} bytes")
