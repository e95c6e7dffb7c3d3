"""What single conditions judge by: how they compare, what with, and what has changed. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from webhooks.conditions.paths import MISSING, NO_SNAPSHOT, SIDES, Found, Unanswerable, kind, lookup, resolver
from webhooks.conditions.patterns import Deadline, Pattern
from webhooks.jsontext import is_same

# Whether what is so fits; raises Unanswerable and TooSlow.
Judge = Callable[[Found, Deadline], bool]
Compare = Callable[[Any, Any, Deadline], bool]


def _in(found: Any, values: Any, deadline: Deadline) -> bool:
    return found in values


def _contains(found: Any, value: Any, deadline: Deadline) -> bool:
    return value in found


def _matches(found: Any, pattern: Pattern, deadline: Deadline) -> bool:
    if not isinstance(found, str):
        raise TypeError
    return pattern.matches(found, deadline)


def _plain(compare: Callable[[Any, Any], Any]) -> Compare:
    return lambda found, value, deadline: bool(compare(found, value))


COMPARE: dict[str, Compare] = {
    "eq": _plain(operator.eq),
    "gt": _plain(operator.gt),
    "gte": _plain(operator.ge),
    "lt": _plain(operator.lt),
    "lte": _plain(operator.le),
    "in": _in,
    "contains": _contains,
    "regex": _matches,
}
CHANGES = ("changed", "unchanged")
OPERATORS = (*COMPARE, *CHANGES)

_NUMBER = ((int, float), "a number")

# What each compares with: types, and in words.
COMPARED_WITH: dict[str, tuple[tuple[type, ...], str]] = {
    "eq": ((str, int, float, bool, list, type(None)), "text, a number, true, false, null or a list"),
    "gt": _NUMBER,
    "gte": _NUMBER,
    "lt": _NUMBER,
    "lte": _NUMBER,
    "in": ((list,), "a list"),
    "contains": ((str, int, float, bool, list), "text, a number, true, false or a list"),
    "regex": ((str,), "text, a regular expression"),
}


def comparison(op: str, attr: str, value: Any) -> Judge:
    """Compares what is at ``attr`` with the value, which for ``regex`` is a Pattern."""
    compare, resolve = COMPARE[op], resolver(attr)

    def judge(known: Found, deadline: Deadline) -> bool:
        deadline.left()
        found = known.get((attr,), lambda: resolve(known.facts))
        if found is NO_SNAPSHOT:
            return op in ("eq", "in") and compare(None, value, deadline)
        try:
            return compare(found, value, deadline)
        except TypeError:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is {kind(found)} there") from None

    return judge


def on_change(op: str, attr: str) -> Judge:
    """Compares what is at ``attr`` in the two snapshots."""
    steps = attr.split(".")
    unchanged = op == "unchanged"

    def stayed(known: Found) -> bool:
        snapshots = known.facts.get("snapshots")
        sides = [snapshots.get(side) for side in SIDES] if isinstance(snapshots, dict) else [None, None]
        if sides == [None, None]:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}: this Event has no snapshots")
        before, after = (MISSING if side is None else lookup(side, steps) for side in sides)
        if before is MISSING and after is MISSING:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is in neither snapshot")
        return is_same(before, after)

    def judge(known: Found, deadline: Deadline) -> bool:
        deadline.left()
        same: bool = known.get(("unchanged", attr), lambda: stayed(known))
        return same is unchanged

    return judge
