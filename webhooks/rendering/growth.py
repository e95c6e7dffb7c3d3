"""How large the results of a template's filters, methods and operators become, known before they are made. Pure.

Only what can make much from little is here, or takes longer than what goes in tells; anything else is about as large as
that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from webhooks.rendering.budgets import BITS, VALUE, Budget, OverBudget

SLOW = 100_000  # characters for filters that take longer than they should
COMPARED = 100  # pairs of characters that are compared in the time of a unit
PRECISION = 100  # decimal places
DIGITS = 100  # of a width
# A whole format with the letter at its end: after a part of one, the next would be looked for in the wrong place.
_PERCENT = re.compile(
    r"%(?:\((?P<key>[^)]*)\)?)?[-#0 +]*(?P<width>\*|[0-9]*)(?:\.(?P<places>\*|[0-9]*))?[hlL]?.?", re.DOTALL
)
_NUMBERS = re.compile(r"\d+")
# What may end a sentence around a link, as it is and as ``urlize`` sees it, escaped.
_ENDS = re.compile(r"(?:[)>.,]|&gt;)+")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(str(value))


def _width(value: Any) -> int:
    return value if isinstance(value, int) else _length(value) if isinstance(value, str) else 0


# The arguments have the names that Jinja2 or Python give them, for they may be passed by name.


def _padded(budget: Budget, value: Any, width: Any = 80, fillchar: Any = " ") -> None:
    budget.afford(_width(width))


def _expanded(budget: Budget, value: str, tabsize: Any = 8) -> None:
    budget.afford(value.count("\t") * _width(tabsize))


def _replaced(budget: Budget, s: Any, old: Any, new: Any, count: Any = None) -> None:
    budget.afford(str(s).count(str(old)) * _length(new))


def _joined(budget: Budget, value: Any, d: Any = "", attribute: Any = None) -> None:
    if isinstance(value, Iterable):
        budget.afford(sum(1 for _ in value) * (_length(d) + VALUE))


def _indented(budget: Budget, s: Any, width: Any = 4, first: Any = False, blank: Any = False) -> None:
    budget.afford((len(str(s).splitlines()) + 1) * _width(width))


def _wrapped(
    budget: Budget,
    s: Any,
    width: Any = 79,
    break_long_words: Any = True,
    wrapstring: Any = None,
    break_on_hyphens: Any = True,
) -> None:
    _slow(budget, s)
    lines = len(str(s)) // max(_width(width), 1) + str(s).count("\n") + 1
    budget.afford(lines * _length("\n" if wrapstring is None else wrapstring))


def _batched(budget: Budget, value: Any, linecount: Any, fill_with: Any = None) -> None:
    _members(budget, value)
    budget.afford(_width(linecount) * budget.size(fill_with))


def _sliced(budget: Budget, value: Any, slices: Any, fill_with: Any = None) -> None:
    _members(budget, value)
    budget.afford(_width(slices) * budget.size(fill_with))


def _rounded(budget: Budget, value: Any, precision: Any = 0, method: Any = "common") -> None:
    if abs(_width(precision)) > PRECISION:
        raise OverBudget(f"numbers can be rounded to {PRECISION} places")


def _whole(budget: Budget, value: Any, default: Any = 0, base: Any = 10) -> None:
    if isinstance(value, str) and len(value) > BITS // 3:
        raise OverBudget(f"a number has more than {BITS:,} bits")


def _as_json(budget: Budget, value: Any, indent: Any = None) -> None:
    if indent is not None and _width(indent) > 16:
        raise OverBudget("JSON can be indented by 16 characters")


def _slow(budget: Budget, value: Any, *others: Any, **more: Any) -> None:
    if budget.size(value) > SLOW:
        raise OverBudget(f"this filter takes {SLOW:,} characters")
    if budget.size((*others, *more.values())) > 1_000:
        raise OverBudget("the arguments of this filter are too long")


def _linked(budget: Budget, value: Any, *others: Any, **more: Any) -> None:
    """From each character that may end a sentence, Jinja2 looks whether nothing but such follows to the end."""
    _slow(budget, value, *others, **more)
    budget.pay(sum(len(run) ** 2 for run in _ENDS.findall(str(value))))


def _members(budget: Budget, value: Any, *others: Any, **more: Any) -> None:
    """Each character of a text becomes a member of a list."""
    if isinstance(value, str):
        budget.afford(len(value) * VALUE)


def _trimmed(budget: Budget, value: Any, chars: Any = None) -> None:
    """Each character of the one is looked for in the other."""
    if isinstance(value, str) and isinstance(chars, str):
        budget.pay(len(value) * len(chars) // COMPARED)


def _backwards(budget: Budget, value: str, sep: Any = None, *others: Any, **more: Any) -> None:
    """From the left Python searches in a time that grows with the two together, from the right with their product."""
    _trimmed(budget, value, sep)


def _summed(budget: Budget, iterable: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise OverBudget("only numbers can be summed; to put texts together use join")


def _printed(budget: Budget, value: Any, *values: Any, **named: Any) -> None:
    """For ``%`` and the filter ``format``."""
    places = widths = 0
    for found in _PERCENT.finditer(str(value)):
        places += 1
        if "(" in (found["key"] or ""):  # Python counts parentheses, which a regular expression cannot
            raise OverBudget("the name in a format must have no parenthesis")
        for width in found.group("width", "places"):
            if width == "*":
                raise OverBudget("the width in a format must be written as a number")
            widths += _capped(width)
    budget.afford(widths + places * budget.size((values, named)))


def spec(budget: Budget, text: str) -> None:
    """The part of a ``str.format`` field behind the colon."""
    budget.afford(sum(_capped(number) for number in _NUMBERS.findall(text)))


def _capped(number: str | None) -> int:
    """Digits that a width is written with, as a number."""
    if number and len(number) > DIGITS:
        raise OverBudget(f"a width may have {DIGITS} digits")
    return int(number) if number else 0


_Check = Callable[..., None]

FILTERS: dict[str, _Check] = {
    "batch": _batched,
    "center": _padded,
    "format": _printed,
    "groupby": _members,
    "indent": _indented,
    "int": _whole,
    "join": _joined,
    "list": _members,
    "pprint": _slow,
    "replace": _replaced,
    "round": _rounded,
    "slice": _sliced,
    "sort": _members,
    "striptags": _slow,
    "sum": _summed,
    "tojson": _as_json,
    "trim": _trimmed,
    "unique": _members,
    "urlize": _linked,
    "wordwrap": _wrapped,
    "xmlattr": _slow,
}

METHODS: dict[str, _Check] = {
    "center": _padded,
    "expandtabs": _expanded,
    "join": lambda budget, between, items: _joined(budget, items, between),
    "ljust": _padded,
    "lstrip": _trimmed,
    "replace": _replaced,
    "rfind": _backwards,
    "rindex": _backwards,
    "rjust": _padded,
    "rpartition": _backwards,
    "rsplit": _backwards,
    "rstrip": _trimmed,
    "strip": _trimmed,
    "striptags": _slow,
    "zfill": _padded,
}


def operation(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Raises OverBudget for ``left operator right`` that would be too large."""
    if operator == "**":
        _power(left, right)
    elif operator == "%" and isinstance(left, str):
        _printed(budget, left, right)
    elif operator == "*":
        _times(budget, left, right)
        _times(budget, right, left)
    elif operator == "+" and not isinstance(left, int | float):
        budget.afford(budget.size(left) + budget.size(right))


def _times(budget: Budget, value: Any, count: Any) -> None:
    if not isinstance(count, int):
        return
    if isinstance(value, int):
        _bits(value.bit_length() + count.bit_length())
    elif not isinstance(value, float):
        budget.afford(budget.size(value) * max(count, 0))


def _power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int):
        _bits(base.bit_length() * abs(exponent))


def _bits(count: int) -> None:
    if count > BITS:
        raise OverBudget(f"a number would have more than {BITS:,} bits")
