"""Text from elsewhere: made such that every database takes it, nobody is deceived, and no secret stands in it."""

from __future__ import annotations

import html
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# What cannot be seen, and so deceives: control characters, and what turns the direction of a text around. Line breaks
# and tabs are kept apart, for there are places where they belong.
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSEEN = re.compile(f"[{_CONTROLS}]")
_UNSEEN_OR_BREAK = re.compile(f"[{_CONTROLS}\t\n\r\u061c\u200e\u200f]")

HIDDEN = "********"

# If a text ends with the first characters of a secret, at least this many, they are hidden too: it was cut off there.
FEW = 4

# The most that ``hide`` searches: the length of a text times the length of all secrets. 8 KB and 8 KB are 67 million.
MOST_SEARCHED = 100_000_000


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


def hide(text: str, secrets: Collection[str]) -> str:
    """Replace each secret in the text by asterisks, also in the spelling of JSON, URLs and HTML, or several of them.

    A text too long to search in reasonable time becomes asterisks as a whole.
    """
    if len(text) * sum(map(len, secrets)) > MOST_SEARCHED:
        return HIDDEN
    spans = sorted(span for reading in _readings(text) for word in secrets for span in reading.spans_of(word))
    shown, end = [], 0
    for first, last in spans:
        if first >= end:
            shown += [text[end:first], HIDDEN]
        end = max(end, last)
    return "".join([*shown, text[end:]])


@dataclass(slots=True, eq=False)
class _Reading:
    """A text after its escapes are decoded, and where each part of it was before."""

    text: str
    before: _Reading | None = None
    ends: Sequence[int] = ()
    """Where each decoded escape ends in this text."""
    shifts: Sequence[int] = ()
    """By how many characters the text before was longer up to there."""

    def spans_of(self, word: str) -> Iterator[tuple[int, int]]:
        """Where the word was in the first text, and where its beginning was if the text ends with that."""
        start = self.text.find(word)
        while start >= 0:
            yield self._place(start), self._place(start + len(word))
            start = self.text.find(word, start + len(word))
        text, end = self.text.rstrip(CUT_OFF), self._place(len(self.text))
        start = text.find(word[0], max(0, len(text) - len(word) + 1))
        while start >= 0 and not word.startswith(text[start:]):
            start = text.find(word[0], start + 1)
        if start >= 0 and end - self._place(start) >= FEW:
            yield self._place(start), end

    def decoded(self, escapes: re.Pattern[str], meaning: Callable[[re.Match[str]], str]) -> _Reading | None:
        """The same without these escapes; None if it has none."""
        if not escapes.search(self.text):
            return None
        parts, ends, shifts, length, last = [], [], [], 0, 0
        for found in escapes.finditer(self.text):
            character = meaning(found)
            parts += [self.text[last : found.start()], character]
            length += found.start() - last + len(character)
            last = found.end()
            ends.append(length)
            shifts.append(last - length)
        return _Reading("".join([*parts, self.text[last:]]), self, ends, shifts)

    def _place(self, index: int) -> int:
        if self.before is None:
            return index
        passed = bisect_right(self.ends, index)
        return self.before._place(index + (self.shifts[passed - 1] if passed else 0))


# An escape that is cut off at the end of a text; ``clean`` leaves no other NUL.
CUT_OFF = "\0"

_IN_JSON = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

# Escapes, and how each is decoded. Each repetition is bounded, for receivers write what these search.
_ESCAPES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (
        re.compile(r"\\u([0-9a-fA-F]{4})|\\([^u])|\\(?:u[0-9a-fA-F]{0,3})?\Z", re.DOTALL),
        lambda found: chr(int(found[1], 16)) if found[1] else _IN_JSON.get(found[2], found[2] or CUT_OFF),
    ),
    (
        re.compile(r"&(?:#[0-9]{1,10}|#[xX][0-9a-fA-F]{1,10}|amp|lt|gt|quot|apos);|&[#0-9A-Za-z]{0,12}\Z"),
        lambda found: html.unescape(found[0]) if found[0].endswith(";") else CUT_OFF,
    ),
    (
        re.compile(r"%([0-9a-fA-F]{2})|(\+)|%[0-9a-fA-F]?\Z"),
        lambda found: chr(int(found[1], 16)) if found[1] else " " if found[2] else CUT_OFF,
    ),
]


def _readings(text: str) -> list[_Reading]:
    """The text as it is, and with each of the three kinds of escapes decoded or not."""
    readings = [_Reading(text)]
    for escapes, meaning in _ESCAPES:
        readings += filter(None, [reading.decoded(escapes, meaning) for reading in readings])
    return readings
