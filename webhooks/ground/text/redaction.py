"""Redaction: secrets in text that is stored or shown, also where they are encoded or cut off."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterator, Sequence

REDACTED = "********"

# If a text was cut off within a secret, the beginning of that secret is redacted from this many characters on.
MIN_PREFIX = 4

# The most that ``redact`` searches: the length of the text times the length of all secrets. 8 KB by 8 KB is 67 million.
MAX_SEARCHED = 100_000_000


def redact(text: str, secrets: Collection[str]) -> str:
    """Replace each secret by asterisks, also if JSON, URL or HTML escapes spell it, or several of these.

    A text that takes too long to search becomes asterisks as a whole.
    """
    secrets = [secret for secret in secrets if secret]
    if not secrets:
        return text
    if len(text) * sum(map(len, secrets)) > MAX_SEARCHED:
        return REDACTED
    spans = sorted(span for decoded in _decodings(text) for secret in secrets for span in _spans_of(secret, *decoded))
    parts, end = [], 0
    for first, last in spans:
        if first >= end:
            parts += [text[end:first], REDACTED]
        end = max(end, last)
    return "".join([*parts, text[end:]])


def _spans_of(secret: str, text: str, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The spans of a secret, as places in the original text; and of its beginning, if the text ends with that."""
    start = text.find(secret)
    while start >= 0:
        yield places[start], places[start + len(secret)]
        start = text.find(secret, start + len(secret))
    text, end = text.rstrip(CUT_OFF), places[len(text)]
    start = text.find(secret[0], max(0, len(text) - len(secret) + 1))
    while start >= 0 and not secret.startswith(text[start:]):
        start = text.find(secret[0], start + 1)
    if start >= 0 and end - places[start] >= MIN_PREFIX:
        yield places[start], end


# Marks an escape that is cut off at the end of the text; ``clean`` leaves no other NUL.
CUT_OFF = "\0"

_JSON_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

# The escapes of JSON, HTML and URLs, each with its decoder. Every repetition is bounded: receivers write these texts.
_ESCAPES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (
        re.compile(r"\\u([0-9a-fA-F]{4})|\\([^u])|\\(?:u[0-9a-fA-F]{0,3})?\Z", re.DOTALL),
        lambda escape: chr(int(escape[1], 16)) if escape[1] else _JSON_CONTROLS.get(escape[2], escape[2] or CUT_OFF),
    ),
    (
        re.compile(r"&(?:#[0-9]{1,10}|#[xX][0-9a-fA-F]{1,10}|amp|lt|gt|quot|apos);|&[#0-9A-Za-z]{0,12}\Z"),
        lambda escape: html.unescape(escape[0]) if escape[0].endswith(";") else CUT_OFF,
    ),
    (
        re.compile(r"%([0-9a-fA-F]{2})|(\+)|%[0-9a-fA-F]?\Z"),
        lambda escape: chr(int(escape[1], 16)) if escape[1] else " " if escape[2] else CUT_OFF,
    ),
]


def _decodings(text: str) -> list[tuple[str, Sequence[int]]]:
    """The text as it is, and with every combination of the three kinds of escapes decoded. Each with the place in the
    text where each of its characters begins, and the end."""
    decodings: list[tuple[str, Sequence[int]]] = [(text, range(len(text) + 1))]
    for escapes, meaning in _ESCAPES:
        for encoded, places in [decoding for decoding in decodings if escapes.search(decoding[0])]:
            parts, found_places, last = [], list[int](), 0
            for escape in escapes.finditer(encoded):
                start, character = escape.start(), meaning(escape)
                parts += [encoded[last:start], character]
                found_places += [*places[last:start], *[places[start]] * len(character)]
                last = escape.end()
            decodings.append(("".join([*parts, encoded[last:]]), [*found_places, *places[last:]]))
    return decodings
