"""What is kept of an answer: little, so that it takes no time, and nothing of what is to be hidden."""

from __future__ import annotations

import encodings
import re
from collections.abc import Collection
from datetime import UTC, datetime
from encodings.aliases import aliases
from itertools import islice

from urllib3 import BaseHTTPResponse

from webhooks.network.outcome import REASON_LENGTH, Outcome, judge, retry_after
from webhooks.text import clean, hide

# What is kept of an answer's headers, as GitLab does.
HEADERS_KEPT = 50
HEADER_LENGTH = 1024

_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([a-z0-9_.:-]{1,40})(?![a-z0-9_.:-])", re.IGNORECASE | re.ASCII)
# Python remembers for ever each name that it was asked for, and there would be no end of names.
_CHARSETS = frozenset({*aliases, *aliases.values(), "koi8_u", "utf_8_sig"})


def outcome_of(response: BaseHTTPResponse, body: bytes, started_at: datetime, hidden: Collection[str]) -> Outcome:
    def kept(text: str, length: int) -> str:
        # Cut off first, for a receiver may write far more; and cleaned before it is hidden, or NULs take secrets past.
        return hide(clean(text[:length]), hidden)

    location, phrase = response.headers.get("Location", ""), response.reason or ""
    reason = judge(response.status, kept(phrase, REASON_LENGTH), kept(location, REASON_LENGTH))
    return Outcome(
        started_at,
        0,
        reason=reason,
        status=response.status,
        headers={
            kept(name, HEADER_LENGTH): kept(value, HEADER_LENGTH)
            for name, value in islice(response.headers.items(), HEADERS_KEPT)
        },
        body=hide(clean(_decoded(body, response.headers.get("Content-Type", "")[:HEADER_LENGTH])), hidden),
        retry_after=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)) if reason else None,
    )


def _decoded(body: bytes, content_type: str) -> str:
    try:
        return body.decode(_charset(content_type), "replace")
    except (LookupError, UnicodeError):  # no charset of texts, or one that replaces nothing
        return body.decode("utf-8", "replace")


def _charset(content_type: str) -> str:
    if found := _CHARSET.search(content_type):
        name = encodings.normalize_encoding(found[1]).lower()
        return name if name in _CHARSETS else "utf-8"
    return "latin-1" if "text" in content_type else "utf-8"  # as requests has it
