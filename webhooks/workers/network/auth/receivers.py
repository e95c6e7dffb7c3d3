"""The receivers that get credentials of the project's code: the keys of the setting AUTH. Pure.

A key is a host such as ``"hooks.example.com"`` or ``"*.example.com"``, for ``https`` with its default port. Or it is a
URL such as ``"https://hooks.example.com:8443/in"``: scheme, host, port and the beginning of the path must match. TLS
must be verified: otherwise another machine could answer for the host, and read the credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self
from urllib.parse import urlsplit

from webhooks.ground.security import url_policy
from webhooks.ground.security.url_policy import PORTS, BadURL, Destination

# Segments by which a receiver may leave a path, in spellings of several servers: "..", "..;x", "%2e%2e", "..%2f".
_LEAVES_PATH = re.compile(r"/\.{1,2}(;[^/]*)?(/|$)|%2e|%2f|%5c|%25", re.IGNORECASE)


@dataclass(frozen=True)
class Receiver:
    """A key of the setting AUTH. ``host`` is a pattern. ``path`` has no slash at its end."""

    key: str
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, key: str) -> Self:
        if "://" not in key:
            return cls(key, "https", key.removesuffix("."), PORTS["https"], "")
        parts = urlsplit(key)
        host = (parts.hostname or "").removesuffix(".")
        return cls(key, parts.scheme, host, parts.port or PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def is_private(self) -> bool:
        """Whether it names a host, or hosts of a domain, and credentials travel encrypted."""
        return self.scheme == "https" and bool(self.host.strip("*."))

    def has_host(self, to: Destination) -> bool:
        return bool(url_policy.matching(to.host, [self.host]))

    def has(self, to: Destination, path: str) -> bool:
        """Whether credentials may go to this path there."""
        is_within = not self.path or (f"{path}/".startswith(f"{self.path}/") and not _LEAVES_PATH.search(path))
        return (self.scheme, self.port) == (to.scheme, to.port) and self.has_host(to) and is_within


@lru_cache(maxsize=256)
def key_for(keys: Iterable[str], url: str, is_verified: bool) -> str:
    """The first of the keys whose credentials a request to this URL gets; empty if there is none.

    ``is_verified`` says whether it verifies TLS.
    """
    try:
        to, path = url_policy.parse(url), urlsplit(url).path
    except BadURL:
        return ""
    if to.scheme == "https" and not is_verified:
        return ""
    return next((one.key for one in map(Receiver.of, keys) if one.has(to, path)), "")


def missed_key(keys: Iterable[str], url: str, is_verified: bool) -> str:
    """The first of the keys that has the host of this URL, if none matches the whole of it."""
    if key_for(tuple(keys), url, is_verified) or url_policy.problem(url):
        return ""
    to = url_policy.parse(url)
    return next((one.key for one in map(Receiver.of, keys) if one.has_host(to)), "")
