"""Single conditions: find a value by its path, and compare it or see whether it changed. Pure.

A path has dots between its steps. A list on the way means its members: ``tags.slug`` is the list of the slugs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop, pgettext_lazy

from webhooks.capture.conditions.patterns import Deadline
from webhooks.ground.text.json_text import json_equal

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


@dataclass(frozen=True, slots=True)
class Operator:
    """All that the app knows of an operator. ``docs/conditions.md`` has a row for each, too."""

    words: Promise | str
    """As the form shows it, between the path and the value."""
    holds: Callable[[Any, Any, Deadline], Any]
    """Takes the value at the path and that of the condition. May raise TypeError and TooSlow."""
    types: tuple[type, ...] = ()
    """The types of value that it compares with. None: it takes no value."""
    wanted: Promise | str = ""
    """These types in words."""
    knows_null: bool = False
    """Whether a field of a snapshot that is null counts as null. If not, nothing holds for it."""
    compares_snapshots: bool = False
    """``holds`` takes whether the two snapshots differ at the path."""
    is_pattern: bool = False
    """``holds`` takes the value of the condition as a Pattern."""

    @property
    def widget(self) -> str:
        """How the form reads the value: "value" is JSON or else text, "list" has commas between such values."""
        known: dict[tuple[Any, ...], str] = {(): "none", (str,): "text", (list,): "list"}
        return known.get(self.types, "value")


_NUMBER: Any = {"types": (int, float), "wanted": _("a number")}

# In the order of the form.
# fmt: off
OPERATORS = {
    "eq": Operator(
        _("is"), lambda actual, value, deadline: actual == value, knows_null=True,
        types=(str, int, float, bool, list, type(None)), wanted=_("text, a number, true, false, null or a list"),
    ),
    "in": Operator(
        _("is one of"), lambda actual, value, deadline: actual in value, knows_null=True,
        types=(list,), wanted=_("a list"),
    ),
    "contains": Operator(
        _("contains"), lambda actual, value, deadline: value in actual,
        types=(str, int, float, bool, list), wanted=_("text, a number, true, false or a list"),
    ),
    "regex": Operator(
        _("starts with pattern"), lambda actual, pattern, deadline: pattern.matches(actual, deadline), is_pattern=True,
        types=(str,), wanted=_("text, a regular expression"),
    ),
    "gt": Operator(_("is more than"), lambda actual, value, deadline: actual > value, **_NUMBER),
    "gte": Operator(_("is at least"), lambda actual, value, deadline: actual >= value, **_NUMBER),
    "lt": Operator(_("is less than"), lambda actual, value, deadline: actual < value, **_NUMBER),
    "lte": Operator(_("is at most"), lambda actual, value, deadline: actual <= value, **_NUMBER),
    "changed": Operator(
        pgettext_lazy("operator", "changed"), lambda differs, value, deadline: differs, compares_snapshots=True,
    ),
    "unchanged": Operator(
        _("did not change"), lambda differs, value, deadline: not differs, compares_snapshots=True,
    ),
}
# fmt: on
WITHOUT_VALUE = frozenset(name for name, operator in OPERATORS.items() if not operator.types)


def judge_of(single: Single, value: Any) -> Judge:
    """Apply the operator at its path. ``value`` comes from the condition: a Pattern if the operator needs one."""
    operator, attr = OPERATORS[single.op], single.attr
    find = _has_changed if operator.compares_snapshots else _value_at

    def judge(values: Values) -> bool:
        values.last = single
        actual = values.get(find, attr)
        if actual is _NO_SNAPSHOT:
            if not operator.knows_null:
                return False
            actual = None
        try:
            return bool(operator.holds(actual, value, values.deadline))
        except TypeError:
            raise Unanswerable(f"{single.op!r} cannot judge {attr!r}, which is {kind(actual)} there") from None

    return judge


def never(single: Single) -> Judge:
    """An "or" without members does not hold."""

    def judge(values: Values) -> bool:
        values.last = single
        return False

    return judge


def actual_value(single: Single, facts: Mapping[str, Any]) -> Any:
    """The value that a condition found; of a change, the values before and after it. ``MISSING`` without one."""
    try:
        if not OPERATORS[single.op].compares_snapshots:
            actual = _value_at(facts, single.attr)
            return None if actual is _NO_SNAPSHOT else actual
        sides = (lookup(facts["snapshots"][side], single.attr.split(".")) for side in SIDES)
        return [None if side is MISSING else side for side in sides]
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
        value = [_step(item, step, attr) for item in value] if isinstance(value, list) else _step(value, step, attr)
    return value


def _step(value: Any, step: str, attr: str) -> Any:
    if not isinstance(value, dict):
        raise Unanswerable(f"there is no {attr!r}: {step!r} was looked for in {kind(value)}")
    try:
        return value[step]
    except KeyError:
        raise Unanswerable(f"there is no {attr!r}: {step!r} is missing") from None


_KINDS = {
    dict: gettext_noop("an object"),
    list: gettext_noop("a list"),
    str: gettext_noop("text"),
    bool: gettext_noop("true or false"),
    type(None): "null",
}


def kind(value: Any) -> str:
    """The name of a JSON value's type, in English words for an admin."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
