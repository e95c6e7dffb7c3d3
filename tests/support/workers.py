"""Real worker processes: ``manage.py rqworker webhooks``, as an operator runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pytest
from django.db.models.functions import Now

from tests.support.forked import Forked
from tests.support.inbox import ROOT
from tests.support.prepared import END, PREPARED
from tests.support.servers import database_url, no_other_writes
from tests.support.waiting import PATIENCE, until
from webhooks import models

SHIPPED, STOCK = "webhooks.workers.WebhookWorker", "rq.worker.Worker"

Process = subprocess.Popen[bytes] | Forked

LOGS = pytest.StashKey[list[Path]]()


class Worker:
    """One worker process and its log."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process, self.log = process, log
        self.started_at = time.time()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_until_listening(self, seconds: float = 30) -> None:
        until(lambda: "istening on" in self.text or self.process.poll() is not None, seconds, "the worker to start")
        assert self.process.poll() is None, f"the worker ended:\n{self.text}"

    def listening_at(self) -> float:
        """The time of the log line that it listens, in seconds since 1970, to the millisecond."""
        [stamp] = re.findall(r"^(\S+ \S+) INFO .*Listening on", self.text, re.MULTILINE)
        return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()

    def stop(self, seconds: float = 20) -> int:
        """Send SIGTERM, as supervisord does. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds * PATIENCE)

    def freeze(self) -> None:
        """Send SIGSTOP between two transactions: locks of an open one would block the other workers and the test."""
        until(self._is_frozen_idle, 20, "the worker to be between two transactions")

    def _is_frozen_idle(self) -> bool:
        self.process.send_signal(signal.SIGSTOP)
        if not (is_idle := no_other_writes()):
            self.thaw()
        return is_idle

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end_if_childless(self) -> None:
        """Child processes would outlive it: a work horse could go on with the rows of the next test."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGSTOP)
        children = ""
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with suppress(OSError):  # the thread has just ended
                children += path.read_text()
        if not children:
            self.process.send_signal(END)
        self.thaw()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5 * PATIENCE)

    def end_lease(self) -> None:
        """End its lease. A test that has killed it need not wait for that."""
        models.Worker.objects.filter(name__endswith=f":{self.pid}").update(lease_until=Now())


class Workers:
    """Starts workers on the database and the Redis of this test."""

    # Whether a prepared process forks them. Otherwise each is a new process, as an operator starts it.
    is_forking = True

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory, self.redis_url = directory, redis_url
        self.logs: list[Path] = []
        self._running: list[Worker] = []

    def environment(self, **webhooks: Any) -> dict[str, str]:
        """The environment of a process of the host project; keywords override keys of its setting WEBHOOKS."""
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'example'}",
            "DATABASE_URL": database_url(),
            "REDIS_URL": self.redis_url,
            "TEST_WEBHOOKS": json.dumps(webhooks),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, worker_class: str = SHIPPED, *arguments: str, **webhooks: Any) -> Worker:
        """Start ``manage.py rqworker webhooks`` with this worker class, without system checks. They would take a
        quarter of the time of a start in a new process."""
        log = self.directory / f"worker-{len(self.logs)}.log"
        options = ["--skip-checks", "--worker-class", worker_class]
        command = ["example/manage.py", "rqworker", "webhooks", *options]
        with log.open("wb") as output:
            process = self.run([*command, *arguments], self.environment(**webhooks), output)
        self.logs.append(log)
        self._running.append(Worker(process, log))
        return self._running[-1]

    def run(self, arguments: list[str], environment: dict[str, str], output: IO[bytes]) -> Process:
        """Start ``python arguments`` with its output in a file."""
        if self.is_forking:
            return PREPARED.start(arguments, ROOT, environment, output)
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def manage(self, *arguments: str) -> None:
        """Run a management command in another process."""
        log = self.directory / "manage.log"
        with log.open("wb") as output:
            process = self.run(["example/manage.py", *arguments], self.environment(), output)
        assert process.wait(60 * PATIENCE) == 0, f"manage.py {' '.join(arguments)} failed:\n{log.read_text()}"

    def end(self) -> None:
        """End the workers at the end of a test. An orderly stop takes two seconds, so idle workers end at once."""
        for worker in self._running:
            worker.end_if_childless()
        self.stop_all()

    def stop_all(self) -> None:
        for worker in self._running:
            if worker.process.poll() is None:
                worker.process.terminate()
        for worker in self._running:
            try:
                worker.process.wait(3)
            except subprocess.TimeoutExpired:
                worker.kill()
