"""Many requests at once in one thread. Each is a generator that yields the socket, or the result of another thread,
that it waits for.

A receiver decides how much work its answer is. So each answer has a small allowance of processor time. Beyond it, the
answer is costly: all costly answers take turns, and together they get a fiftieth of the time of the thread.
"""

from __future__ import annotations

import math
import resource
import select
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from webhooks.ground.error_kinds import ErrorKind
from webhooks.workers.network.attempt import Refused

T = TypeVar("T")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
PAUSE = 0  # it could go on at once, and lets others go first if it is costly
RESULT = -1

# Work that waits: it yields a socket with READ, WRITE or PAUSE, or a future with RESULT, goes on when it may, and
# returns a T.
Steps = Generator[tuple["Socket | Future[Any]", int], None, T]

# Seconds of processor time for one answer, and for what comes before it, ten times what a usual one takes: a TLS
# handshake verifies certificates.
ALLOWANCE, ALLOWANCE_BEFORE = 0.001, 0.01

# The processor time of an answer is measured after so many seconds by the clock, steps or parts. Another thread may
# have used the seconds: a thread waits for its turn for 5 ms and more. A usual answer has few steps and a dozen parts.
SUSPECT = 0.01
SUSPECT_STEPS = 16
SUSPECT_PARTS = 100

# After a step of a costly answer, all of them rest for so many times as long: they get a fiftieth of the time.
REST = 49

# After a turn, they rest for so many seconds at least. To wake up for one byte costs more than to read it, and more
# bytes arrive meanwhile.
MIN_REST = 0.005

# The parts that one answer may have: chunks, lines of headers, interim answers.
MAX_PARTS = 10_000

MOST_AT_ONCE = 16_384  # bytes that one step reads

# Acknowledges what has arrived. Linux waits 40 ms before it does. A receiver that writes its headers and its body apart
# waits for it in between, and so does one of TLS 1.3 between its session tickets and its first answer. Measured: 45 ms
# a request without this, 2 ms with it. Other systems do not have it.
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)


class Limits:
    """What one attempt may use: ``seconds`` from now, and ``room`` bytes of answers. A limit of bytes does not limit
    the work of chunks of one byte, so each answer may have ``parts``, too.

    To read the processor time of a thread takes ten times as long as to read a clock. So the steps of an answer are
    first measured by a clock, which also counts the time of other threads. Once that is much, or the answer has many
    steps or parts, the measure is exact.
    """

    __slots__ = (
        "_allowance", "_last_step", "_since", "_steps", "_used", "_was_costly", "begin", "end", "has_connected",
        "is_costly", "is_exact", "parts", "room",
    )  # fmt: skip

    def __init__(self, seconds: float, room: int = 0) -> None:
        self.begin = time.monotonic()
        self.end, self.room, self.parts = self.begin + seconds, room, MAX_PARTS
        self.has_connected = False
        """Whether the attempt opened a connection. False if it used a kept one."""
        self.is_costly = self.is_exact = self._was_costly = False
        self._allowance = ALLOWANCE_BEFORE
        self._used = self._last_step = 0.0
        self._steps = 0
        self._since: float | None = None

    @property
    def used(self) -> float:
        """Seconds since ``begin_answer``, with the current step."""
        return self._used + (0.0 if self._since is None else self._now() - self._since)

    @property
    def cost(self) -> float:
        """Seconds of processor time of the answer, or 0 if they are few."""
        return self.used if self.is_exact else 0.0

    @property
    def rest(self) -> float:
        """Seconds that all costly answers rest after the last step of this one."""
        return REST * self._last_step if self.is_costly else 0.0

    def expect(self, is_costly: bool) -> None:
        """Measure exactly from now on. Without an allowance, if the answer is expected to be costly."""
        self.is_exact, self.is_costly, self._was_costly = True, is_costly, is_costly

    @property
    def is_suspect(self) -> bool:
        """Whether the answer has cost more than its allowance, or may have."""
        return self.used > (ALLOWANCE if self.is_exact else SUSPECT)

    def charge(self, count: int) -> None:
        """Count bytes from the network. Raises Refused after too many."""
        self.room -= count
        if self.room < 0:
            raise Refused("the answer has too many bytes", ErrorKind.ANSWER_TOO_LARGE)

    def begin_answer(self) -> None:
        """What came before, such as a TLS handshake, is no part of the answer."""
        self._used, self._steps, self.parts = 0.0, 0, MAX_PARTS
        self._allowance, self.is_costly = ALLOWANCE, self._was_costly
        if self._since is not None:
            self._since = self._now()

    def step(self, steps: Steps[T], error: Exception | None = None) -> tuple[Socket | Future[Any], int]:
        """Take one step, and measure it. Passes on StopIteration and errors."""
        self._since = self._now()
        try:
            return steps.throw(error) if error else next(steps)
        finally:
            self._last_step = self._now() - self._since
            self._used += self._last_step
            self._since = None
            self._steps += 1
            if self.is_exact:
                self.is_costly |= self._used > self._allowance
            elif self._used > SUSPECT or self._steps > SUSPECT_STEPS or self.parts < MAX_PARTS - SUSPECT_PARTS:
                self.is_exact, self._used = True, 0.0

    def _now(self) -> float:
        return time.thread_time() if self.is_exact else time.perf_counter()


class Task:
    """Steps that a loop runs."""

    __slots__ = ("awaited", "done", "limits", "steps")

    def __init__(self, steps: Steps[Any], limits: Limits, done: Callable[[Any], None]) -> None:
        self.steps, self.limits, self.done = steps, limits, done
        self.awaited: Future[Any] | None = None
        """The result of another thread that it waits for."""


class Socket(socket.socket):
    """A socket that does not block. A loop watches it from the first wait until it is closed. One task at a time waits
    for it."""

    loop: Loop | None = None
    event = 0
    task: Task | None = None
    opened = round_trip = 0.0
    """When it was connected (monotonic), and how many seconds that took."""

    @property
    def is_silent(self) -> bool:
        """Whether it is open, and nothing has arrived that waits to be read."""
        if (number := self.fileno()) < 0:
            return False
        poll = select.poll()  # a third of the time of a read that finds nothing
        poll.register(number, READ)
        return not poll.poll(0)

    def write(self, data: bytes | memoryview, limits: Limits) -> Steps[None]:
        """Send all of it. ``limits`` are for what TLS may have to read first."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.send(rest) :]
            except BlockingIOError:
                yield self, WRITE

    def read(self, limits: Limits) -> Steps[bytes]:
        """The next bytes, or none if the other side has closed the connection. Raises Refused after too many bytes."""
        while True:
            yield self, READ
            try:
                data = self.recv(MOST_AT_ONCE)
            except BlockingIOError:
                continue
            limits.charge(len(data))
            return data

    def acknowledge(self) -> None:
        """Let the other side know at once that its bytes have arrived, the next ones included."""
        if _QUICK_ACK:
            self.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def close(self) -> None:
        """A process that was forked meanwhile has the descriptor, too. The receiver must not wait for the end of that
        process."""
        self.unwatch()
        with suppress(OSError):  # it is not connected, or closed already
            self.shutdown(socket.SHUT_RDWR)
        super().close()

    def unwatch(self) -> None:
        """A process that was forked meanwhile has the descriptor, too. Then closing it does not end the watch."""
        if self.loop:
            self.loop.forget(self)


def run(steps: Steps[T], limits: Limits) -> T:
    """Run steps to their end in this thread, without a loop. Passes on their errors."""
    error: Exception | None = None
    try:
        while True:
            awaited, event = limits.step(steps, error)
            if limits.is_costly:
                time.sleep(max(0.0, min(max(limits.rest, MIN_REST), limits.end - time.monotonic())))
            left = limits.end - time.monotonic()
            if isinstance(awaited, Future):
                with suppress(TimeoutError):
                    awaited.exception(max(0.0, left))
                is_late = not awaited.done()
            else:
                is_late = left <= 0 if event == PAUSE else not is_ready(awaited, event, left)
            error = TimeoutError("the deadline has passed") if is_late else None
    except StopIteration as end:
        result: T = end.value
        return result


def call_in_thread(work: Callable[[], T], seconds: float) -> T:
    """Return the result of ``work``, or raise its error. Raises TimeoutError after ``seconds``; the thread goes on.
    Raises Refused if the system does not start a thread."""
    result = Future[T]()

    def call() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    try:
        threading.Thread(target=call, name="webhooks-call", daemon=True).start()
    except RuntimeError as error:
        reason = f"the worker's system does not start another thread: {error}"
        raise Refused(reason, ErrorKind.RESOURCES) from None
    return result.result(seconds)


def usable_descriptors() -> int:
    """Half of the file descriptors that this process may have, for connections. The database, Redis and lookups need
    the others."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit // 2 if limit > 0 else sys.maxsize  # -1: there is no limit


def is_ready(sock: Socket, event: int, seconds: float) -> bool:
    """Whether a socket is ready within ``seconds``."""
    with selectors.PollSelector() as selector:  # which takes no file descriptor
        selector.register(sock, event)
        return bool(selector.select(max(0.0, seconds)))


class Loop:
    """Runs tasks in the thread that calls ``poll``. Other threads may only call ``wake``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._tasks: set[Task] = set()
        self._costly: dict[Task, None] = {}  # could go on, and take turns from ``_next_costly`` on
        self._next_costly = 0.0
        self._next_end = math.inf  # no task ends before this time
        self._results: deque[tuple[Task, Future[Any]]] = deque()  # that other threads have found
        self._alarm, self._bell = socket.socketpair()
        for one in (self._alarm, self._bell):
            one.setblocking(False)
        self._selector.register(self._alarm, READ)

    def add(self, steps: Steps[T], limits: Limits, done: Callable[[T], None]) -> None:
        """Run steps as far as they go without waiting. ``done`` gets their results. They must not raise."""
        task = Task(steps, limits, done)
        self._tasks.add(task)
        self._step(task)

    def poll(self, seconds: float = math.inf) -> None:
        """Wait up to ``seconds`` until a socket is ready, and go on with the tasks that wait for it."""
        end = min(self._next_end, self._next_costly) if self._costly else self._next_end
        seconds = min(seconds, end - time.monotonic())
        for key, _ in self._selector.select(None if seconds == math.inf else max(0.0, seconds)):
            if not isinstance(sock := key.fileobj, Socket):
                self._alarm.recv(4096)
                self._go_on()
            elif task := sock.task:
                sock.task = None
                if task.limits.is_costly:
                    self._wait_for_turn(task, sock)
                else:
                    self._step(task)
            else:  # nothing is asked of it: the other side has closed it, or sends too much
                sock.close()
        now = time.monotonic()
        if now >= self._next_end:
            for task in [task for task in self._tasks if task.limits.end <= now]:
                self._step(task, TimeoutError("the deadline has passed"))
            self._next_end = min((task.limits.end for task in self._tasks), default=math.inf)
        if self._costly and now >= self._next_costly:
            self._step(next(iter(self._costly)))
            self._next_costly = max(self._next_costly, now + MIN_REST)

    def wake(self) -> None:
        """End a ``poll`` that waits."""
        try:
            self._bell.send(b"\0")
        except OSError:
            return  # it is full, so the loop wakes up anyway, or the loop is closed

    def _go_on(self) -> None:
        """Go on with the tasks that have waited for other threads."""
        while self._results:
            task, result = self._results.popleft()
            if task.awaited is result:  # and not ended, or waiting for something else by now
                self._step(task)

    def _note_result(self, task: Task, result: Future[Any]) -> None:
        """Called in the thread that has found it."""
        self._results.append((task, result))
        self.wake()

    def forget(self, sock: Socket) -> None:
        self._selector.unregister(sock)
        sock.loop = sock.task = None

    def close(self) -> None:
        """Abandon all tasks."""
        for task in self._tasks:
            task.steps.close()
        self._tasks.clear()
        self._costly.clear()
        self._selector.close()
        self._alarm.close()
        self._bell.close()

    def _step(self, task: Task, error: Exception | None = None) -> None:
        self._costly.pop(task, None)
        task.awaited = None
        limits = task.limits
        try:
            sock, event = limits.step(task.steps, error)
            while event == PAUSE and not limits.is_costly:
                sock, event = limits.step(task.steps)
        except StopIteration as end:
            self._tasks.discard(task)
            task.done(end.value)
            return
        finally:
            if rest := limits.rest:
                self._next_costly = max(self._next_costly, time.monotonic()) + rest
        self._next_end = min(self._next_end, limits.end)
        if isinstance(sock, Future):
            task.awaited = sock
            sock.add_done_callback(partial(self._note_result, task))
            return
        if event == PAUSE:
            self._wait_for_turn(task, sock)
            return
        if sock.loop is None:
            self._selector.register(sock, event)
            sock.loop = self
        elif sock.event != event:
            self._selector.modify(sock, event)
        sock.event, sock.task = event, task

    def _wait_for_turn(self, task: Task, sock: Socket) -> None:
        """Nothing reads the socket meanwhile. What comes is read together, and once its buffer is full, the receiver
        has to wait."""
        sock.unwatch()
        self._costly[task] = None
