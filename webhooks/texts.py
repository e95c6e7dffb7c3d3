"""Text from elsewhere: made such that every database takes it, nobody is deceived, and no secret stands in it."""

from __future__ import annotations

import re
from typing import Any

from regex import Pattern

# What cannot be seen, and so deceives: control characters, and what turns the direction of a text around. Line breaks
# and tabs are kept apart, for there are places where they belong.
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSEEN = re.compile(f"[{_CONTROLS}]")
_UNSEEN_OR_BREAK = re.compile(f"[{_CONTROLS}\t\n\r\u061c\u200e\u200f]")

HIDDEN = "********"

# So many characters of a secret at the end of a text, which was cut off there, are hidden too.
FEW = 4


def clean(text: str, length: int | None = None) -> str:
    """Without NUL and lone surrogates, and no longer than ``length`` characters."""
    if not text.isascii():  # nearly all is, of an answer's headers
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "")[:length]


def quoted(value: Any) -> str:
    """The value as Python writes it, and no more than the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def last_line(text: str) -> str:
    """Of a traceback it tells what went wrong."""
    return text.strip().rpartition("\n")[2]


def written_out(text: str, breaks: bool = False) -> str:
    """The text with what cannot be seen written out: ``\\u202e``. With ``breaks``, line breaks and tabs as well."""
    unseen = _UNSEEN_OR_BREAK if breaks else _UNSEEN
    return unseen.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def hide(text: str, secrets: Pattern[str] | None) -> str:
    """The text without any of these, and without the beginning of one at its end."""
    if secrets is None:
        return text
    text = secrets.sub(HIDDEN, text)
    begun = secrets.search(text, partial=True)
    return text[: begun.start()] + HIDDEN if begun and len(text) - begun.start() >= FEW else text
