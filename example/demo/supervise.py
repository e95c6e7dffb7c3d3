"""supervisord, started from the file that operators copy, and all that it starts."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client  # nosec B411 # asks the supervisord that it started itself
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from demo.errors import DemoError, PortTaken
from demo.run import ROOT, Run

CONFIG = ROOT / "supervisord.conf.example"

# Longer than the longest stopwaitsecs, twice over: the web server and the worker end one after the other.
STOP_SECONDS = 50


class Supervisord:
    """One supervisord in a session of its own, so that a Ctrl-C reaches the demo alone, which stops it."""

    def __init__(self, here: Run) -> None:
        self._here = here
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = str(Path(sys.prefix) / "bin" / "supervisord")
        with self._here.log("supervisord.out").open("wb") as output:
            self._process = subprocess.Popen(
                [program, "--nodaemon", "--configuration", str(CONFIG)],
                env=self._here.environment(),
                cwd=self._here.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise DemoError when supervisord has ended or a program does not stay up.

        Raises PortTaken where the program's port is in use.
        """
        if self._process is None or self._process.poll() is not None:
            raise DemoError("supervisord has ended", self._here.log("supervisord.out"))
        for program in self._programs():
            if program["statename"] in ("BACKOFF", "EXITED", "FATAL"):
                raise self._failure_of(program)

    def _failure_of(self, program: dict[str, Any]) -> DemoError:
        log = self._here.log(program["name"])
        is_taken = log.exists() and os.strerror(errno.EADDRINUSE) in log.read_text(errors="replace")
        kind = PortTaken if is_taken else DemoError
        why = program["spawnerr"] or program["description"]
        return kind(f"{program['name']} does not stay up: {why}", log)

    def _programs(self) -> list[dict[str, Any]]:
        transport = SupervisorTransport(serverurl=f"unix://{self._here.socket}")
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as server:
                programs: Any = server.supervisor.getAllProcessInfo()
                return list(programs)
        except OSError:
            return []  # it has not opened its socket yet, or has just ended

    def stop(self) -> None:
        """Stop it and all that it started; what does not end in time is killed."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _end_session(self._process.pid)


def _end_session(session: int) -> None:
    """Kill what is left of a session: processes whose supervisord was itself killed."""
    deadline = time.monotonic() + 5
    while (left := _members(session)) and time.monotonic() < deadline:
        for pid in left:
            _kill(pid)
        time.sleep(0.1)


def _members(session: int) -> list[int]:
    return [pid for pid in _processes() if _session_of(pid) == session]


def _processes() -> list[int]:
    if Path("/proc/self").exists():
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    listing = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listing.stdout.split()]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _kill(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
