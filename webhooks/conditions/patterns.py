r"""Regular expressions that people write into rules, matched in bounded time. Pure.

Python's ``re`` decides what is a pattern, as in NetBox, and says where a broken one is broken. Once it matches it
cannot be stopped: a pattern such as ``(?:.*,){30}P`` goes back and forth for ever, while a save waits. So the matching
is done by the package ``regex``, which gives up when its time is over.
"""

from __future__ import annotations

import re
import time
import warnings
from re import _constants, _parser  # type: ignore[attr-defined]  # how often a part repeats is known to Python alone
from typing import Any

import regex

LENGTH = 1_000  # characters of a pattern
WIDE = 500  # what a set counts that has characters beyond Latin-1: Python may go through 65,536 of them to compile it

TOO_MUCH = "the pattern is nested too deeply or repeats too often; write a simpler one"

# What re and regex read alike, and a brace or a bracket that only regex gives a meaning to (fuzzy matching, [:alpha:]).
_PIECES = re.compile(
    r"""
      (?P<escape> \\ (?: N\{[^}]*\} | . ) )
    | (?P<set>    \[ \^? \]? (?: \\. | [^\]\\] )* \] )
    | (?P<repeat> \{ (?: \d+ (?:,\d*)? | ,\d* ) \} )
    | (?P<brace>  \{ )
    """,
    re.VERBOSE | re.DOTALL,
)
_BEYOND_LATIN_1 = re.compile(r"[^\x00-\xff]|\\[uUN]")
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
_BRACKETS = re.compile(r"\\.|\[", re.DOTALL)


class PatternError(ValueError):
    """A pattern that is refused: what is wrong, and where in it."""


class TooSlow(Exception):
    """The time was over before it was known whether the Event matches."""


class Deadline:
    """What one evaluation may take, in seconds of this thread's processor time, from its first condition on.

    Not of the clock on the wall: on a busy machine a thread may wait for longer, and its rule would not match.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def left(self) -> float:
        """Seconds left. Raises TooSlow when there are none."""
        now = time.thread_time()
        if self._end is None:
            self._end = now + self._seconds
        if now >= self._end:
            raise TooSlow
        return self._end - now


class Pattern:
    """A compiled pattern. Raises PatternError for a broken one. One that ``is_stored`` was compiled by ``re`` when it
    was saved, which may take 70 ms and is not repeated: a save waits."""

    def __init__(self, source: str, is_stored: bool = False) -> None:
        if len(source) > LENGTH:
            raise PatternError(f"the pattern has {len(source):,} characters; {LENGTH:,} are allowed")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (_parser.parse if is_stored else re.compile)(source)
                self._compiled = regex.compile(_PIECES.sub(_as_re_reads_it, source), regex.VERSION0)
        except (re.error, regex.error) as error:
            raise PatternError(f"the pattern is broken: {error}") from error
        except (RecursionError, OverflowError, MemoryError, ValueError) as error:
            raise PatternError(TOO_MUCH) from error

    def matches(self, text: str, deadline: Deadline) -> bool:
        """Whether the pattern fits the beginning of the text, as ``re.match`` has it. Raises TooSlow."""
        try:
            return self._compiled.match(text, timeout=deadline.left()) is not None
        except (TimeoutError, MemoryError) as error:
            raise TooSlow from error


def size(source: str) -> int:
    """The characters of a pattern, counted as often as they must repeat. A set that takes long to compile counts as
    many characters as could be compiled meanwhile. Raises PatternError for one that is nested too deeply."""
    if len(source) > LENGTH:
        return len(source)  # which is refused anyway, and took long to look into
    sets = (found["set"] or "" for found in _PIECES.finditer(source))
    return max(len(source), _pieces_of(source)) + WIDE * sum(1 for one in sets if _BEYOND_LATIN_1.search(one))


def _pieces_of(source: str) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _pieces(_parser.parse(source))
    except RecursionError as error:
        raise PatternError(TOO_MUCH) from error
    except (re.error, OverflowError):
        return 0  # Pattern says what is wrong


def _pieces(node: Any) -> int:
    """How many pieces ``regex`` compiles, for a part of what ``re`` has parsed. It copies what must repeat: 100 times
    for ``a{100}``, once more for each ``+``, and copies of copies where they are nested."""
    if isinstance(node, _parser.SubPattern):
        return sum(
            (argument[0] + 1) * _pieces(argument[2]) if op in _REPEATS else 1 + _pieces(argument)
            for op, argument in node
        )
    return max(1, sum(map(_pieces, node))) if isinstance(node, tuple | list) else 0


def _as_re_reads_it(piece: re.Match[str]) -> str:
    match piece.lastgroup:
        case "brace":
            return r"\{"
        case "set":
            return "[" + _BRACKETS.sub(lambda found: r"\[" if found[0] == "[" else found[0], piece[0][1:])
        case _:
            return piece[0]
