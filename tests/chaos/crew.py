"""Worker and writer processes that PostgreSQL knows by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.db import connection

from tests.chaos import claims, ledger
from tests.chaos.writer import Plan
from tests.support.waiting import PATIENCE
from tests.support.workers import SHIPPED, Worker, Workers


class Crew(Workers):
    """Workers by name. On PostgreSQL, their database connections have the same name."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        super().__init__(directory, redis_url)
        self.by_name: dict[str, Worker] = {}
        self._next_name = ""

    def environment(self, **webhooks: Any) -> dict[str, str]:
        environment = super().environment(**webhooks)
        if connection.vendor != "postgresql":
            return environment
        return environment | {"DATABASE_URL": f"{environment['DATABASE_URL']}?application_name={self._next_name}"}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """PostgreSQL logs the claims meanwhile. All workers are ended."""
        is_watching = connection.vendor == "postgresql"
        if is_watching:
            claims.watch()
        yield
        self.end()
        if is_watching:
            claims.unwatch()

    def hire(self, worker_class: str = SHIPPED, **webhooks: Any) -> str:
        """Start a worker, and return its name."""
        self._next_name = f"worker{len(self.logs)}"
        self.by_name[self._next_name] = self.start(worker_class, **webhooks)
        return self._next_name


class Writer:
    """A writer process, which can be killed and replaced until its plan is carried out."""

    def __init__(self, plan: Plan, crew: Crew) -> None:
        self.plan, self._crew = plan, crew
        self.kills = 0
        self._is_over = False
        self.log = crew.directory / f"writer-{plan.name}.log"
        crew.logs.append(self.log)
        self._start(plan)

    def _start(self, plan: Plan) -> None:
        command = ["-m", "tests.chaos.writer", plan.dump()]
        with self.log.open("ab") as output:
            self.process = self._crew.run(command, self._crew.environment(), output)

    def kill(self) -> None:
        """SIGKILL it at any moment, and start another one for the rest of the plan."""
        if self.process.poll() is not None:
            return
        self.process.kill()
        self.process.wait(5 * PATIENCE)
        self.kills += 1
        left = self.plan.changes - ledger.count(self.plan.name)
        self._is_over = left <= 0  # it was killed on its way out
        if not self._is_over:
            self._start(replace(self.plan, changes=left, seed=self.plan.seed + self.kills))

    @property
    def has_begun(self) -> bool:
        return self.log.stat().st_size > 0

    def is_done(self) -> bool:
        """Whether it ended. Raises AssertionError where it failed."""
        if self._is_over:
            return True
        status = self.process.poll()
        assert status in (None, 0), f"writer {self.plan.name} ended with {status}:\n{self.log.read_text()[-3000:]}"
        return status == 0

    def count_lines(self, what: str) -> int:
        """How many lines of its log begin with this word."""
        return sum(line.startswith(f"{what} ") for line in self.log.read_text().splitlines())

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5 * PATIENCE)
