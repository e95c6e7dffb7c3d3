"""Whose turn it is: fair turns between webhooks, and a cap on what is in flight for each. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST_CAP = 2

# How many of a webhook may wait here for each one that may be in flight.
WAITING_PER_SENT = 8


class Turns(Generic[T]):
    """What waits in this worker, by webhook. A webhook's cap begins at two, grows by one with each answer in
    time, up to ``most``, and falls to one when a request times out.

    ``limits`` says for groups of webhooks how many of their items may be prepared at once. The group "" has no limit.
    """

    def __init__(self, most: int, limits: Mapping[str, int] | None = None) -> None:
        self._most = most
        self._limits = limits or {}
        self._groups: dict[int, str] = defaultdict(str)
        self._preparing: Counter[str] = Counter()
        self._queues: dict[int, deque[T]] = {}
        self._caps: dict[int, int] = defaultdict(lambda: min(FIRST_CAP, most))
        self._in_flight: dict[int, int] = defaultdict(int)
        # Kept up to date, not counted when it is asked for: that is several times for each request, and hundreds of
        # webhooks may wait.
        self._ready_of: dict[int, int] = defaultdict(int)
        self._ready: Counter[str] = Counter()
        self._taken = 0

    def waiting(self, webhook: int) -> int:
        return len(self._queues.get(webhook, ()))

    def room(self, webhook: int, share: int) -> int:
        """How many more of a webhook to take in at once: nothing before half of its share is gone. A share is no
        more than a few times what may be in flight: what waits for one that hangs had better wait elsewhere."""
        most = min(share, WAITING_PER_SENT * self._caps[webhook])
        waiting = self.waiting(webhook)
        return most - waiting if waiting <= most // 2 else 0

    def add(self, webhook: int, item: T, group: str = "") -> None:
        self._queues.setdefault(webhook, deque()).append(item)
        self._regroup(webhook, group)

    @property
    def in_flight(self) -> int:
        """How many were taken and have not ended."""
        return self._taken

    def ready(self) -> int:
        """How many may be taken now."""
        return self._ready[""] + sum(min(self._ready[group], self._room_of(group)) for group in self._limits)

    def take(self, group_of: Callable[[T], str] | None = None) -> tuple[int, T, str] | None:
        """The next one that may be sent with its webhook, which goes to the end of the row, and its group; or None.
        It has to be ``prepared``, if it has a group. ``group_of`` says the group of an item now."""
        for webhook, waiting in self._queues.items():
            if self._in_flight[webhook] >= self._caps[webhook]:
                continue
            if group_of and (group := group_of(waiting[0])) != self._groups[webhook]:
                self._regroup(webhook, group)
            if self._room_of(self._groups[webhook]):
                break
        else:
            return None
        waiting = self._queues.pop(webhook)
        item = waiting.popleft()
        if waiting:
            self._queues[webhook] = waiting
        self._in_flight[webhook] += 1
        self._taken += 1
        self._count(webhook)
        if group := self._groups[webhook]:
            self._preparing[group] += 1
        return webhook, item, group

    def prepared(self, webhook: int, group: str, next_group: str) -> None:
        """One that was taken in a group is prepared, and its webhook belongs to the next group from now on."""
        self._preparing[group] -= 1
        self._regroup(webhook, next_group)

    def ended(self, webhook: int, timed_out: bool) -> None:
        """One that was taken has ended."""
        self._in_flight[webhook] -= 1
        self._taken -= 1
        self._caps[webhook] = 1 if timed_out else min(self._caps[webhook] + 1, self._most)
        self._count(webhook)

    def drop(self, webhook: int) -> list[T]:
        """Take out what waits for one webhook."""
        dropped = list(self._queues.pop(webhook, ()))
        self._count(webhook)
        return dropped

    def remove(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Take out what waits and is unwanted."""
        removed = [item for waiting in self._queues.values() for item in waiting if is_unwanted(item)]
        kept = {pk: deque(i for i in waiting if not is_unwanted(i)) for pk, waiting in self._queues.items()}
        self._queues = {webhook: waiting for webhook, waiting in kept.items() if waiting}
        for webhook in kept:
            self._count(webhook)
        return removed

    def _count(self, webhook: int) -> None:
        """Count anew how many of a webhook may be taken."""
        free = self._caps[webhook] - self._in_flight[webhook]
        ready = max(0, min(self.waiting(webhook), free))
        self._ready[self._groups[webhook]] += ready - self._ready_of[webhook]
        self._ready_of[webhook] = ready

    def _regroup(self, webhook: int, group: str) -> None:
        self._ready[self._groups[webhook]] -= self._ready_of.pop(webhook, 0)
        self._groups[webhook] = group
        self._count(webhook)

    def _room_of(self, group: str) -> int:
        return self._limits[group] - self._preparing[group] if group else self._most
