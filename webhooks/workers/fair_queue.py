"""Which item to send next: fair turns between webhooks, and a cap on the requests in flight for each. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST_CAP = 2

# A webhook is slow when its answers have cost so many seconds of processor time in all, above the usual time of each.
SLOW_COST = 0.05
USUAL_COST = 0.001

# An answer is late if it took more than this share of its timeout, and nearly twice as long as the quickest one: its
# receiver handles requests one after another. More at once would only wait there, until they time out.
LATE, VERY_LATE = 0.1, 0.5
LONGER = 1.8

# Of a receiver whose answers vary, some are very late. They count as so many late ones.
WEIGHT = 4

# How many items of a webhook to claim for each one that may be in flight.
CLAIMED_PER_SENT = 8


@dataclass(slots=True, eq=False)
class _WebhookQueue(Generic[T]):
    webhook: int
    cap: int
    items: deque[T] = field(default_factory=deque)
    in_flight: int = 0
    ready: int = 0
    group: str = ""
    counted_at: int = 0
    """How many were in flight when its ``ready`` was counted."""
    cost: float = 0.0
    quickest: float = math.inf
    late: int = 0
    """The late answers since the cap changed, minus the weight of the very late ones."""
    is_resting: bool = False


class FairQueue(Generic[T]):
    """Items that wait to be sent, taken in turns between webhooks.

    At most ``most`` are in flight. Each webhook has a cap on its requests in flight: two at first, one more with each
    answer, and one if it is slow: after a timeout, or after answers that cost much processor time. If answers are late
    because there are so many requests, the cap grows by one with as many of them. It falls by one if most are very
    late. A webhook also leaves as many free for the others as it has. So one has half of all at most, and among nine
    that hang, there is room for a tenth.

    ``group_of`` returns the group of an item, and ``limits`` says how many items of a group may be prepared at once.
    The group "" has no limit.
    """

    def __init__(
        self, most: int, group_of: Callable[[T], str] = lambda item: "", limits: Mapping[str, int] | None = None
    ) -> None:
        self._most, self._group_of, self._limits = most, group_of, limits or {}
        self._webhooks: dict[int, _WebhookQueue[T]] = {}
        self._turns: dict[int, _WebhookQueue[T]] = {}  # the webhooks that have items, the next one first
        # Updated with each change: callers ask several times for each request, and hundreds of webhooks may wait.
        # The sum by group, then by how many of a webhook are in flight. Few numbers differ: their sum has a limit.
        self._ready: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self._preparing: Counter[str] = Counter()
        self.in_flight = 0

    def waiting(self, webhook: int) -> int:
        return len(self._webhook(webhook).items)

    def capacity(self, webhook: int, share: int) -> int:
        """How many more items of a webhook to claim: its share, unless more than that are waiting. The share is at most
        a few times its cap, so that the items of a webhook that hangs stay free for other workers."""
        most = min(share, CLAIMED_PER_SENT * self._webhook(webhook).cap)
        return most if self.waiting(webhook) <= most else 0

    def add(self, webhook: int, item: T) -> None:
        queue = self._webhook(webhook)
        queue.items.append(item)
        self._turns[webhook] = queue
        self._recount(queue, self._group_of(item))

    def ready(self) -> int:
        """How many items may be taken now, if enough are free. Not those of a webhook that must leave room."""
        count, free = 0, self._most - self.in_flight
        for group, counts in self._ready.items():
            ready = 0
            for in_flight, number in counts.items():
                if in_flight < free:
                    ready += number
            count += min(ready, self._limits[group] - self._preparing[group]) if group else ready
        return count

    def take(self) -> tuple[int, T, str] | None:
        """Take the next item that may be sent: its webhook, the item and its group. None if there is none.

        An item with a group must be reported as ``prepared``, and each item as ``ended``.
        """
        if self.in_flight >= self._most or not self.ready():
            return None
        if (queue := next(filter(self._may_take, self._turns.values()), None)) is None:
            return None
        item = queue.items.popleft()
        del self._turns[queue.webhook]
        if queue.items:
            self._turns[queue.webhook] = queue  # as the last one
        queue.in_flight += 1
        self.in_flight += 1
        self._recount(queue)
        if queue.group:
            self._preparing[queue.group] += 1
        return queue.webhook, item, queue.group

    def prepared(self, webhook: int, item: T, group: str) -> None:
        """Note that an item, taken in this group, is prepared. Its webhook may be in another group by now."""
        self._preparing[group] -= 1
        self._recount(self._webhook(webhook), self._group_of(item))

    def ended(self, webhook: int, timed_out: bool, cost: float = 0.0, waited: float = 0.0) -> None:
        """Note the end of a request. Its answer took ``cost`` seconds of processor time. If it was a success, it came
        after the share ``waited`` of its timeout."""
        queue = self._webhook(webhook)
        queue.in_flight -= 1
        self.in_flight -= 1
        queue.cost += max(0.0, cost - USUAL_COST)
        if timed_out or queue.cost > SLOW_COST:
            queue.cap, queue.cost = 1, 0.0
        else:
            queue.cap = min(max(1, queue.cap + self._growth(queue, waited)), self._most)
        self._recount(queue)

    @staticmethod
    def _growth(queue: _WebhookQueue[T], waited: float) -> int:
        """How many more requests of a webhook may be in flight after such an answer."""
        if not waited:
            return 1
        queue.quickest = waited if queue.cap == 1 else min(waited, queue.quickest)
        if waited <= max(LATE, LONGER * queue.quickest):
            return 1
        queue.late += -WEIGHT if waited > VERY_LATE else 1
        if abs(queue.late) < queue.cap:
            return 0
        growth = 1 if queue.late > 0 else -1
        queue.late = 0
        return growth

    def rest(self, webhook: int, is_resting: bool = True) -> None:
        """Take no item of a webhook until it rests no more."""
        queue = self._webhook(webhook)
        queue.is_resting = is_resting
        self._recount(queue)

    def forget(self, webhook: int) -> None:
        """Forget what the answers to a webhook have shown: it has another receiver now."""
        queue = self._webhook(webhook)
        queue.cap, queue.cost, queue.quickest, queue.late = min(FIRST_CAP, self._most), 0.0, math.inf, 0
        queue.is_resting = False
        self._recount(queue)

    def remove(self, is_unwanted: Callable[[T], bool]) -> list[T]:
        """Remove the waiting items that are unwanted, and return them."""
        removed: list[T] = []
        for webhook, queue in list(self._turns.items()):
            items, queue.items = queue.items, deque()
            for item in items:
                (removed if is_unwanted(item) else queue.items).append(item)
            if not queue.items:
                del self._turns[webhook]
            self._recount(queue)
        return removed

    def _webhook(self, webhook: int) -> _WebhookQueue[T]:
        if (queue := self._webhooks.get(webhook)) is None:
            queue = self._webhooks[webhook] = _WebhookQueue(webhook, min(FIRST_CAP, self._most))
        return queue

    def _may_take(self, queue: _WebhookQueue[T]) -> bool:
        if not queue.ready or queue.in_flight >= self._most - self.in_flight:
            return False
        if self._limits and (group := self._group_of(queue.items[0])) != queue.group:
            self._recount(queue, group)
        return not queue.group or self._preparing[queue.group] < self._limits[queue.group]

    def _recount(self, queue: _WebhookQueue[T], group: str | None = None) -> None:
        """Update the group of a webhook, and how many of its items may be taken."""
        if before := queue.ready:
            counts = self._ready[queue.group]
            if counts[queue.counted_at] == before:
                del counts[queue.counted_at]
            else:
                counts[queue.counted_at] -= before
        if group is not None:
            queue.group = group
        ready = 0 if queue.is_resting else min(len(queue.items), queue.cap - queue.in_flight)
        if ready > 0:
            queue.ready, queue.counted_at = ready, queue.in_flight
            counts = self._ready[queue.group]
            counts[queue.counted_at] = counts.get(queue.counted_at, 0) + ready
        else:
            queue.ready = 0
