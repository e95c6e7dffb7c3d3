"""How many requests one process has in the making at once: as many as keep it busy, and no more. Pure.

The threads of a process compute one at a time, and get in each other's way where several want to: with a receiver that
answers at once, one thread sends most, and with one that takes milliseconds, many do. docs/performance.md has figures.
"""

from __future__ import annotations

# A request that has taken so many seconds waits, and computes nothing: it does not count.
PATIENCE = 0.005

# Seconds from one look at how busy the process is to the next; where it took longer, it was idle meanwhile.
EVERY = 0.02
TOO_LONG = 0.2

# How much of one processor the process should use, and between what the limit is left as it is.
AIM = 0.85
LOW, HIGH = 0.75, 0.92


class Concurrency:
    """A limit, from one to ``most``, to how many requests may be under way that are younger than ``PATIENCE``."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = 1.0
        self._has_held_back = False
        self._now = self._cpu = 0.0

    def room(self, young: int, wanted: int) -> int:
        """How many of those ``wanted`` may begin beside so many young ones."""
        room = max(0, int(self._limit) - young)
        self._has_held_back = self._has_held_back or room < wanted
        return min(room, wanted)

    def learn(self, now: float, cpu: float) -> None:
        """Adapt the limit to what the process did since the last look; call it often. ``now`` is the time and ``cpu``
        what the process has used of processors, each in seconds since some moment."""
        seconds = now - self._now
        if seconds < EVERY:
            return
        if seconds < TOO_LONG:
            self._adapt(busy=(cpu - self._cpu) / seconds)
        self._has_held_back = False
        self._now, self._cpu = now, cpu

    def _adapt(self, busy: float) -> None:
        if busy > HIGH or (busy < LOW and self._has_held_back):
            wanted = self._limit * AIM / max(busy, 0.01)
            self._limit = min(max(1.0, wanted), self._most)
