"""Keep the two threads of a busy worker on one processor core.

Python runs one thread at a time, and each system call of one lets the other go on. Between two cores, that wakes up a
core twice for each delivery, mostly in vain: a sixth of the worker's processor time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Self

# A worker is busy once it has had something to do for so many seconds. Before, the system places its threads.
BUSY_SECONDS = 0.02

# After so many seconds on a core, the system places the threads for a moment, and the worker stays where they are then.
# Two workers may have chosen the same core, and the system cannot part them.
CHOSEN_AGAIN_AFTER = 0.5

# More cores than a machine has. Linux ignores the others, and cores that the process may not use.
ALL = frozenset(range(1024))

_PROCESSOR = 36  # which value after the name of the thread in its file "stat", see proc_pid_stat(5)


def allowed_cores(thread: int = 0) -> set[int]:
    """The cores that a thread may use, by default the calling one. Empty if the system does not say."""
    try:
        return os.sched_getaffinity(thread)
    except (AttributeError, OSError):  # this is not Linux, or the thread has ended
        return set()


def allow_cores(cores: Collection[int], thread: int = 0) -> None:
    """Let a thread use these cores, by default the calling one. Does nothing if the system refuses it."""
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(thread, cores)


class OneCore:
    """A block in which this thread and another one stay on the core where this one is when it becomes busy.

    After the block, both may use the same cores as before. So may the threads that began meanwhile: a thread begins
    with the cores of the one that starts it. Where the system has no such call, or refuses it, nothing happens.
    """

    def __init__(self, other: Callable[[], int | None]) -> None:
        """``other`` returns the native id of the other thread, or None if it is not running."""
        self._other = other
        self._core: int | None = None
        self._before: Collection[int] = ALL  # what its threads could use before
        self._own: list[int] = []  # the two threads, while they are on the core
        self._kept: set[int] = set()  # threads that the host keeps to this core
        self._busy_since: float | None = None
        self._stays_until = 0.0

    def __enter__(self) -> Self:
        self._busy_since = None
        return self

    def note(self, is_busy: bool) -> None:
        """Note whether there was something to do since the last call."""
        now = time.monotonic()
        if self._core is not None:
            if now < self._stays_until:
                return
            self._leave()
            self._busy_since = None
        if not is_busy:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since >= BUSY_SECONDS:
            self._stay()
            self._stays_until = now + CHOSEN_AGAIN_AFTER

    def free_this_thread(self) -> None:
        """Let the calling thread use the cores of before the block. For a thread that the other one has started, and
        that starts programs: these would stay on the core."""
        if self._core is not None:
            allow_cores(self._before)

    def __exit__(self, *error: object) -> None:
        self._leave()

    def _stay(self) -> None:
        if len(before := allowed_cores()) < 2 or (core := _current_core()) is None:
            return
        # Who restricted nothing follows later changes of a cpuset. A set of cores would not.
        allow_cores(ALL)
        self._before = ALL if allowed_cores() == before else before
        self._kept = {thread for thread in _threads() if allowed_cores(thread) == {core}}
        self._own = [thread for thread in (threading.get_native_id(), self._other()) if thread]
        self._core = core
        for thread in self._own:
            allow_cores({core}, thread)

    def _leave(self) -> None:
        if self._core is None:
            return
        core, self._core = self._core, None
        for thread in self._own:  # first, and whatever they have: a cpuset may have changed meanwhile
            allow_cores(self._before, thread)
        for thread in _threads():
            if thread not in self._kept and allowed_cores(thread) == {core}:
                allow_cores(self._before, thread)


def _current_core() -> int | None:
    """The core that runs this thread. None if the system does not say."""
    try:
        return int(Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()[_PROCESSOR])
    except OSError:
        return None


def _threads() -> list[int]:
    """The native ids of all threads of this process. Empty if the system does not say, or has no descriptor left."""
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return []
