"""docs/quickstart.md, followed word for word in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.inbox import ROOT
from tests.support.waiting import until

PAGE = (ROOT / "docs" / "quickstart.md").read_text()
STEPS = re.findall(r'^```sh title="\d\. [^"]*"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)

# The package is installed here already, in the environment of the tests.
INSTALLATION = """python3 -m venv venv
. venv/bin/activate
pip install --quiet /path/to/this/checkout
"""


def test_a_newcomer_gets_the_first_delivery(tmp_path: Path) -> None:
    project, background, change = STEPS
    assert INSTALLATION in project
    folder, log = tmp_path / "empty", tmp_path / "log"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "DATABASE", "REDIS"))}
    environment = kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip

    def run(script: str, title: str) -> None:
        done = subprocess.run(
            ["sh", "-eu", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{title}: {done.stdout}{done.stderr}"

    run(project.replace(INSTALLATION, ""), "the project")
    with log.open("wb") as output:
        script = background.replace(" &\n", " --skip-checks &\n").replace("shop.product", "shop.product --port 0") + "wait\n"
        shell = subprocess.Popen(
            ["sh", "-c", script], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until(lambda: "Ctrl-C" in log.read_text() or shell.poll() is not None, 60, "the receiver")
        run(change, "the change")
        line = "verified: created shop.product 1 “Cable” (sequence"
        until(lambda: line in log.read_text() or shell.poll() is not None, 30, "the delivery")
        assert line in log.read_text()
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(30)
