"""The HTTP clients of the baselines. Each runs in a process that knows nothing of this app.

RQ workers import ``post`` in each fork, so this module imports as little as possible.
``python -m scripts.benchmark.clients CLIENT URL COUNT [CA_FILE] < requests.json`` sends requests in a loop. It prints
the seconds and the CPU seconds of the loop as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable

import requests
import urllib3

Requests = Iterable[tuple[dict[str, str], bytes]]  # headers and bodies


def post(url: str, headers: dict[str, str], body: bytes) -> None:
    """The usual RQ job of a webhook."""
    requests.post(url, data=body, headers=headers, timeout=10).raise_for_status()


def loop_over_requests(url: str, to_send: Requests, ca_file: str | None) -> None:
    session = requests.Session()
    session.verify = ca_file or True
    for headers, body in to_send:
        session.post(url, data=body, headers=headers, timeout=10).raise_for_status()


def loop_over_urllib3(url: str, to_send: Requests, ca_file: str | None) -> None:
    pool = urllib3.PoolManager(ca_certs=ca_file)
    for headers, body in to_send:
        response = pool.request("POST", url, body=body, headers=headers, timeout=10)
        if not 200 <= response.status < 300:
            raise RuntimeError(f"the receiver answered {response.status}")


LOOPS = {"requests": loop_over_requests, "urllib3": loop_over_urllib3}


def main(client: str, url: str, count: str, ca_file: str | None = None) -> None:
    loop = LOOPS[client]
    to_send = [(one["headers"], one["body"].encode()) for one in json.load(sys.stdin)]
    loop(url, to_send[:2], ca_file)  # warm up: lazy imports and caches
    started, cpu_started = time.monotonic(), time.process_time()
    loop(url, itertools.islice(itertools.cycle(to_send), int(count)), ca_file)
    print(json.dumps({"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu_started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
