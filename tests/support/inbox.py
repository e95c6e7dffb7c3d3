"""A test's view of the receiver: URLs to send to, and the received requests."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]


def raw(*pieces: bytes) -> str:
    """The behaviour of a receiver that answers every request with these very bytes."""
    return "/".join(["raw", *(base64.urlsafe_b64encode(piece).decode() for piece in pieces)])


def flood(beginning: bytes, rest: bytes) -> str:
    """The behaviour of a receiver that answers the beginning, and the rest over and over."""
    return raw(beginning, rest).replace("raw", "flood", 1)


@dataclass(frozen=True)
class Received:
    """One request: ``at`` in seconds since 1970, header names in lower case."""

    at: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


class ReceiverProcess:
    """A receiver that belongs to this test session."""

    module = "tests.support.receiver"

    def __init__(self, *certificate: str) -> None:
        self.token = secrets.token_hex(8)
        command = [sys.executable, "-m", self.module, self.token, *certificate]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())  # type: ignore[union-attr]
        self.scheme = "https" if certificate else "http"
        if not certificate:
            assert self.get("__id") == self.token.encode(), f"something else answers on port {self.port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10 * PATIENCE) as response:
            answer: bytes = response.read()
        return answer

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(5 * PATIENCE)
        self.process.stdout.close()  # type: ignore[union-attr]


class Inbox:
    """A corner of the receiver for one test."""

    def __init__(self, receiver: ReceiverProcess) -> None:
        self._receiver = receiver
        self.name = secrets.token_hex(4)
        self._received: list[Received] = []

    def url(self, behaviour: str = "ok") -> str:
        return f"{self._receiver.scheme}://127.0.0.1:{self._receiver.port}/{self.name}/{behaviour}"

    def received(self, behaviour: str | None = None) -> list[Received]:
        """The requests so far, in order: all of them, or only those to ``url(behaviour)``."""
        for raw in json.loads(self._receiver.get(f"__requests/{self.name}/{len(self._received)}")):
            headers = {name.lower(): value for name, value in raw["headers"]}
            body = base64.b64decode(raw["body"])
            one = Received(raw["at"], raw["method"], raw["path"], headers, body, raw["connection"])
            self._received.append(one)
        path = f"/{self.name}/{behaviour}"
        return [one for one in self._received if behaviour is None or one.path == path]

    def wait_for(self, count: int, seconds: float = 20, behaviour: str | None = None) -> list[Received]:
        """Wait until at least ``count`` have come."""
        until(lambda: len(self.received(behaviour)) >= count, seconds, lambda: self._report(count))
        return self.received(behaviour)

    def release(self) -> None:
        """Let the receiver answer the requests to ``url("held")``, from now on at once."""
        self._receiver.get(f"__release/{self.name}")

    def _report(self, count: int) -> str:
        came = [one.path for one in self.received()]
        return f"{count} requests at the receiver; {len(came)} came: {came[:20]}"
