"""HTTP headers as admins write them: one line ``Name: value`` for each. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from django.utils.translation import gettext

from webhooks.ground.errors import why_failed
from webhooks.ground.text import HEADER_NAME, short_repr

# RFC 9110, section 5.6.2 for names and 5.5 for values; only ASCII is sure to arrive.
NAME = re.compile(HEADER_NAME)
# Around names and values. Texts that are copied from a page may have no-break spaces.
_SPACE = " \t\r\xa0"
_VALUE = re.compile(r"[\t\x20-\x7e]*")

# Control characters of ASCII and of Latin-1, which some receivers take for line breaks.
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")

MAX_HEADERS = 50

# Carries how deep in a chain of webhooks a request is.
DEPTH = "X-Webhook-Depth"

# Marks a request that a user or a command asked for: a retry by hand, or a resend.
REDELIVERY = "X-Webhook-Redelivery"

# Marks a request that a user sent to try the settings of a webhook. No change caused it.
TEST = "X-Webhook-Test"

# Hop-by-hop headers (RFC 9110, section 7.6.1), framing headers, and headers of the app.
_RESERVED = {
    "connection", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
    "host", "content-length", "content-encoding", "expect", "x-hook-signature", DEPTH.lower(),
    REDELIVERY.lower(), TEST.lower(),
}  # fmt: skip
_RESERVED_PREFIXES = ("webhook-", "proxy-")

# A word of a value with at least this many characters is a secret: the token after "Bearer", but not "Bearer".
SECRET_WORD_LENGTH = 8


def problem(text: str) -> str:
    """Why these lines cannot be sent; empty if they can. Names headers, never values."""
    return why_failed(lambda: parse(text), ValueError)


@lru_cache(maxsize=256)
def parse(text: str) -> dict[str, str]:
    """Names to values, cached: do not change them. Raises ValueError with the number of the wrong line, and never with
    a value."""
    lines = [(number, line) for number, line in enumerate(re.split(r"\r?\n", text), 1) if line.strip()]
    if len(lines) > MAX_HEADERS:
        too_many = gettext("There are %(count)d headers; %(most)d are the most.")
        raise ValueError(too_many % {"count": len(lines), "most": MAX_HEADERS})
    headers: dict[str, str] = {}
    names = set()
    for number, line in lines:
        name, colon, value = (part.strip(_SPACE) for part in line.partition(":"))
        if not colon or not NAME.fullmatch(name):
            raise ValueError(gettext("Line %(number)d: write a header as Name: value.") % {"number": number})
        if is_reserved(name) or name.lower() == "content-type":  # a field of the webhook has the content type
            reserved = gettext(
                "Line %(number)d: %(name)s cannot be set, it belongs to the request itself or to its signature."
            )
            raise ValueError(reserved % {"number": number, "name": name})
        if not value or not _VALUE.fullmatch(value):
            invisible = gettext(
                "Line %(number)d: the value of %(name)s must be visible ASCII characters, and at least one."
            )
            raise ValueError(invisible % {"number": number, "name": name})
        if name.lower() in names:
            raise ValueError(gettext("Line %(number)d: %(name)s is there twice.") % {"number": number, "name": name})
        names.add(name.lower())
        headers[name] = value
    return headers


def merged(fields: Mapping[str, str], lines: str) -> dict[str, str]:
    """These headers, and the ones of the lines, which replace others of their names. Raises as ``parse``."""
    names = names_in(lines)
    return {name: value for name, value in fields.items() if name.lower() not in names} | parse(lines)


def changed_lines(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The headers that code set or changed, as lines. Raises ValueError for a line break."""
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    if any("\n" in f"{name}{value}" for name, value in changed.items()):
        raise ValueError("it sets a header with a line break in it")
    return "\n".join(f"{name}: {value}" for name, value in changed.items())


def parse_rendered(line: str) -> tuple[str, str]:
    """The name and value of one line that a template wrote. Its value may be empty, and have any character of Latin-1.
    Raises ValueError."""
    name, colon, value = (part.strip(_SPACE) for part in line.partition(":"))
    if not colon:
        problem = gettext("there is no colon in %(line)s; a header is written as 'Name: value'")
        raise ValueError(problem % {"line": short_repr(line)})
    if not NAME.fullmatch(name):
        raise ValueError(gettext("%(name)s cannot be the name of a header") % {"name": short_repr(name)})
    if is_reserved(name):
        raise ValueError(gettext("%(name)s is not for a template to set; leave it out") % {"name": name})
    if CONTROLS.search(value):
        problem = gettext("the value of %(name)s has a control character in it; use | header_safe")
        raise ValueError(problem % {"name": name})
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        problem = gettext("the value of %(name)s has characters beyond Latin-1; use | urlencode")
        raise ValueError(problem % {"name": name}) from None
    return name, value


def is_reserved(name: str) -> bool:
    """Whether only the sender may set this header. ``_`` counts as ``-``: CGI and WSGI receivers read both alike."""
    name = name.lower().replace("_", "-")
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


@lru_cache(maxsize=256)
def names_in(text: str) -> frozenset[str]:
    """The names of these lines in lower case."""
    return frozenset(map(str.lower, parse(text)))


@lru_cache(maxsize=256)
def secrets_in(text: str) -> frozenset[str]:
    """The secrets of these lines, which a receiver might repeat: whole values, their long words, and the user and
    password of Basic authentication."""
    values, parts = list(parse(text).values()), []
    for value in parse(text).values():
        scheme, _, encoded = value.partition(" ")
        if scheme.lower() == "basic":
            with suppress(ValueError):
                credentials = base64.b64decode(encoded, validate=True).decode()
                if credentials.strip(":"):  # else there is no user and no password
                    values.append(credentials)
                    parts.append(credentials.partition(":")[2])
    parts += [word for value in values for word in value.split()]
    return frozenset(values).union(part for part in parts if len(part) >= SECRET_WORD_LENGTH)
