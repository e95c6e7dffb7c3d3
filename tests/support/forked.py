"""A process that another one has forked and waits for."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress


class Forked:
    """The part of ``subprocess.Popen`` that tests use. The pipe ``status`` reports the process id and the exit
    status, in two lines."""

    def __init__(self, status: int) -> None:
        self._status = os.fdopen(status)
        line = self._status.readline()
        assert line, "the process that was to fork has ended"
        self.pid = int(line)
        self.returncode: int | None = None

    def poll(self, seconds: float = 0) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode

    def wait(self, timeout: float = 30) -> int:
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
