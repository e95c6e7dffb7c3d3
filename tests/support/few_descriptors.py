"""A process with few file descriptors, and one thread. So nothing but the transport opens or closes one while it sends.

Reads URLs as JSON, and sends a request to each of them twice, in two rounds. Writes the reasons of the failures, and
the descriptors of the connections that the transport keeps. All host names resolve to this machine.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from contextlib import suppress
from typing import Any

LIMIT = 40

_getaddrinfo = socket.getaddrinfo


def main() -> None:
    from tests.support.sending import Transport
    from webhooks.workers.network.attempt import Request

    urls = json.load(sys.stdin)
    socket.getaddrinfo = local_address
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    transport = Transport()
    outcomes = [transport.send(Request(url, {}, b"{}", 30, verify=False)) for url in urls * 2]
    before = open_descriptors()
    transport.close()
    kept = sorted(before - open_descriptors())
    print(json.dumps({"reasons": [outcome.reason for outcome in outcomes if outcome.reason], "kept": kept}))


def local_address(host: Any, *args: Any, **kwargs: Any) -> list[Any]:
    return _getaddrinfo("127.0.0.1", *args, **kwargs)


def open_descriptors() -> set[int]:
    """Asks for each number, because a listing of /proc/self/fd has a descriptor, too."""
    found = set()
    for number in range(LIMIT):
        with suppress(OSError):
            os.fstat(number)
            found.add(number)
    return found


if __name__ == "__main__":
    main()
