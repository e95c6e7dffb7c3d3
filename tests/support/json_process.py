"""Run a module of the tests in another process, with JSON in and out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.support.inbox import ROOT
from tests.support.waiting import PATIENCE


def run_module(name: str, given: Any, *prefix: str) -> Any:
    """Start ``python -m name``, after the words of ``prefix``. The process reads ``given`` and writes the result."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", name],
        input=json.dumps(given),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'example'}", "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
