"""Headers written as text, a line ``Name: value`` for each. Pure."""

from __future__ import annotations

import base64
import re
from functools import lru_cache

# RFC 9110, section 5.6.2: what a name is made of; and 5.5: what a value may be, of which only ASCII is sure to arrive.
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\t\x20-\x7e]*")

# RFC 9110, section 7.6.1, and what a proxy takes for itself; what frames the message; what says who sends it, and why.
HOP_BY_HOP = {
    "connection", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
FRAME = {"host", "content-length", "content-encoding", "expect"}
# Says how deep in a chain of webhooks a request is.
DEPTH = "X-Webhook-Depth"
SIGNED = {"x-hook-signature", DEPTH.lower()}
OWN_PREFIXES = ("webhook-", "proxy-")

MOST = 50

# A word of a value that has at least so many characters is a secret by itself: "Bearer" is not, what follows it is.
WORD = 8


def objection(text: str) -> str:
    """Why these lines cannot be sent, empty if they can. Names headers, never values."""
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return ""


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[tuple[str, str], ...]:
    lines = [(number, line) for number, line in enumerate(re.split(r"\r?\n", text), 1) if line.strip()]
    if len(lines) > MOST:
        raise ValueError(f"There are {len(lines)} headers; {MOST} are the most.")
    found: dict[str, tuple[str, str]] = {}
    for number, line in lines:
        name, value = _pair(number, line)
        if name.lower() in found:
            raise ValueError(f"Line {number}: {name} is there twice.")
        found[name.lower()] = (name, value)
    return tuple(found.values())


def parse(text: str) -> dict[str, str]:
    """Names to values. Raises ValueError, which says which line is wrong and never has a value in it."""
    return dict(_parsed(text))


@lru_cache(maxsize=256)
def hidden(text: str) -> frozenset[str]:
    """The secrets in these lines, which a receiver might repeat: whole values, and long words of them."""
    values = [value for _, value in _parsed(text)]
    values += [shown for value in values for shown in _credentials(value)]
    return frozenset(values).union(word for value in values for word in value.split() if len(word) >= WORD)


def _credentials(value: str) -> list[str]:
    """What a header of Basic authentication says: user and password, and the password."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        said = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return []
    password = said.partition(":")[2]
    return [said, password] if len(password) >= WORD else [said]


def _pair(number: int, line: str) -> tuple[str, str]:
    name, colon, value = (part.strip(" \t") for part in line.partition(":"))
    if not colon or not NAME.fullmatch(name):
        raise ValueError(f"Line {number}: write a header as Name: value.")
    if is_own(name) or name.lower() == "content-type":  # which the webhook says
        raise ValueError(f"Line {number}: {name} cannot be set, it belongs to the request itself or to its signature.")
    if not value or not VALUE.fullmatch(value):
        raise ValueError(f"Line {number}: the value of {name} must be visible ASCII characters, and some.")
    return name, value


def is_own(name: str) -> bool:
    """Whether the sender sets this header itself, or nobody may; however it is spelt that receivers take for it."""
    name = name.lower().replace("_", "-")  # CGI and WSGI write both alike
    return name in HOP_BY_HOP | FRAME | SIGNED or name.startswith(OWN_PREFIXES)
