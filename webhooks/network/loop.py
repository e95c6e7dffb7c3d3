"""Many requests at once in one thread. Each is a generator that yields the socket that it waits for."""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# Work that waits for sockets: it yields a socket with READ or WRITE, goes on when that is ready, and returns a T.
Steps = Generator[tuple["Socket", int], None, T]


class Limits:
    """What one attempt may use: ``seconds`` from now, and ``room`` bytes of answers."""

    __slots__ = ("begin", "end", "has_connected", "room")

    def __init__(self, seconds: float, room: int = 0) -> None:
        self.begin = time.monotonic()
        self.end, self.room = self.begin + seconds, room
        self.has_connected = False
        """Whether the attempt opened a connection. False if it used a kept one."""


class Task:
    """Steps that a loop runs."""

    __slots__ = ("done", "limits", "steps")

    def __init__(self, steps: Steps[Any], limits: Limits, done: Callable[[Any], None]) -> None:
        self.steps, self.limits, self.done = steps, limits, done


class Socket(socket.socket):
    """A socket that a loop watches from the first wait until it is closed. One task at a time waits for it."""

    loop: Loop | None = None
    event = 0
    task: Task | None = None

    def close(self) -> None:
        self.unwatch()
        super().close()

    def unwatch(self) -> None:
        """A process that was forked meanwhile has the descriptor, too. Then closing it does not end the watch."""
        if self.loop:
            self.loop.forget(self)


def run(steps: Steps[T], limits: Limits) -> T:
    """Run steps to their end in this thread, without a loop. Passes on their errors."""
    try:
        sock, event = next(steps)
        while True:
            if is_ready(sock, event, limits.end - time.monotonic()):
                sock, event = next(steps)
            else:
                sock, event = steps.throw(TimeoutError("the deadline has passed"))
    except StopIteration as end:
        result: T = end.value
        return result


def is_ready(sock: Socket, event: int, seconds: float) -> bool:
    """Whether a socket is ready within ``seconds``."""
    with selectors.PollSelector() as selector:  # which takes no file descriptor
        selector.register(sock, event)
        return bool(selector.select(max(0.0, seconds)))


class Loop:
    """Runs tasks in the thread that calls ``poll``. Only ``wake`` may be called from other threads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._tasks: set[Task] = set()
        self._next_end = math.inf  # no task ends before this time
        self._alarm, self._bell = socket.socketpair()
        for one in (self._alarm, self._bell):
            one.setblocking(False)
        self._selector.register(self._alarm, READ)

    def start(self, steps: Steps[T], limits: Limits, done: Callable[[T], None]) -> None:
        """Run steps as far as they go without waiting. ``done`` gets their results. They must not raise."""
        task = Task(steps, limits, done)
        self._tasks.add(task)
        self._step(task)

    def poll(self, seconds: float = math.inf) -> None:
        """Wait up to ``seconds`` until a socket is ready, and go on with the tasks that wait for it."""
        seconds = min(seconds, self._next_end - time.monotonic())
        for key, _ in self._selector.select(None if seconds == math.inf else max(0.0, seconds)):
            if not isinstance(sock := key.fileobj, Socket):
                self._alarm.recv(4096)
            elif task := sock.task:
                sock.task = None
                self._step(task)
            else:  # nothing is asked of it: the other side has closed it, or sends too much
                sock.close()
        if time.monotonic() >= self._next_end:
            self._end_late_tasks()

    def wake(self) -> None:
        """End a ``poll`` that waits."""
        try:
            self._bell.send(b"\0")
        except OSError:
            return  # it is full, so the loop wakes up anyway, or the loop is closed

    def forget(self, sock: Socket) -> None:
        self._selector.unregister(sock)
        sock.loop = sock.task = None

    def close(self) -> None:
        """Abandon all tasks."""
        for task in self._tasks:
            task.steps.close()
        self._tasks.clear()
        self._selector.close()
        self._alarm.close()
        self._bell.close()

    def _step(self, task: Task, error: Exception | None = None) -> None:
        try:
            sock, event = task.steps.throw(error) if error else next(task.steps)
        except StopIteration as end:
            self._tasks.discard(task)
            task.done(end.value)
            return
        if sock.loop is None:
            self._selector.register(sock, event)
            sock.loop = self
        elif sock.event != event:
            self._selector.modify(sock, event)
        sock.event, sock.task = event, task
        self._next_end = min(self._next_end, task.limits.end)

    def _end_late_tasks(self) -> None:
        now = time.monotonic()
        for task in [task for task in self._tasks if task.limits.end <= now]:
            self._step(task, TimeoutError("the deadline has passed"))
        self._next_end = min((task.limits.end for task in self._tasks), default=math.inf)
