"""A process with 64 file descriptors that sends while lookups hang. Each lookup that hangs has a descriptor.

Reads the URL of a healthy receiver as JSON. Sends requests to it, and 200 to names of several domains that hang. Writes
the kinds of the outcomes of both, the fewest descriptors that were free at any time, and the most threads.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

LIMIT = 64
AT_ONCE = 16  # of each

_getaddrinfo = socket.getaddrinfo


def main() -> None:
    from tests.support.sending import Transport
    from webhooks.workers.network.attempt import Request

    healthy_url = json.load(sys.stdin)
    socket.getaddrinfo = hang
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    transport, healthy, hanging = Transport(), list[str](), list[str]()
    fewest, most_threads, good, bad = LIMIT, 0, 0, 0
    while len(hanging) < 200:
        while bad < 200 and bad - len(hanging) < AT_ONCE:
            url = f"http://host{bad % 100}.domain{bad % 7}.example/"
            transport.start(Request(url, {}, b"{}", 0.3), lambda outcome: hanging.append(outcome.kind))
            bad += 1
        while good - len(healthy) < AT_ONCE:
            request = Request(healthy_url, {}, b"{}", 20, connects=True)
            transport.start(request, lambda outcome: healthy.append(outcome.kind))
            good += 1
        fewest = min(fewest, LIMIT - open_descriptors())
        most_threads = max(most_threads, threading.active_count() - 1)
        transport.poll(0.05)
    print(json.dumps({"healthy": healthy, "hanging": hanging, "free": fewest, "threads": most_threads}))
    sys.stdout.flush()
    os._exit(0)


def hang(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
    if str(host).endswith(".example"):
        with socket.socket():
            time.sleep(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *args, **kwargs)


def open_descriptors() -> int:
    found = 0
    for number in range(LIMIT):
        with suppress(OSError):
            os.fstat(number)
            found += 1
    return found


if __name__ == "__main__":
    main()
