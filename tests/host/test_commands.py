"""What every command says of a database that cannot be used: words, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.inbox import ROOT
from tests.support.servers import free_port

COMMANDS = [path.stem for path in (ROOT / "webhooks" / "management" / "commands").glob("webhooks_*.py")]
CAPTURED = ROOT / "tests" / "captured"
ARGUMENTS = {"webhooks_import": [str(CAPTURED / name) for name in ("netbox_webhooks.json", "netbox_event_rules.json")]}


def run(command: str, database: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "example/manage.py", command, *ARGUMENTS.get(command, [])],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": database},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_before_the_migration_says_what_to_do(command: str, tmp_path: Path) -> None:
    done = run(command, f"sqlite:///{tmp_path}/empty.sqlite3")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "CommandError: The database cannot be used: The tables of webhooks are missing, or older than its code: run "
        "manage.py migrate (no such table: webhooks_"
    )
    assert "Traceback" not in done.stderr


def test_a_command_without_a_database_says_so() -> None:
    done = run("webhooks_sweep", f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: The database cannot be used: ")
    assert len(done.stderr.splitlines()) == 1
