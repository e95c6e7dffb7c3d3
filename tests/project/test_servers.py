"""The servers of the tests themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.support.workers import ROOT

HOLDER = """
import time
from tests.support.servers import own_valkey, postgresql
with own_valkey() as (server, url), postgresql() as settings:
    print(server._process.pid, settings["OPTIONS"]["host"], flush=True)
    time.sleep(600)
"""


def test_servers_end_with_their_test_process_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        valkey, data = process.stdout.readline().decode().split()
        process.kill()
    until(lambda: not Path(f"/proc/{valkey}").exists(), 30, "Valkey to end")
    until(lambda: not Path(data).parent.exists(), 30, "PostgreSQL to end")
