"""Keep the two threads of a busy worker on one processor core.

Python runs one thread at a time, and each system call of one lets the other go on. Between two cores, that wakes up a
core twice for each delivery, mostly in vain: a sixth of the worker's processor time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

# A worker is busy once it has had something to do for so many seconds. Before, the system places its threads.
BUSY_SECONDS = 0.02

_PROCESSOR = 36  # which value after the name of the thread in its file "stat", see proc_pid_stat(5)


def allowed_cores(thread: int = 0) -> set[int]:
    """The cores that a thread may use, by default the calling one. Empty if the system does not say."""
    try:
        return os.sched_getaffinity(thread)
    except (AttributeError, OSError):  # this is not Linux, or the thread has ended
        return set()


def allow_cores(cores: Iterable[int], thread: int = 0) -> None:
    """Let a thread use these cores, by default the calling one. Does nothing if the system refuses it."""
    with suppress(AttributeError, OSError, ValueError):  # ValueError: there are no cores to choose from
        os.sched_setaffinity(thread, cores)


class OneCore:
    """A block in which this thread and another one stay on the core where this one is when it becomes busy.

    After the block, all threads may use the same cores as before. So may those that began meanwhile: a thread begins
    with the cores of the one that starts it. Where the system has no such call, or refuses it, nothing happens.
    """

    def __init__(self, other: Callable[[], int | None]) -> None:
        """``other`` returns the native id of the other thread, or None if it has not begun."""
        self._other = other
        self._allowed: set[int] = set()
        self._core: int | None = None
        self._busy_since: float | None = None

    def __enter__(self) -> Self:
        self._allowed, self._busy_since = allowed_cores(), None
        return self

    def note(self, is_busy: bool) -> None:
        """Note whether there was something to do since the last call."""
        now = time.monotonic()
        if not is_busy:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        elif self._core is None and len(self._allowed) > 1 and now - self._busy_since >= BUSY_SECONDS:
            self._core = _current_core()
            if self._core is not None:
                for thread in filter(None, (threading.get_native_id(), self._other())):
                    allow_cores({self._core}, thread)

    def __exit__(self, *error: object) -> None:
        if self._core is None:
            return
        for thread in map(int, os.listdir("/proc/self/task")):
            if allowed_cores(thread) == {self._core}:
                allow_cores(self._allowed, thread)
        self._core = None


def _current_core() -> int | None:
    """The core that runs this thread. None if the system does not say."""
    try:
        return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
    except OSError:
        return None
