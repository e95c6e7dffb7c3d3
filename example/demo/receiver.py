"""A receiver: prints each request that it gets, keeps it for the demo, and fails where its path says so.

=================  =================================================
.../fails-2-times  503 to the first two attempts of each delivery
.../always-fails   503
anything else      200
=================  =================================================
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from demo import ports, run

FAILS = re.compile(r"/(?:(always-fails)|fails-(\d+)-times)(?:\?|$)")


class Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, here: run.Run) -> None:
        super().__init__((ports.HOST, here.receiver_port), Handler)
        self.root = urlsplit(here.receiver_url).path
        self.inbox: Path = here.inbox
        self.attempts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def take(self, method: str, path: str, headers: dict[str, str], body: str) -> int:
        """Judge, keep and print one request; returns the HTTP status of the answer."""
        with self.lock:
            attempt = self._count(headers.get("webhook-id", ""))
            status = answer(path, attempt)
            kept = {"at": time.time(), "path": path, "headers": headers, "body": body, "status": status}
            with self.inbox.open("a") as inbox:
                inbox.write(json.dumps(kept) + "\n")
            print(line(f"{method} {path}", headers, body, attempt, status), flush=True)
        return status

    def _count(self, webhook_id: str) -> int:
        self.attempts[webhook_id] += 1
        return self.attempts[webhook_id]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_GET(self) -> None:
        """Lets the demo see that this is its own receiver, too."""
        if self.path == self.server.root:
            self._answer(200)
        else:
            self._take()

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if not self.path.startswith(self.server.root + "/"):
            self._answer(404)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._answer(self.server.take(self.command, self.path.removeprefix(self.server.root), headers, body))

    do_POST = do_PUT = do_PATCH = do_DELETE = _take

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are printed by the receiver itself."""


def answer(path: str, attempt: int) -> int:
    """The HTTP status for the ``attempt``-th request (from 1) of one delivery."""
    fails = FAILS.search(path)
    is_failure = fails is not None and (fails[1] is not None or attempt <= int(fails[2]))
    return 503 if is_failure else 200


def payload(content_type: str, body: str) -> dict[str, Any]:
    """The payload of a request, sent as JSON or as a form whose fields hold JSON."""
    if content_type == "application/json":
        found: dict[str, Any] = json.loads(body)
        return found
    fields: dict[str, Any] = dict(parse_qsl(body, keep_blank_values=True))
    return {**fields, "data": json.loads(fields["data"])}


def line(request: str, headers: dict[str, str], body: str, attempt: int, status: int) -> str:
    try:
        event = payload(headers.get("content-type", ""), body)
        name = event["data"].get("display")
        what = f'{event["object_type"]} "{name}" {event["event"]} by {event["username"] or "nobody"}'
    except (AttributeError, KeyError, TypeError, ValueError):
        what = f"{len(body)} characters of a template"
    again = f", attempt {attempt}" if attempt > 1 else ""
    return f"{time.strftime('%H:%M:%S')} {request}: {what}{again} -> {status}"


if __name__ == "__main__":
    Receiver(run.current()).serve_forever()
