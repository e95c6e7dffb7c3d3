"""A worker with 64 file descriptors. Names below ``hangs.example`` hang, and other names are this machine."""

from __future__ import annotations

import resource
import socket
import time
from typing import Any

from webhooks.workers.worker import WebhookWorker

LIMIT = 64

_getaddrinfo = socket.getaddrinfo


def _local_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
    if str(host).endswith(".hangs.example"):
        with socket.socket():
            time.sleep(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo("127.0.0.1" if str(host).endswith(".example") else host, *args, **kwargs)


class ShortOfDescriptorsWorker(WebhookWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        socket.getaddrinfo = _local_getaddrinfo  # type: ignore[assignment]
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        super().__init__(*args, **kwargs)
