"""Start render processes by forking one that has imported everything, because starting Python takes longer than most
templates of a test."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from typing import Any

from tests.support.forked import Forked
from webhooks.ground.payloads import templates

# For each request, forks a process that waits for the render process and reports its id and its exit status.
SERVER = """
import os, signal, socket, sys
sys.path += sys.argv[1:]
import render_child
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
control = socket.socket(fileno=0)
while True:
    limits, handles, _, _ = socket.recv_fds(control, 100, 2)
    if not limits:
        break
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        standard, status = handles
        if (pid := os.fork()) == 0:
            os.dup2(standard, 0)
            os.dup2(standard, 1)
            os.closerange(3, 100)
            sys.argv = ["", *limits.decode().split()]
            render_child.main()
            os._exit(0)
        os.close(standard)
        os.write(status, b"%d\\n" % pid)
        os.write(status, b"%d\\n" % os.waitpid(pid, 0)[1])
        os._exit(0)
    for handle in handles:
        os.close(handle)
"""


START = templates._started
"""How the app starts a process that renders."""


class ForkServer:
    """The process to fork starts with the first template."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def _prepare(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", "-c", SERVER, *templates._PATHS]
            self._process = subprocess.Popen(command, stdin=theirs.fileno())

    def start(self, standard: int) -> Any:
        """Replaces ``templates._started``."""
        if self._process is None:
            self._prepare()
        limits = f"{templates.CPU_SECONDS} {templates.MEMORY_MB * 1_000_000}"
        ours, theirs = os.pipe()
        socket.send_fds(self._control, [limits.encode()], [standard, theirs])
        os.close(theirs)
        return _Forked(ours)

    def close(self) -> None:
        if self._process is not None:
            self._control.close()
            self._process.wait(30)


class _Forked(Forked):
    """The part of ``subprocess.Popen`` that the renderer uses."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.stderr = io.BytesIO()
