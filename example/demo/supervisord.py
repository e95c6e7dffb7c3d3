"""Runs supervisord with the configuration file for operators, supervisord.conf.example."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import xmlrpc.client  # nosec B411 # only talks to its own supervisord
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from supervisor.xmlrpc import SupervisorTransport

from demo import signals

T = TypeVar("T")

CONFIG = Path(__file__).resolve().parents[2] / "supervisord.conf.example"
TIMEOUT = 90  # seconds for each step
PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)


class DemoError(Exception):
    """The demo or a check failed. The arguments are a message and the name of the log to look into."""


def log(directory: Path, program: str) -> Path:
    return directory / "logs" / f"{program}.log"


class Supervisord:
    """A context manager that starts supervisord and stops all programs at the end.

    It runs in a new session, so Ctrl-C reaches only the demo, which then stops supervisord.
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
        if self._process.wait() < 0:  # killed: its programs still run, each in its own group
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

    def check(self) -> bool:
        """Return whether all programs run. Raises DemoError if supervisord or a program has failed."""
        signals.exit_if_received()
        if self._process.poll() is not None:
            raise DemoError("supervisord has ended", "supervisord.out")
        programs: Any = []
        transport = SupervisorTransport(serverurl=f"unix://{self._directory}/supervisor.sock")
        # OSError: supervisord has not opened its socket yet, or has just ended.
        with suppress(OSError), xmlrpc.client.ServerProxy("http://localhost", transport) as server:
            programs = server.supervisor.getAllProcessInfo()
        self._pids = [program["pid"] for program in programs if program["pid"]] or self._pids
        for program in programs:
            if program["statename"] in ("BACKOFF", "FATAL"):
                why = program["spawnerr"] or program["description"]
                raise DemoError(f"{program['name']} does not keep running: {why}", program["name"])
        return bool(programs) and all(program["statename"] == "RUNNING" for program in programs)

    def wait_for(self, find: Callable[[], T | None], what: str, program: str) -> T:
        """Wait for a true result of ``find``. Raises DemoError if a program fails, or on timeout."""
        deadline = time.monotonic() + TIMEOUT
        while not (result := find()):
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{what} did not happen within {TIMEOUT} s", program)
            time.sleep(0.1)
        return result

    def url_of(self, program: str) -> str:
        """Wait until the log of a server contains its URL, and return it."""
        output, pattern = log(self._directory, program), re.compile(r"Listening at: (http\S+)")
        return self.wait_for(lambda: pattern.search(output.read_text()), f"The start of {program}", program)[
            1
        ]


def end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent ends, even after SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
