"""Single conditions: find a value by its path, and compare it or see whether it changed. Pure.

A path has dots between its steps. A list on the way means its members: ``tags.slug`` is the list of the slugs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from webhooks.conditions.patterns import Deadline, Pattern
from webhooks.text import json_equal

Facts = Mapping[str, Any]

SIDES = ("prechange", "postchange")
MISSING = object()
_NO_SNAPSHOT = object()  # the value of a field in a snapshot that is null, on creation or deletion


class Unanswerable(Exception):
    """A condition has no answer for this Event, so the whole rule does not match, as in NetBox."""


class Values:
    """The values of one Event's ``facts``. Conditions with the same path share one search."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._found: dict[tuple[str, ...], Any] = {}

    def get(self, key: tuple[str, ...], find: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


# Returns whether the condition holds. Raises Unanswerable and TooSlow.
Judge = Callable[[Values, Deadline], bool]


def _contains(found: Any, value: Any) -> bool:
    return value in found


def _in(found: Any, values: Any) -> bool:
    return found in values


COMPARE: dict[str, Callable[[Any, Any], Any] | None] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": _in,
    "contains": _contains,
    "regex": None,  # which needs the deadline
}
CHANGES = ("changed", "unchanged")
OPERATORS = (*COMPARE, *CHANGES)

_NUMBER = ((int, float), "a number")

# The types of value that each operator compares with, and their names.
VALUE_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
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
    """Compare the value at the path ``attr`` with ``value``, which is a Pattern for ``regex``."""
    compare, resolve = COMPARE[op], _resolver(attr)

    def holds(found: Any, deadline: Deadline) -> bool:
        if compare is not None:
            return bool(compare(found, value))
        if not isinstance(found, str):
            raise TypeError
        pattern: Pattern = value
        return pattern.matches(found, deadline)

    def judge(values: Values, deadline: Deadline) -> bool:
        deadline.left()
        found = values.get((attr,), lambda: resolve(values.facts))
        if found is _NO_SNAPSHOT:
            return op in ("eq", "in") and holds(None, deadline)
        try:
            return holds(found, deadline)
        except TypeError:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is {kind(found)} there") from None

    return judge


def change(op: str, attr: str) -> Judge:
    """Compare the values at the path ``attr`` in the two snapshots."""
    steps = attr.split(".")
    wants_unchanged = op == "unchanged"

    def is_unchanged(values: Values) -> bool:
        snapshots = values.facts.get("snapshots")
        sides = [snapshots.get(side) for side in SIDES] if isinstance(snapshots, dict) else [None, None]
        if sides == [None, None]:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}: this Event has no snapshots")
        before, after = (MISSING if side is None else lookup(side, steps) for side in sides)
        if before is MISSING and after is MISSING:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is in neither snapshot")
        return json_equal(before, after)

    def judge(values: Values, deadline: Deadline) -> bool:
        deadline.left()
        unchanged: bool = values.get(("unchanged", attr), lambda: is_unchanged(values))
        return unchanged is wants_unchanged

    return judge


def lookup(value: Any, steps: list[str]) -> Any:
    """The value at a path. ``MISSING`` without one, and also behind an empty list."""
    try:
        found = _walk(value, steps, "")
    except Unanswerable:
        return MISSING
    for step in steps:
        if value == []:
            return MISSING
        value = [member[step] for member in value] if isinstance(value, list) else value[step]
    return found


def _resolver(attr: str) -> Callable[[Facts], Any]:
    """Return a function that finds the value at ``attr``, or ``_NO_SNAPSHOT``. It raises Unanswerable without one."""
    steps = attr.split(".")
    first, side, rest = steps[0], steps[1:2], steps[2:]
    if first == "snapshots" and side and side[0] in SIDES:
        return lambda facts: _in_snapshot(facts, side[0], rest, attr)
    if len(steps) == 1:
        return lambda facts: _step(facts, attr, attr)
    return lambda facts: _walk(facts, steps, attr)


def _in_snapshot(facts: Facts, side: str, steps: list[str], attr: str) -> Any:
    """The value in a snapshot; ``_NO_SNAPSHOT`` if this snapshot is null and the other one has such a path."""
    snapshots = facts.get("snapshots")
    if not isinstance(snapshots, dict) or side not in snapshots or snapshots[side] is not None or not steps:
        return _walk(facts, ["snapshots", side, *steps], attr)
    other = snapshots.get(SIDES[1 - SIDES.index(side)])
    if other is not None and steps != [""] and lookup(other, steps) is MISSING:
        raise Unanswerable(f"there is no {attr!r}, and the other snapshot has none either")
    return _NO_SNAPSHOT


def _walk(value: Any, steps: list[str], attr: str) -> Any:
    for step in steps:
        many = isinstance(value, list)
        value = [_step(member, step, attr) for member in value] if many else _step(value, step, attr)
    return value


def _step(value: Any, step: str, attr: str) -> Any:
    if not isinstance(value, dict):
        raise Unanswerable(f"there is no {attr!r}: {step!r} was looked for in {kind(value)}")
    try:
        return value[step]
    except KeyError:
        raise Unanswerable(f"there is no {attr!r}: {step!r} is missing") from None


_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def kind(value: Any) -> str:
    """The name of a JSON value's type, in words for an admin."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
