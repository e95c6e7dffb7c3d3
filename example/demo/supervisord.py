"""supervisord, run from the file that operators copy."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import xmlrpc.client  # nosec B411 # asks the supervisord that it started itself
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from supervisor.xmlrpc import SupervisorTransport

from demo import signals

T = TypeVar("T")

CONFIG = Path(__file__).resolve().parents[2] / "supervisord.conf.example"
PATIENCE = 90  # seconds for each step
PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


class DemoError(Exception):
    """The demo cannot go on, or a check failed: a message, and the program whose log may say why."""


def log(directory: Path, program: str) -> Path:
    return directory / "logs" / f"{program}.log"


class Supervisord:
    """A context manager: the programs stop when its block ends, however it ends.

    It runs in a session of its own: a Ctrl-C reaches the demo alone, which then stops supervisord.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pids: list[int] = []
        with log(directory, "supervisord.out").open("wb") as output:
            self._process = subprocess.Popen(
                [Path(sys.prefix) / "bin" / "supervisord", "-n", "-c", CONFIG],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        if self._process.wait() < 0:  # it was killed, so its programs still run, each in its own group
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def check(self) -> bool:
        """Whether all programs are up. Raises DemoError if supervisord ended or cannot keep a program up."""
        signals.exit_if_received()
        if self._process.poll() is not None:
            raise DemoError("supervisord has ended", "supervisord.out")
        programs: Any = []
        transport = SupervisorTransport(serverurl=f"unix://{self._directory}/supervisor.sock")
        # An OSError: it has not opened its socket yet, or has just ended.
        with suppress(OSError), xmlrpc.client.ServerProxy("http://localhost", transport) as server:
            programs = server.supervisor.getAllProcessInfo()
        self._pids = [program["pid"] for program in programs if program["pid"]] or self._pids
        for program in programs:
            if program["statename"] in ("BACKOFF", "FATAL"):
                why = program["spawnerr"] or program["description"]
                raise DemoError(f"{program['name']} does not stay up: {why}", program["name"])
        return bool(programs) and all(program["statename"] == "RUNNING" for program in programs)

    def wait_for(self, find: Callable[[], T | None], what: str, program: str) -> T:
        """The first true result of ``find``. Raises DemoError if a program fails or the time is up."""
        deadline = time.monotonic() + PATIENCE
        while not (found := find()):
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what} did not happen within {PATIENCE} s", program)
            time.sleep(0.1)
        return found

    def url_of(self, program: str) -> str:
        """Where a server listens, once its log says so."""
        output, pattern = log(self._directory, program), re.compile(r"Listening at: (http\S+)")
        listening = self.wait_for(
            lambda: pattern.search(output.read_text()), f"The start of {program}", program
        )
        return listening[1]


def end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent ends, even if SIGKILL ended it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
