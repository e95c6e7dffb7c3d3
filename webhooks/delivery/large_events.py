"""Large events in the memory of a worker: how many bytes it holds at a time, and reads at once.

The queries of claims and dispatches return an event without its texts (``data`` is None) if it is large. A worker reads
these texts once it holds a claim and has room for them. Rows without room go back to the queue.
"""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from django.db import OperationalError

from webhooks.ground.conf import conf
from webhooks.ground.db import QueryByKeys, elapsed
from webhooks.ground.errors import is_statement_timeout
from webhooks.models.event import TEXTS, Event
from webhooks.models.queue import ClaimedRow

# The bytes of large events that a worker holds at a time, by ``Event.size``. Each takes about twice that much until its
# attempt ends.
HELD_BYTES = 32 * 2**20

# The bytes that it reads of them before it looks for other work: at first, and at most. It reads fewer if that takes
# longer than so many seconds.
FIRST_READ, READ_BYTES, SLOW_READ = 2**20, 8 * 2**20, 0.5

_texts = QueryByKeys(lambda: Event.objects.values_list("pk", *TEXTS))


def sizes_of_large(events: Iterable[Any]) -> dict[int, int]:
    """The sizes of the events that came without their texts, by id."""
    return {event.pk: event.size for event in events if event.data is None}


class Room:
    """How much of large events a worker may still hold in memory. A webhook gets half of what the others leave: one
    that hangs must not keep the large events of others out."""

    def __init__(self, held: Iterable[tuple[int, int]], most: int) -> None:
        """``held`` has the webhook and the size of each large delivery. ``most`` is how much to read now."""
        self._held = Counter[int]()
        for webhook, size in held:
            self._held[webhook] += size
        self._all, self._new, self._most = self._held.total(), 0, most

    def take(self, webhook: int, size: int) -> bool:
        """Whether this one may be held, too. One event may be larger than all room: it is held alone."""
        own = self._held[webhook]
        fits = size + own <= (HELD_BYTES - self._all + own) / 2
        if not self._all or (fits and (not self._new or self._new + size <= self._most)):
            self._held[webhook] += size
            self._all, self._new = self._all + size, self._new + size
            return True
        return False


class LargeEvents:
    """The large events that one worker holds. Not thread-safe."""

    def __init__(self) -> None:
        self._held: dict[uuid.UUID, tuple[int, int]] = {}
        """The webhook and the size of each large delivery."""
        self._most: dict[int, int] = {}
        """How many deliveries to claim at most, by webhooks that had no room."""
        self._full = set[int]()
        """Webhooks of which the worker claims no more until it holds less."""
        self._read_bytes = FIRST_READ

    def room(self) -> Room:
        return Room(self._held.values(), self._read_bytes)

    def is_full(self, webhook: int) -> bool:
        """Whether to claim nothing of a webhook now."""
        return webhook in self._full

    def limit(self, webhook: int, share: int) -> int:
        """How many deliveries of a webhook to claim, up to ``share``."""
        return min(share, self._most.get(webhook, share))

    def choose(self, rows: Sequence[ClaimedRow], sizes: Mapping[int, int]) -> tuple[list[ClaimedRow], list[ClaimedRow]]:
        """The rows to send now, and those without room. ``sizes`` has the large events."""
        room, full, chosen, left = self.room(), set[int](), list[ClaimedRow](), list[ClaimedRow]()
        for row in rows:
            size = sizes.get(row.event_id)
            if size is None or (row.webhook_id not in full and room.take(row.webhook_id, size)):
                chosen.append(row)
            else:
                left.append(row)
                full.add(row.webhook_id)
        counts = Counter(row.webhook_id for row in chosen)
        for webhook in {row.webhook_id for row in rows if row.event_id in sizes}:
            if webhook in full:
                self._most[webhook] = max(1, counts[webhook])
            elif webhook in self._most:
                self._most[webhook] = min(2 * self._most[webhook], conf.batch)
        self._full |= full
        return chosen, left

    def hold(self, rows: Iterable[ClaimedRow], sizes: Mapping[int, int]) -> None:
        """Note what the worker holds from now on."""
        self._held |= {row.id: (row.webhook_id, sizes[row.event_id]) for row in rows if row.event_id in sizes}
        if not self._held:
            self._full.clear()

    def forget(self, delivery: uuid.UUID) -> None:
        if self._held.pop(delivery, None):
            self._full.clear()

    def read_texts(self, events: Iterable[Any], wanted: Collection[int]) -> list[Any]:
        """The small events, and the ``wanted`` large ones with their texts. Reads a few megabytes at a time: a link may
        be slow, and PostgreSQL may have a limit for the time of a statement."""
        by_id = {event.pk: event for event in events}
        left = deque(sorted(pk for pk, event in by_id.items() if event.data is None and pk in wanted))
        while left:
            part, size = list[int](), 0
            while left and (not part or size + by_id[left[0]].size <= self._read_bytes):
                size += by_id[left[0]].size
                part.append(left.popleft())
            began = elapsed()
            try:
                read = _texts.fetch(Event.objects.db, part)
            except OperationalError as error:
                if not is_statement_timeout(error) or len(part) == 1:
                    raise
                self._read_bytes = size // 2
                left.extendleft(reversed(part))
                continue
            seconds = elapsed() - began
            if seconds > SLOW_READ:
                self._read_bytes = max(1, size // 2)
            elif seconds < SLOW_READ / 4:
                self._read_bytes = min(2 * self._read_bytes, READ_BYTES)
            for pk, *texts in read:
                by_id[pk] = by_id[pk]._replace(**dict(zip(TEXTS, texts, strict=True)))
        return [event for event in by_id.values() if event.data is not None]
