"""Look up names, and do other work that nothing can interrupt, in a few threads.

A lookup that hangs keeps its thread and its descriptors after its request has ended. So there are few threads. The
names of one domain get a quarter of them at most. All domains whose lookups were late share one half, and together with
domains that were never looked up three quarters: the others stay for receivers whose names resolve. Requests for the
same name share one lookup.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from webhooks.ground.error_kinds import ErrorKind
from webhooks.workers.network.attempt import Refused
from webhooks.workers.network.loop import RESULT, Steps, T, usable_descriptors

# The most threads. Each has up to two descriptors, which come out of the half that requests do not use.
MOST_THREADS = 32

# Groups that are remembered.
MOST_GROUPS = 10_000

# A lookup that takes longer is late, even if its request waits longer.
LATE_SECONDS = 2.0

# A lookup that began more than so many seconds ago may hang although the cause is gone. The next request begins another
# one.
SHARED_SECONDS = 10.0


class _Lookup:
    """One work, for all who wait for its result."""

    __slots__ = ("begun", "future", "group", "key", "waiting", "work")

    def __init__(self, key: Hashable, group: str, work: Callable[[], Any]) -> None:
        self.key, self.group, self.work = key, group, work
        self.future = Future[Any]()
        self.waiting = 0
        self.begun = 0.0
        """When a thread took it (monotonic)."""


class _Lookups:
    """The lookups of this process, under way and queued."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the other attributes
        self._by_key: dict[Hashable, _Lookup] = {}
        self._queue: dict[_Lookup, None] = {}
        self._running = Counter[str]()  # by group
        self._was_late: dict[str, bool] = {}  # by group, whether its last lookup was
        self._threads = 0

    def join(self, key: Hashable, group: str, work: Callable[[], Any]) -> _Lookup:
        with self._lock:
            lookup = self._by_key.get(key)
            if lookup is None or (lookup.begun and time.monotonic() > lookup.begun + SHARED_SECONDS):
                lookup = self._by_key[key] = _Lookup(key, group, work)
                self._queue[lookup] = None
            lookup.waiting += 1
            begun = self._take() if self._threads < _most_threads() else None
            self._threads += begun is not None
        if begun:
            self._start_thread(begun)
        return lookup

    def leave(self, lookup: _Lookup) -> None:
        """Do not begin what nothing waits for any more."""
        with self._lock:
            lookup.waiting -= 1
            if lookup.begun and not lookup.future.done():
                self._note(lookup.group, is_late=True)
            if not lookup.waiting and lookup in self._queue:
                del self._queue[lookup]
                self._forget(lookup)

    def _start_thread(self, lookup: _Lookup) -> None:
        try:
            threading.Thread(target=self._work, args=(lookup,), name="webhooks-lookup", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
                self._running[lookup.group] -= 1
                self._forget(lookup)
            reason = f"the worker's system does not start another thread: {error}"
            lookup.future.set_exception(Refused(reason, ErrorKind.RESOURCES))

    def _work(self, first: _Lookup) -> None:
        lookup: _Lookup | None = first
        while lookup:
            result, error = None, None
            try:
                result = lookup.work()
            except BaseException as raised:
                error = raised
            with self._lock:
                self._running[lookup.group] -= 1
                self._note(lookup.group, is_late=time.monotonic() > lookup.begun + LATE_SECONDS)
                self._forget(lookup)  # before its end is known: the next request asks again
                ended, lookup = lookup, self._take()
                self._threads -= lookup is None
            if error:
                ended.future.set_exception(error)
            else:
                ended.future.set_result(result)

    def _take(self) -> _Lookup | None:
        """The next lookup whose group does not have its share of the threads. The late ones come last."""
        most, was_late, running = _most_threads(), self._was_late, self._running
        late = sum(count for group, count in running.items() if was_late.get(group))
        unproven = sum(count for group, count in running.items() if was_late.get(group, True))
        groups = {queued.group for queued in self._queue if running[queued.group] < max(1, most // 4)}
        if late >= max(1, most // 2):
            groups -= {group for group in groups if was_late.get(group)}
        if unproven >= max(1, most * 3 // 4):
            groups -= {group for group in groups if was_late.get(group, True)}
        allowed = (queued for queued in self._queue if queued.group in groups)
        lookup = min(allowed, key=lambda queued: was_late.get(queued.group, False), default=None)
        if lookup:
            del self._queue[lookup]
            self._running[lookup.group] += 1
            lookup.begun = time.monotonic()
        return lookup

    def _note(self, group: str, is_late: bool) -> None:
        self._was_late.pop(group, None)
        self._was_late[group] = is_late
        if len(self._was_late) > MOST_GROUPS:
            del self._was_late[next(iter(self._was_late))]

    def _forget(self, lookup: _Lookup) -> None:
        if self._by_key.get(lookup.key) is lookup:
            del self._by_key[lookup.key]
        self._running += Counter()  # without the groups that have none


def _most_threads() -> int:
    return max(1, min(MOST_THREADS, usable_descriptors() // 4))


_lookups = _Lookups()


def _begin_process() -> None:
    """A forked process has none of the threads."""
    global _lookups
    _lookups = _Lookups()


os.register_at_fork(after_in_child=_begin_process)


def in_thread(key: Hashable, group: str, work: Callable[[], T]) -> Steps[T]:
    """Return the result of ``work``, or raise its error. All who wait for the same ``key`` share it. After the
    deadline, it goes on without them. Raises Refused if the system does not start a thread."""
    lookups = _lookups
    lookup = lookups.join(key, group, work)
    try:
        yield lookup.future, RESULT
    finally:
        lookups.leave(lookup)
    result: T = lookup.future.result()
    return result
