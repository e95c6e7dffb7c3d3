"""Baselines that know no database and keep no books: a bare loop that sends bodies, as anyone would write it.

A process of its own: ``python -m scripts.benchmark.loops CLIENT URL COUNT < requests.json`` prints the seconds and
the CPU seconds that the loop took.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from scripts.benchmark.mailbox import Request, as_json
from tests.inbox import ROOT

Pairs = Iterable[tuple[dict[str, str], bytes]]


@dataclass(frozen=True)
class Looped:
    """``seconds`` and ``cpu`` (seconds of CPU) are of the whole loop, without the start of its process."""

    count: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def loop(client: str, url: str, requests: list[Request], count: int) -> Looped:
    """Send so many of these, over and over, one after the other, with "requests" or "urllib3"."""
    command = [sys.executable, "-m", "scripts.benchmark.loops", client, url, str(count)]
    text = json.dumps(as_json(requests))
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
    return Looped(count, **json.loads(done.stdout))


def with_requests(url: str, pairs: Pairs) -> None:
    import requests

    session = requests.Session()
    for headers, body in pairs:
        session.post(url, data=body, headers=headers, timeout=10).raise_for_status()


def with_urllib3(url: str, pairs: Pairs) -> None:
    import urllib3

    pool = urllib3.PoolManager()
    for headers, body in pairs:
        response = pool.request("POST", url, body=body, headers=headers, timeout=10)
        if response.status != 200:
            raise RuntimeError(f"the receiver answered {response.status}")


CLIENTS = {"requests": with_requests, "urllib3": with_urllib3}


def main(client: str, url: str, count: str) -> None:
    requests = [(one["headers"], one["body"].encode()) for one in json.load(sys.stdin)]
    CLIENTS[client](url, requests[:2])  # imports
    started, cpu = time.monotonic(), time.process_time()
    CLIENTS[client](url, itertools.islice(itertools.cycle(requests), int(count)))
    print(json.dumps({"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
