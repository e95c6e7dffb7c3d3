"""The outcome of an attempt, as a value: what was sent, what came back, and why it failed. Pure."""

from __future__ import annotations

import http.client
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from webhooks.ground.error_kinds import ErrorKind, FaultOf


# Frozen ones would take three times as long to make, and each delivery needs both.
@dataclass(slots=True)
class StoredRequest:
    """A sent request without secrets."""

    method: str
    url: str
    headers: dict[str, str]
    body_kind: str
    body_sha256: str
    """In hexadecimal."""
    body: bytes
    """Compressed by zlib. Empty if it can be created again."""


@dataclass(slots=True)
class Outcome:
    """The result of one attempt."""

    started_at: datetime
    duration_ms: int
    reason: str = ""
    """Why the attempt failed; empty for a success."""
    kind: ErrorKind | Literal[""] = ""
    """The kind of the failure; empty for a success."""
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    timed_out: bool = False
    retry_after: float | None = None
    """Seconds that the receiver asked to wait."""
    has_connected: bool = False
    """Whether it opened a connection, to the receiver or the proxy. A kept one says nothing about the network."""
    request: StoredRequest | None = None
    """What was sent; None if no request could be made."""
    cost: float = 0.0
    """Seconds of processor time that the answer took."""
    repeats_refusal: bool = False
    """Whether the receiver refused another request for its rate before, when this one was under way."""

    def __post_init__(self) -> None:
        if self.reason and not self.kind:
            self.kind = ErrorKind.OTHER

    @property
    def succeeded(self) -> bool:
        return not self.reason

    @property
    def fault(self) -> FaultOf | None:
        """Whose fault the failure is; None for a success."""
        return self.kind.fault if self.kind else None

    @property
    def summary(self) -> str:
        """Why the attempt failed, in words that every user may read: without text from the receiver or a template."""
        if self.kind in (ErrorKind.HTTP_4XX, ErrorKind.HTTP_5XX, ErrorKind.HTTP_OTHER) and self.status:
            return f"HTTP {self.status} {http.client.responses.get(self.status, '')}".strip()
        return self.kind.english if self.kind else ""

    @property
    def is_gone(self) -> bool:
        return self.status == 410

    @property
    def is_too_fast(self) -> bool:
        """Whether the receiver accepts fewer requests in a time."""
        return self.status == 429

    @property
    def overloaded(self) -> bool:
        return self.timed_out or self.is_too_fast
