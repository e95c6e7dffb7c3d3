"""What an experiment sees of the receiver: an address to send to, and what came there."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from typing import Any

from scripts.benchmark.errors import NotMeasured
from tests.inbox import ReceiverProcess
from tests.waiting import until


class FastReceiver(ReceiverProcess):
    module = "scripts.benchmark.receiver"


@dataclass(frozen=True)
class Received:
    """How many requests came, and when the first and the last did (monotonic)."""

    count: int
    first: float
    last: float

    @property
    def rate(self) -> float:
        """Requests a second, from the first to the last."""
        if self.count < 2:
            raise NotMeasured(f"only {self.count} requests came: there is no rate")
        return (self.count - 1) / (self.last - self.first)


@dataclass(frozen=True)
class Request:
    """What is sent: the headers of the delivery, without those that each client sets itself."""

    headers: dict[str, str]
    body: bytes


CLIENTS_OWN = {"host", "content-length", "accept", "accept-encoding", "connection"}


class Mailbox:
    """A corner of the receiver for one measurement. ``behaviour``: ok, slow, hang or keep."""

    def __init__(self, receiver: ReceiverProcess, behaviour: str = "ok") -> None:
        self._receiver = receiver
        self.name = secrets.token_hex(4)
        self.url = f"http://127.0.0.1:{receiver.port}/{self.name}/{behaviour}"

    def received(self) -> Received:
        return Received(**json.loads(self._receiver.get(f"__inbox/{self.name}")))

    def wait_for(self, count: int, seconds: float) -> Received:
        """Wait until so many have come. Raises NotMeasured after ``seconds``."""
        try:
            until(lambda: self.received().count >= count, seconds, f"{count} requests", every=0.1)
        except AssertionError as error:
            raise NotMeasured(f"{error}; {self.received().count} came") from None
        return self.received()

    def times(self) -> list[tuple[str, float]]:
        """The webhook-id and the time (monotonic) of each request, in the order in which they came."""
        return [(pk, at) for pk, at in json.loads(self._receiver.get(f"__times/{self.name}"))]

    def kept(self) -> list[Request]:
        """The requests themselves, of a mailbox that keeps them."""
        raw: list[tuple[str, str]] = json.loads(self._receiver.get(f"__kept/{self.name}"))
        return [Request(_headers(head), base64.b64decode(body)) for head, body in raw]


def _headers(head: str) -> dict[str, str]:
    pairs = (line.partition(": ") for line in head.split("\r\n")[1:] if line)
    return {name: value for name, _, value in pairs if name.lower() not in CLIENTS_OWN}


def as_json(requests: list[Request]) -> list[dict[str, Any]]:
    """For a process that sends them: the body as text, which it is."""
    return [{"headers": request.headers, "body": request.body.decode()} for request in requests]
