"""A Valkey server that a test kills, revives and empties."""

from __future__ import annotations

import os
import signal

from redis import Redis

from tests.support.servers import free_port, own_valkey
from tests.support.waiting import PATIENCE


class Valkey:
    """A server that is killed and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self._context = own_valkey(self.port)
        self._server, url = self._context.__enter__()
        assert url == self.url, "it came back on another port"
        self.pid: int = self._server._process.pid

    def kill(self) -> None:
        self._server._process.kill()
        self._server._process.wait(5 * PATIENCE)

    def restart_empty(self) -> int:
        """How many keys were lost."""
        keys = int(Redis.from_url(self.url).dbsize())
        self.kill()
        self.revive()
        return keys

    def revive(self) -> None:
        """Start it again after it was killed; nothing was written to the disk."""
        self._context.__exit__(None, None, None)
        self.start()

    def flush(self) -> int:
        keys = int(Redis.from_url(self.url).dbsize())
        Redis.from_url(self.url).flushall()
        return keys

    def freeze(self) -> None:
        """It accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._server.is_running():
            self.thaw()
        self._context.__exit__(None, None, None)
