"""A webhook receiver. It prints and stores each request, and some paths make it fail.

=================  =================================================
.../fails-2-times  503 to the first two attempts of each delivery
.../always-fails   503
.../answers-401    401, or any other status, with an error in JSON
anything else      200
=================  =================================================
"""

import json
import os
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

FAILS = re.compile(r"/(?:(always-fails)|fails-(\d+)-times)(?:\?|$)")
ANSWERS = re.compile(r"/answers-(\d{3})(?:\?|$)")
ERRORS = {401: "invalid signature: the secret differs", 410: "this endpoint was removed"}
POSTS_FILE = "received.jsonl"


@dataclass(frozen=True)
class Post:
    """A request and the HTTP status of its answer. ``at`` is in seconds since 1970."""

    at: float
    path: str
    headers: dict[str, str]  # names in lower case
    body: str
    status: int

    @property
    def payload(self) -> dict[str, Any]:
        """The payload of a JSON body, or of a form with JSON in its field ``data``."""
        if self.headers.get("content-type") == "application/json":
            return dict(json.loads(self.body))
        fields = dict(parse_qsl(self.body, keep_blank_values=True))
        return {**fields, "data": json.loads(fields["data"])}

    def summary(self) -> str:
        try:
            payload = self.payload
            who = payload["username"] or "no user"
            return f'{payload["object_type"]} "{payload["data"].get("display")}" {payload["event"]} by {who}'
        except (AttributeError, KeyError, TypeError, ValueError):
            return f"{len(self.body)} characters"


def posts(directory: Path) -> list[Post]:
    """All requests so far, in order."""
    file = directory / POSTS_FILE
    # The last line is empty or still being written.
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [Post(**json.loads(line)) for line in lines]


class Receiver(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512  # with the default of 5, connections of a burst time out

    def __init__(self, directory: Path) -> None:
        port_file = directory / "receiver.port"
        # After a restart, keep the port: the webhooks have it in their URLs.
        port = int(port_file.read_text()) if port_file.exists() else 0
        super().__init__(("127.0.0.1", port), Handler)
        port_file.write_text(str(self.server_port))
        print(f"Listening at: http://127.0.0.1:{self.server_port}", flush=True)
        self.posts_file = directory / POSTS_FILE
        self.attempts: Counter[str] = Counter()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            webhook_id = headers.get("webhook-id", "")
            self.server.attempts[webhook_id] += 1
            attempt = self.server.attempts[webhook_id] if webhook_id else 1
            post = Post(time.time(), self.path, headers, body, status_for(self.path, attempt))
            with self.server.posts_file.open("a") as file:
                file.write(json.dumps(asdict(post)) + "\n")
            again = f", attempt {attempt}" if attempt > 1 else ""
            what = f"{self.command} {self.path}: {post.summary()}{again} -> {post.status}"
            print(time.strftime("%H:%M:%S"), what, flush=True)
        error = ERRORS.get(post.status)
        answer = json.dumps({"error": error}).encode() if error else b""
        self.send_response(post.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        with suppress(ConnectionError):  # the sender has gone: it was killed, or its timeout is over
            self.end_headers()
            self.wfile.write(answer)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, because ``do_POST`` prints each request."""


def status_for(path: str, attempt: int) -> int:
    """The HTTP status for an attempt. Attempts count from 1."""
    if answers := ANSWERS.search(path):
        return int(answers[1])
    fails = FAILS.search(path)
    return 503 if fails and (fails[1] or attempt <= int(fails[2])) else 200


if __name__ == "__main__":
    Receiver(Path(os.environ["SITE_RUN"])).serve_forever()
