"""Headers written as text, a line ``Name: value`` for each. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from functools import lru_cache

import regex

# RFC 9110, section 5.6.2: what a name is made of; and 5.5: what a value may be, of which only ASCII is sure to arrive.
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[\t\x20-\x7e]*")

# RFC 9110, section 7.6.1, and what a proxy takes for itself; what frames the message; what says who sends it, and why.
HOP_BY_HOP = {
    "connection", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
FRAME = {"host", "content-length", "content-encoding", "expect"}
SIGNED = {"x-hook-signature", "x-webhook-depth"}
OWN_PREFIXES = ("webhook-", "proxy-")

MOST = 50

# A word of a value that has at least so many characters is a secret by itself: "Bearer" is not, what follows it is.
WORD = 8

# Beside the numbers that every character has in HTML and in URLs.
_NAMED = {"&": ["&amp;"], "<": ["&lt;"], ">": ["&gt;"], '"': ["&quot;"], "'": ["&apos;"], " ": ["+"]}


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
def hidden(text: str) -> regex.Pattern[str] | None:
    """What a receiver might repeat of the values, in the spellings that it might choose; None where there are none."""
    values = [value for _, value in _parsed(text)]
    values += [shown for value in values for shown in _credentials(value)]
    return repeated({word for value in values for word in value.split() if len(word) >= WORD} | set(values))


def repeated(words: Iterable[str]) -> regex.Pattern[str] | None:
    """A pattern of how a receiver may write any of these words; None where there are none."""
    # The longest first: of two that begin alike, that one is to be found.
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return regex.compile("|".join("".join(map(_spelt, word)) for word in longest_first)) if longest_first else None


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


@lru_cache(maxsize=256)
def _spelt(character: str) -> str:
    """A pattern of how a character may be written: as it is, in JSON, in a URL, in HTML."""
    if character.isalnum():
        return character
    code = ord(character)
    spellings = [
        rf"\\?{re.escape(character)}",
        rf"%(?i:{code:02x})",
        rf"\\u(?i:{code:04x})",
        rf"&\#0*{code};",
        rf"&\#[xX]0*(?i:{code:x});",
        *map(re.escape, _NAMED.get(character, ())),
    ]
    return f"(?:{'|'.join(spellings)})"


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
