r"""Match the regular expressions of rules in bounded time. Pure.

Python's ``re`` checks a pattern when it is saved, as in NetBox, and says where it is broken. But nothing can stop
``re`` while it matches: a pattern such as ``(?:.*,){30}P`` backtracks for ever, while a save waits. So the package
``regex`` matches, which takes a timeout.
"""

from __future__ import annotations

import re
import time
import warnings

import regex
from django.utils.translation import gettext

MAX_LENGTH = 1_000  # characters of a pattern
MAX_SIZE = 10_000  # of all patterns of a rule: ``regex`` compiles this in 60 ms


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
_BRACKETS = re.compile(r"\\.|\[", re.DOTALL)


class PatternError(ValueError):
    """A refused pattern: the problem and its position."""


def too_large() -> str:
    """The problem of patterns that have more than ``MAX_SIZE`` characters together."""
    problem = gettext(
        "the patterns of a rule may have %(most)s characters in all, and those that must repeat count each time; "
        "shorten them"
    )
    return problem % {"most": f"{MAX_SIZE:,}"}


class TooSlow(Exception):
    """The evaluation reached its deadline."""


class Deadline:
    """Limits one evaluation to ``seconds`` of this thread's CPU time.

    Wall-clock time would be wrong: on a busy machine the thread may wait longer, and its rule would not match.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.thread_time() + seconds

    def left(self) -> float:
        """Seconds left. Raises TooSlow when there are none."""
        left = self._end - time.thread_time()
        if left <= 0:
            raise TooSlow
        return left


class Pattern:
    """A compiled pattern. Raises PatternError for one that is broken or too large. ``is_stored``: ``re`` checked it
    when it was saved. That may take a second and is not repeated while a save waits."""

    def __init__(self, source: str, is_stored: bool = False) -> None:
        if len(source) > MAX_LENGTH:
            too_long = gettext("the pattern has %(count)s characters; %(most)s are allowed")
            raise PatternError(too_long % {"count": f"{len(source):,}", "most": f"{MAX_LENGTH:,}"})
        self.size = _size(source)
        if self.size > MAX_SIZE:
            raise PatternError(too_large())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if not is_stored:
                    re.compile(source)
                self._compiled = regex.compile(_PIECES.sub(_as_re_reads_it, source), regex.VERSION0)
        except (re.error, regex.error) as error:
            raise PatternError(gettext("the pattern is broken: %(error)s") % {"error": error}) from error
        except (RecursionError, OverflowError, MemoryError, ValueError) as error:
            raise PatternError(gettext("the pattern is nested too deeply; write a simpler one")) from error

    def matches(self, text: str, deadline: Deadline) -> bool:
        """Whether the pattern matches the beginning of the text. Raises TooSlow, and TypeError for other values."""
        try:
            return self._compiled.match(text, timeout=deadline.left()) is not None
        except (TimeoutError, MemoryError) as error:
            raise TooSlow from error


def _size(source: str) -> int:
    """Return how many characters ``regex`` compiles at most. It copies what must repeat: 100 times for ``a{100}``, and
    once more for each ``+``. Groups may be nested, so their repetitions multiply."""
    size, factor = len(source), 1
    for repeat in re.finditer(r"\+|\{(\d+)", source):
        count = int(repeat[1] or 1)
        if source[repeat.start() - 1] in ")}?*+ \n\t\r\f\v":  # after a group or a repetition, maybe with flag x
            factor *= count + 1
        else:
            size += count
    return size * factor


def _as_re_reads_it(piece: re.Match[str]) -> str:
    match piece.lastgroup:
        case "brace":
            return r"\{"
        case "set":
            return "[" + _BRACKETS.sub(lambda part: r"\[" if part[0] == "[" else part[0], piece[0][1:])
        case _:
            return piece[0]
