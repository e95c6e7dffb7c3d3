"""Start processes of the host project by forking one that has set Django up: setting it up takes a second of CPU.

``python -m tests.support.prepared`` is that process. It forks for each request, and a second time: the parent waits for
the started process, and reports its id and its exit status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from posix import _exit  # coverage replaces the one in os, and writes its figures first
from typing import IO, NoReturn

from tests.support.forked import Forked

# The host project reads these when it is asked to. All others may count already while Django is set up.
READ_LATE = {
    "BENCH_TRANSACTIONS", "DATABASE_URL", "DISABLE_SERVER_SIDE_CURSORS", "DJANGO_ALLOW_ASYNC_UNSAFE", "LOG_LEVEL",
    "REDIS_URL", "TEST_WEBHOOKS",
}  # fmt: skip
OF_PYTEST = {"PYTEST_CURRENT_TEST"}

LARGEST_REQUEST = 100_000

# Ends a started process at once. After SIGKILL, coverage could not write its figures.
END = signal.SIGUSR2


class PreparedProcess:
    """Keeps one prepared process, and replaces it if the environment differs in more than ``READ_LATE``."""

    def __init__(self) -> None:
        self._fixed: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str], cwd: Path, environment: dict[str, str], output: IO[bytes]) -> Forked:
        """Like ``python arguments``, which begin with the path of a script, or with -m and a module."""
        late = {name: value for name, value in environment.items() if name in READ_LATE}
        fixed = {name: value for name, value in environment.items() if name not in READ_LATE | OF_PYTEST}
        if fixed != self._fixed or self._process is None or self._process.poll() is not None:
            self.close()
            self._prepare(cwd, fixed)
        ours, theirs = os.pipe()
        socket.send_fds(self._control, [json.dumps([arguments, late]).encode()], [output.fileno(), theirs])
        os.close(theirs)
        return Forked(ours)

    def _prepare(self, cwd: Path, fixed: dict[str, str]) -> None:
        self._fixed = fixed
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.support.prepared"]
            self._process = subprocess.Popen(command, cwd=cwd, env=fixed, stdin=theirs.fileno())

    def close(self) -> None:
        """End it. The processes that it has started go on."""
        if self._process is not None:
            self._control.close()
            self._process.wait(60)
            self._process = None


PREPARED = PreparedProcess()
atexit.register(PREPARED.close)


def serve(control: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Fork for each request. Returns in the started processes alone, with their arguments and variables."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, handles, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 2)
        if not request:
            sys.exit()
        if os.fork() == 0:
            output, status = handles
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (pid := os.fork()) != 0:
                report(pid, status)
            os.close(status)
            for standard in (sys.stdout, sys.stderr):
                os.dup2(output, standard.fileno())
            os.close(output)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), control.detach())
            arguments, late = json.loads(request)
            return arguments, late
        for handle in handles:
            os.close(handle)


def report(pid: int, status: int) -> NoReturn:
    """Write the process id, and its exit status when it has ended."""
    try:
        os.write(status, b"%d\n" % pid)
        os.write(status, b"%d\n" % os.waitpid(pid, 0)[1])
    finally:
        _exit(0)


def read_settings_again() -> None:
    """Let the settings follow the variables of this process, and the app follow the settings."""
    from django.apps import apps
    from django.conf import empty, settings
    from django.db import connections

    connections.close_all()
    for name in ("project.settings", os.environ["DJANGO_SETTINGS_MODULE"]):
        importlib.reload(sys.modules[name])
    settings._wrapped = empty
    connections.settings = connections.configure_settings(settings.DATABASES)
    for alias in connections:
        if hasattr(connections._connections, alias):
            del connections[alias]
    apps.get_app_config("rq_webhooks").ready()


def run(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def main() -> None:
    import django

    django.setup()
    import django_rq.management.commands.rqworker  # noqa: F401 - most processes are workers

    gc.collect()
    gc.freeze()
    arguments, late = serve(socket.socket(fileno=0))
    os.environ.update(late)
    read_settings_again()
    signal.signal(END, lambda *_: os._exit(0))
    run(arguments)


if __name__ == "__main__":
    main()
