"""A worker for which one name takes a minute to resolve."""

from __future__ import annotations

import socket
import time
from typing import Any

from webhooks.workers.worker import WebhookWorker

SLOW_NAME = "slow-name.example"

_getaddrinfo = socket.getaddrinfo


def _slow_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
    if host == SLOW_NAME:
        time.sleep(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *args, **kwargs)


class SlowNamesWorker(WebhookWorker):
    """Resolves ``SLOW_NAME`` in a minute, and then without an answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        socket.getaddrinfo = _slow_getaddrinfo  # type: ignore[assignment]
        super().__init__(*args, **kwargs)
