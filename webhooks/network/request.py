"""One HTTP request to send, and its stored parts. Pure."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from webhooks.text import REDACTED

# Headers with credentials or signatures. Their values are never stored.
SECRET_NAMES = {"authorization", "cookie", "x-hook-signature", "webhook-signature"}


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
class Request:
    """One request to send."""

    url: str
    headers: dict[str, str] = field(repr=False)
    """Each name once, in upper or lower case. HTTP adds Host, Content-Length and Accept-Encoding."""
    body: bytes
    timeout: float
    """Seconds for the whole request, from resolving the name to the last byte."""
    verify: bool | str = True
    """Whether to verify the TLS certificate, or the path of a CA file."""
    keep: int = 8192
    """Bytes of the body of the answer that are read."""
    method: str = "POST"
    hidden: Collection[str] = field(default=(), repr=False)
    """Secrets to hide in everything that is stored of the answer."""
    secret_names: Collection[str] = ()
    """Headers whose values are never stored, in lower case."""
    body_kind: str = ""
    """What wrote the body, for the record."""
    stores_body: bool = False
    """Whether to store the body, because it cannot be created again."""
    connects: bool = False
    """Whether to resolve the name and open a connection, instead of sending over a kept one."""
    converse: Callable[[Request, Any], Any] | None = field(default=None, repr=False)
    """Set by a strategy that wants to see the answer. Send it by ``auth.exchange`` in the same thread: the strategy may
    keep something for its thread."""

    def stored(self) -> StoredRequest:
        """Its parts for the database. Takes a few microseconds for each KB."""
        secret = SECRET_NAMES.union(self.secret_names)
        headers = {name: REDACTED if name.lower() in secret else value for name, value in self.headers.items()}
        body = zlib.compress(self.body) if self.stores_body else b""
        return StoredRequest(
            self.method, self.url, headers, self.body_kind, hashlib.sha256(self.body).hexdigest(), body
        )
