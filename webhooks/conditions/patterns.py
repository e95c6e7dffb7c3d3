r"""Match the regular expressions of rules in bounded time. Pure.

Python's ``re`` parses a pattern, as in NetBox, and says where it is broken. But nothing can stop ``re`` while it
matches: a pattern such as ``(?:.*,){30}P`` backtracks for ever, while a save waits. So the package ``regex`` matches,
which takes a timeout.
"""

from __future__ import annotations

import re
import time
import warnings
from re import _constants, _parser  # type: ignore[attr-defined]  # how often a part repeats is known to Python alone
from typing import Any

import regex

MAX_LENGTH = 1_000  # characters of a pattern
WIDE = 500  # the size of a set with characters beyond Latin-1: compiling it, Python may go through 65,536 of them

_TOO_COMPLEX = "the pattern is nested too deeply or repeats too often; write a simpler one"

# Finds braces and sets: regex gives some characters in them an additional meaning (fuzzy matching, [:alpha:]).
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
    """A refused pattern: the problem and its position."""


class TooSlow(Exception):
    """The evaluation reached its deadline."""


class Deadline:
    """Limits one evaluation to ``seconds`` of this thread's CPU time, from its first condition on.

    Wall-clock time would be wrong: on a busy machine the thread may wait longer, and its rule would not match.
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
    """A compiled pattern. Raises PatternError for a broken one. ``is_stored``: ``re`` compiled it when it was saved.
    That may take 70 ms and is not repeated while a save waits."""

    def __init__(self, source: str, is_stored: bool = False) -> None:
        if len(source) > MAX_LENGTH:
            raise PatternError(f"the pattern has {len(source):,} characters; {MAX_LENGTH:,} are allowed")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (_parser.parse if is_stored else re.compile)(source)
                self._compiled = regex.compile(_PIECES.sub(_as_re_reads_it, source), regex.VERSION0)
        except (re.error, regex.error) as error:
            raise PatternError(f"the pattern is broken: {error}") from error
        except (RecursionError, OverflowError, MemoryError, ValueError) as error:
            raise PatternError(_TOO_COMPLEX) from error

    def matches(self, text: str, deadline: Deadline) -> bool:
        """Whether the pattern matches at the beginning of the text, as ``re.match`` does. Raises TooSlow."""
        try:
            return self._compiled.match(text, timeout=deadline.left()) is not None
        except (TimeoutError, MemoryError) as error:
            raise TooSlow from error


def size(source: str) -> int:
    """Return the cost of compiling a pattern, in characters. Each required repetition counts, and a wide set counts as
    ``WIDE``. Raises PatternError for a pattern that is nested too deeply."""
    if len(source) > MAX_LENGTH:
        return len(source)  # Pattern refuses it; do not spend time on it here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pieces = _pieces(_parser.parse(source))
    except RecursionError as error:
        raise PatternError(_TOO_COMPLEX) from error
    except (re.error, OverflowError):
        pieces = 0  # Pattern explains the error
    sets = (found["set"] or "" for found in _PIECES.finditer(source))
    return max(len(source), pieces) + WIDE * sum(1 for one in sets if _BEYOND_LATIN_1.search(one))


def _pieces(node: Any) -> int:
    """How many pieces ``regex`` compiles for a part of the parsed pattern. It copies required repetitions: 100 times
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
