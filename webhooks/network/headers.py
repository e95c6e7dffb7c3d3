"""HTTP headers as admins write them: one line ``Name: value`` for each. Pure."""

from __future__ import annotations

import base64
import re
from functools import lru_cache

# RFC 9110, section 5.6.2 for names and 5.5 for values; only ASCII is sure to arrive.
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

MAX_HEADERS = 50

# Carries how deep in a chain of webhooks a request is.
DEPTH = "X-Webhook-Depth"

# Hop-by-hop headers (RFC 9110, section 7.6.1), framing headers, and headers of the app.
_RESERVED = {
    "connection", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
    "host", "content-length", "content-encoding", "expect", "x-hook-signature", DEPTH.lower(),
}  # fmt: skip
_RESERVED_PREFIXES = ("webhook-", "proxy-")

# A word of a value with at least this many characters is a secret: the token after "Bearer", but not "Bearer".
SECRET_WORD_LENGTH = 8


def problem(text: str) -> str:
    """Why these lines cannot be sent; empty if they can. Names headers, never values."""
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return ""


def parse(text: str) -> dict[str, str]:
    """Names to values. Raises ValueError with the number of the wrong line, and never with a value."""
    return dict(_parsed(text))


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[tuple[str, str], ...]:
    lines = [(number, line) for number, line in enumerate(re.split(r"\r?\n", text), 1) if line.strip()]
    if len(lines) > MAX_HEADERS:
        raise ValueError(f"There are {len(lines)} headers; {MAX_HEADERS} are the most.")
    found: dict[str, tuple[str, str]] = {}
    for number, line in lines:
        name, colon, value = (part.strip(" \t") for part in line.partition(":"))
        if not colon or not NAME.fullmatch(name):
            raise ValueError(f"Line {number}: write a header as Name: value.")
        if is_reserved(name) or name.lower() == "content-type":  # a field of the webhook has the content type
            raise ValueError(
                f"Line {number}: {name} cannot be set, it belongs to the request itself or to its signature."
            )
        if not value or not _VALUE.fullmatch(value):
            raise ValueError(f"Line {number}: the value of {name} must be visible ASCII characters, and some.")
        if name.lower() in found:
            raise ValueError(f"Line {number}: {name} is there twice.")
        found[name.lower()] = (name, value)
    return tuple(found.values())


def is_reserved(name: str) -> bool:
    """Whether only the sender may set this header. ``_`` counts as ``-``: CGI and WSGI receivers read both alike."""
    name = name.lower().replace("_", "-")
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


@lru_cache(maxsize=256)
def secrets_in(text: str) -> frozenset[str]:
    """The secrets of these lines, which a receiver might repeat: whole values, their long words, and credentials."""
    values = [value for _, value in _parsed(text)]
    values += [secret for value in values for secret in _basic_credentials(value)]
    return frozenset(values).union(
        word for value in values for word in value.split() if len(word) >= SECRET_WORD_LENGTH
    )


def _basic_credentials(value: str) -> list[str]:
    """The user and password of a Basic authentication header, and the password alone."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        credentials = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return []
    password = credentials.partition(":")[2]
    return [credentials, password] if len(password) >= SECRET_WORD_LENGTH else [credentials]
