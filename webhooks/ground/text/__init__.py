"""Text from outside: storable in every database, and free of deceptive characters."""

from __future__ import annotations

import re
import uuid
from typing import Any

# Invisible characters, which can deceive a reader: control characters, and characters that change the direction of a
# text. Line breaks and tabs are apart: some texts may contain them.
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_INVISIBLE = re.compile(f"[{_CONTROLS}]")
_INVISIBLE_OR_BREAK = re.compile(f"[{_CONTROLS}\t\n\r\u061c\u200e\u200f]")

NAME_LENGTH = 200  # characters of the name of an object

# A name of a header, as a pattern. RFC 9110, 5.6.2.
HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def clean(text: str, length: int | None = None) -> str:
    """Remove NUL and lone surrogates, which PostgreSQL refuses, and cut the text to ``length`` characters.

    Other control characters are stored as they came. Whatever shows a text escapes them.
    """
    if not text.isascii():  # nearly all headers of responses are
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "")[:length]


def as_uuid(term: str) -> uuid.UUID | None:
    """The UUID in a request. None if it is not one."""
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


def as_key(term: str) -> int:
    """The primary key in a request. Returns 0, which no row has, if it is not a number that the database accepts."""
    return int(term) if term.isdecimal() and len(term) < 19 else 0


def short_repr(value: Any) -> str:
    """The ``repr`` of a value, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def username_of(user: Any) -> str:
    """The name of a user as text, empty if there is none. ``get_username()`` of a host's user may return anything."""
    name = user.get_username() if hasattr(user, "get_username") else user
    return "" if name is None else str(name)


def last_line(text: str) -> str:
    """The last line of a traceback: the error itself."""
    return text.strip().rpartition("\n")[2]


def escape_invisible(text: str) -> str:
    """Replace each invisible character by its escape, such as ``\\u202e``."""
    return _INVISIBLE.sub(_escape, text)


def one_line(text: str) -> str:
    """As ``escape_invisible``, line breaks and tabs included."""
    return _INVISIBLE_OR_BREAK.sub(_escape, text)


def _escape(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode()
