"""Single conditions: find a value by its path, and compare it or see whether it changed. Pure.

A path has dots between its steps. A list on the way means its members: ``tags.slug`` is the list of the slugs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_noop as _

from webhooks.conditions.patterns import Deadline, Pattern
from webhooks.text import json_equal

SIDES = ("prechange", "postchange")
MISSING = object()
_NO_SNAPSHOT = object()  # the value of a field in a snapshot that is null, on creation or deletion


class Unanswerable(Exception):
    """A condition has no answer for this Event, so the whole rule does not match, as in NetBox."""


@dataclass(frozen=True, slots=True)
class Single:
    """A condition without "and" and "or". ``place`` is where it is in the rule, such as ``and[1].or[0]``."""

    place: str
    attr: str
    op: str
    value: Any = None
    negate: bool = False


class Values:
    """The values of one Event's ``facts``, for one evaluation. Conditions with the same path share one search.

    ``last`` is the condition that was evaluated last. If a rule does not match, this condition has decided that. "and"
    stops at the first one that does not hold, "or" at the last one.
    """

    def __init__(self, facts: Mapping[str, Any], deadline: Deadline) -> None:
        self.facts, self.deadline = facts, deadline
        self.last: Single | None = None
        self._found: dict[tuple[Any, str], Any] = {}

    def get(self, find: Callable[[Mapping[str, Any], str], Any], attr: str) -> Any:
        """Return what ``find`` finds at the path. Raises TooSlow and what ``find`` raises."""
        self.deadline.left()
        key = find, attr
        if key not in self._found:
            self._found[key] = find(self.facts, attr)
        return self._found[key]


# Returns whether the condition holds. Raises Unanswerable and TooSlow.
Judge = Callable[[Values], bool]

COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda found, values: found in values,
    "contains": operator.contains,
}

# The types of value that each operator compares with, and their names.
VALUE_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "eq": ((str, int, float, bool, list, type(None)), _("text, a number, true, false, null or a list")),
    **dict.fromkeys(("gt", "gte", "lt", "lte"), ((int, float), _("a number"))),
    "in": ((list,), _("a list")),
    "contains": ((str, int, float, bool, list), _("text, a number, true, false or a list")),
    "regex": ((str,), _("text, a regular expression")),
}
CHANGES = ("changed", "unchanged")
OPERATORS = (*VALUE_TYPES, *CHANGES)


def comparison(single: Single, value: Any) -> Judge:
    """Compare the value at the path with ``value``, which is a Pattern for ``regex``."""
    op, attr = single.op, single.attr

    def judge(values: Values) -> bool:
        values.last = single
        found = values.get(_value_at, attr)
        if found is _NO_SNAPSHOT:
            if op not in ("eq", "in"):
                return False
            found = None
        try:
            if isinstance(value, Pattern):
                return value.matches(found, values.deadline)
            return bool(COMPARE[op](found, value))
        except TypeError:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is {kind(found)} there") from None

    return judge


def never(single: Single) -> Judge:
    """An "or" without members does not hold."""

    def judge(values: Values) -> bool:
        values.last = single
        return False

    return judge


def change(single: Single) -> Judge:
    """Compare the values at the path in the two snapshots."""

    def judge(values: Values) -> bool:
        values.last = single
        return bool(values.get(_has_changed, single.attr) is (single.op == "changed"))

    return judge


def actual_value(single: Single, facts: Mapping[str, Any]) -> Any:
    """The value that a condition found; of a change, the values before and after it. ``MISSING`` without one."""
    try:
        if single.op not in CHANGES:
            found = _value_at(facts, single.attr)
            return None if found is _NO_SNAPSHOT else found
        sides = (lookup(facts["snapshots"][side], single.attr.split(".")) for side in SIDES)
        return [None if one is MISSING else one for one in sides]
    except (Unanswerable, TypeError, KeyError):
        return MISSING


def _has_changed(facts: Mapping[str, Any], attr: str) -> bool:
    """Whether the values at the path differ. Raises Unanswerable without a value in either snapshot."""
    snapshots = facts.get("snapshots")
    sides = [snapshots.get(side) for side in SIDES] if isinstance(snapshots, dict) else [None, None]
    if sides == [None, None]:
        raise Unanswerable(f"it is not known whether {attr!r} changed: this Event has no snapshots")
    before, after = (MISSING if side is None else lookup(side, attr.split(".")) for side in sides)
    if before is MISSING and after is MISSING:
        raise Unanswerable(f"{attr!r} is in neither snapshot")
    return not json_equal(before, after)


def lookup(value: Any, steps: list[str]) -> Any:
    """The value at a path. ``MISSING`` without one, and also behind an empty list."""
    for step in steps:
        if value == []:
            return MISSING
        try:
            value = [member[step] for member in value] if isinstance(value, list) else value[step]
        except (KeyError, TypeError):
            return MISSING
    return value


def _value_at(facts: Mapping[str, Any], attr: str) -> Any:
    """The value at the path, or ``_NO_SNAPSHOT`` in a snapshot that is null. Raises Unanswerable without one."""
    steps = attr.split(".")
    snapshots = facts.get("snapshots")
    if steps[0] == "snapshots" and len(steps) > 2 and isinstance(snapshots, dict):
        side, inner = steps[1], steps[2:]
        if side in SIDES and snapshots.get(side, MISSING) is None:
            other = snapshots.get(SIDES[1 - SIDES.index(side)])
            if other is not None and inner != [""] and lookup(other, inner) is MISSING:
                raise Unanswerable(f"there is no {attr!r}, and the other snapshot has none either")
            return _NO_SNAPSHOT
    value: Any = facts
    for step in steps:
        value = [_step(one, step, attr) for one in value] if isinstance(value, list) else _step(value, step, attr)
    return value


def _step(value: Any, step: str, attr: str) -> Any:
    if not isinstance(value, dict):
        raise Unanswerable(f"there is no {attr!r}: {step!r} was looked for in {kind(value)}")
    try:
        return value[step]
    except KeyError:
        raise Unanswerable(f"there is no {attr!r}: {step!r} is missing") from None


_KINDS = {dict: _("an object"), list: _("a list"), str: _("text"), bool: _("true or false"), type(None): "null"}


def kind(value: Any) -> str:
    """The name of a JSON value's type, in English words for an admin."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
