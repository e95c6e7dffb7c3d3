"""Keep connections open for the next requests to their receivers."""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Hashable

from webhooks.network.loop import Socket

# Receivers with kept connections. Beyond this, the connections of the least recently used one are closed.
MAX_RECEIVERS = 100


class KeptConnections:
    """Connections that no request uses, by a key for the receiver and how to reach it.

    Closes connections instead of keeping them while half of the process's file descriptors are in use: the database and
    Redis need theirs. A new descriptor is the lowest free one, so its number shows how many are in use.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, deque[Socket]] = {}  # the least recently used receiver first
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._highest = limit / 2 if limit > 0 else float("inf")  # -1: there is no limit

    def take(self, key: Hashable) -> Socket | None:
        """A connection that is still open, as far as the loop has seen: it closes one whose other side speaks."""
        kept = self._kept.get(key, ())
        while kept:
            if (connection := kept.pop()).fileno() >= 0:
                return connection
        return None

    def keep(self, key: Hashable, connection: Socket) -> None:
        if connection.fileno() >= self._highest:
            connection.close()
            return
        kept = self._kept.pop(key, None) or deque()
        while kept and kept[0].fileno() < 0:
            kept.popleft()
        kept.append(connection)
        self._kept[key] = kept
        if len(self._kept) > MAX_RECEIVERS:
            self._close(next(iter(self._kept)))

    def close(self) -> None:
        for key in list(self._kept):
            self._close(key)

    def _close(self, key: Hashable) -> None:
        for connection in self._kept.pop(key):
            connection.close()
