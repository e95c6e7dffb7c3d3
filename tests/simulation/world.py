"""The scheduler: processes whose tasks take turns, one at a time, on simulated time.

A task is a greenlet, so a switch costs a microsecond, and the order of all steps follows from the seed. It gives way
before each statement, before each commit, and where it waits. Then the task whose time comes first goes on.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet

# Seconds that a step takes. A few are slow, so that processes overtake each other everywhere.
QUICK, SLOW, SLOW_PART = (0.0002, 0.004), (0.05, 0.6), 0.03

# Django names savepoints after the thread, which differs from run to run.
SAVEPOINT = re.compile(r"s\d+(?=_x\d)")


class Failure(Exception):
    """A promise was broken. The first argument is a sentence that says which one, and where."""


@dataclass(eq=False)
class Process:
    """An operating system's process: it has memory and connections of its own, and dies as a whole."""

    name: str
    is_alive: bool = True
    stopped_until: float = 0.0
    """It was stopped, as by SIGSTOP, until this time."""
    clock_error: float = 0.0
    """Seconds that the clock of its machine is ahead."""
    connections: dict[str, Any] = field(default_factory=dict)
    """Django's connections, by alias."""
    memory: dict[Any, Any] = field(default_factory=dict)
    """The values of variables of modules, while another process runs."""
    traps: list[Trap] = field(default_factory=list)
    """Faults that wait for one of its next steps."""


@dataclass
class Trap:
    """A fault that a process meets at its step ``after`` so many others. With ``at_commit``, only commits count."""

    after: int
    meet: Callable[[Task, Any], Any]
    at_commit: bool = False


@dataclass(eq=False)
class Task:
    """A thread of a process."""

    process: Process
    name: str
    greenlet: Any = None
    until: float = 0.0
    """When it goes on."""
    number: int = 0
    """The order of tasks whose time comes together."""


class World:
    """Time, processes and what is to happen. ``random`` decides all that is left open."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.current: Task | None = None
        self.tasks: list[Task] = []
        self.trace: Callable[[str], None] | None = None
        self.on_switch: Callable[[Process, Process], None] = lambda before, after: None
        """Exchanges the memory of processes."""
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._running = Process("none")
        self._hub = getcurrent()
        self._dead: list[Task] = []  # a greenlet that is collected would run its ``finally`` blocks

    # For the world

    def spawn(self, process: Process, work: Callable[[], object], name: str = "", delay: float = 0.0) -> Task:
        """Begin a task of a process."""
        task = Task(process, name or process.name, until=self.now + delay, number=next(self._numbers))
        task.greenlet = greenlet(lambda: self._work(task, work), self._hub)
        self.tasks.append(task)
        return task

    def at(self, moment: float, call: Callable[[], None]) -> None:
        """Let ``call`` happen at this time, outside of all processes."""
        heapq.heappush(self._timers, (moment, next(self._numbers), call))

    def run(self, until: float) -> None:
        """Let time pass."""
        self._hub = getcurrent()
        while True:
            task = min(self.tasks, key=_turn, default=None)
            moment = _turn(task)[0] if task else until
            if self._timers and self._timers[0][0] <= min(moment, until):
                moment, _, call = heapq.heappop(self._timers)
                self.now = max(self.now, moment)
                call()
            elif task is None or moment > until:
                self.now = until
                return
            else:
                self.now = max(self.now, moment)
                self._switch(task)

    def kill(self, process: Process) -> None:
        """End a process at once: none of its code runs any more."""
        process.is_alive = False
        self._dead += [task for task in self.tasks if task.process is process]
        self.tasks = [task for task in self.tasks if task.process is not process]

    def wake(self, task: Task) -> None:
        """Let a task that waits go on now."""
        task.until = min(task.until, self.now)

    def log(self, text: str) -> None:
        if self.trace:
            name = self.current.name if self.current else "world"
            self.trace(f"{self.now:9.4f} {name:10} {text}")

    # For tasks

    def sleep(self, seconds: float) -> None:
        """Wait, until somebody wakes this task or the time is over."""
        task = self._task()
        task.until = self.now + max(0.0, seconds)
        self._hub.switch()

    def step(self, what: Any, is_commit: bool = False) -> Any:
        """Give way before a step. Returns what the step is to do instead, if a fault meets it."""
        task = self._task()
        self.steps += 1
        self.sleep(self.random.uniform(*(SLOW if self.random.random() < SLOW_PART else QUICK)))
        if self.trace:
            self.log(" ".join(SAVEPOINT.sub("savepoint", str(what)).split())[:150])
        for trap in task.process.traps:
            if trap.at_commit and not is_commit:
                continue
            trap.after -= 1
            if trap.after < 0:
                task.process.traps.remove(trap)
                return trap.meet(task, what)
        return None

    def vanish(self) -> None:
        """Leave a task that was killed meanwhile, for ever."""
        self._hub.switch()

    def _task(self) -> Task:
        assert self.current is not None, "only a task can wait"
        return self.current

    def _switch(self, task: Task) -> None:
        if task.process is not self._running:
            self.on_switch(self._running, task.process)
            self._running = task.process
        self.current = task
        try:
            task.greenlet.switch()
        finally:
            self.current = None

    def _work(self, task: Task, work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            if task in self.tasks:
                self.tasks.remove(task)


def _turn(task: Task) -> tuple[float, int]:
    return max(task.until, task.process.stopped_until), task.number
