"""Which Events a webhook wants, by what is in them: NetBox's condition format. Pure: JSON in, yes or no out.

The format is that of NetBox 4.7 (https://netboxlabs.com/docs/netbox/reference/conditions/), where a condition is
judged over the payload's ``data`` with its ``snapshots`` beside the fields. ``docs/conditions.md`` describes it, and
lists where this differs from NetBox.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from webhooks.conditions.paths import MISSING, NO_SNAPSHOT, SIDES, Facts, Unanswerable, kind, lookup, resolver
from webhooks.conditions.patterns import Deadline, Pattern, PatternError, TooSlow

GROUPS = 20  # and, or within each other
CONDITIONS = 500  # in one rule
VALUES = 10_000  # values in one rule, those in lists counted
PATTERNS = 10_000  # characters of all patterns of one rule: a long one takes up to 60 ms to compile
SECONDS = 0.1  # for all patterns of one evaluation

CHANGES = ("changed", "unchanged")

_Judge = Callable[[Facts, Deadline], bool]
_Compare = Callable[[Any, Any, Deadline], bool]


class ConditionError(ValueError):
    """Conditions that are refused.

    ``place`` is the path to what is wrong, such as ``and[1].or[0].op``; empty for the whole.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)
        self.place = place
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an Event is wanted, and why a condition had no answer for it. ``late``: a pattern took too long."""

    matches: bool
    problem: str = ""
    late: bool = False


class Condition:
    """Conditions that were read, to be judged many times. ``needs_before``: they look at the state before a change."""

    def __init__(self, judge: _Judge, needs_before: bool = False) -> None:
        self._judge = judge
        self.needs_before = needs_before

    def matches(self, facts: Facts) -> bool:
        """Whether an Event with these ``facts`` is wanted. Never raises."""
        return self.judge(facts).matches

    def judge(self, facts: Facts) -> Verdict:
        """The same, with the reason where a condition had no answer. Never raises."""
        try:
            return _YES if self._judge(facts, Deadline(SECONDS)) else _NO
        except Unanswerable as error:
            return Verdict(False, str(error))
        except TooSlow:
            return Verdict(False, f"a pattern took longer than {SECONDS} s to match; write a simpler one", late=True)
        except (RecursionError, MemoryError):
            return Verdict(False, "the data are nested too deeply to be compared")


_YES, _NO = Verdict(True), Verdict(False)


def facts(data: Any, snapshots: Mapping[str, Any] | None) -> dict[str, Any]:
    """What conditions are judged over: the fields of the object, and ``snapshots`` beside them. Data that are no object
    (a serializer may give a list, text or a number) have no fields."""
    return {**(data if isinstance(data, Mapping) else {}), "snapshots": snapshots}


def changed(prechange: Mapping[str, Any] | None, postchange: Mapping[str, Any] | None) -> list[str]:
    """The names of the fields that differ between two snapshots, sorted.

    A field that only one of them has differs; no snapshot (a creation, a deletion) has no fields.
    """
    before, after = prechange or {}, postchange or {}
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name, MISSING) != after.get(name, MISSING)
    )


def parse(conditions: Any) -> Condition:
    """Read conditions as they come from JSON. None, or anything empty, matches every Event. Raises ConditionError."""
    if not conditions:
        return Condition(lambda facts, deadline: True)
    reader = _Reader()
    judge = reader.read(conditions, "", 0)
    return Condition(judge, reader.needs_before)


@lru_cache(maxsize=1024)
def parsed(text: str) -> Condition:
    """The same from JSON text; what was read is remembered by its text. Raises ConditionError."""
    return parse(json.loads(text))


class _Reader:
    """Reads one rule, and counts what it holds."""

    def __init__(self) -> None:
        self._conditions = self._values = self._patterns = 0
        self.needs_before = False

    def read(self, node: Any, place: str, depth: int) -> _Judge:
        if not isinstance(node, dict):
            raise ConditionError(place, f"a condition must be an object such as {_EXAMPLE}, not {kind(node)}")
        for name in ("and", "or"):
            if name in node:
                return self._group(name, node, place, depth)
        return self._single(node, place)

    def _group(self, name: str, node: dict[str, Any], place: str, depth: int) -> _Judge:
        if len(node) > 1:
            others = ", ".join(sorted(f"{key!r}" for key in node if key != name))
            raise ConditionError(place, f"{name!r} must stand alone in its object; move or remove {others}")
        place = _at(place, name)
        if depth >= GROUPS:
            raise ConditionError(place, f"'and' and 'or' may be nested {GROUPS} deep; make the rule flatter")
        members = node[name]
        if members in ({}, ""):
            members = []
        if not isinstance(members, list):
            raise ConditionError(place, f"{name!r} must hold a list of conditions, not {kind(members)}")
        judges = tuple(self.read(member, f"{place}[{index}]", depth + 1) for index, member in enumerate(members))
        if name == "and":
            return lambda facts, deadline: all(judge(facts, deadline) for judge in judges)
        return lambda facts, deadline: any(judge(facts, deadline) for judge in judges)

    def _single(self, node: dict[str, Any], place: str) -> _Judge:
        self._conditions += 1
        if self._conditions > CONDITIONS:
            raise ConditionError(place, f"a rule may have {CONDITIONS} conditions; split it over several webhooks")
        _check_keys(node, place)
        attr = node["attr"]
        if not isinstance(attr, str):
            raise ConditionError(
                _at(place, "attr"), f"'attr' must be text, a path such as 'site.slug', not {kind(attr)}"
            )
        op = node.get("op", "eq")
        self.needs_before |= _named(op, CHANGES) or (attr.startswith("snapshots") and not attr.startswith(_AFTER))
        judge = _on_change(op, attr) if _named(op, CHANGES) else self._comparison(op, attr, node, place)
        if node.get("negate"):
            return lambda facts, deadline: not judge(facts, deadline)
        return judge

    def _comparison(self, op: Any, attr: str, node: dict[str, Any], place: str) -> _Judge:
        if not _named(op, _COMPARE):
            raise ConditionError(
                _at(place, "op"), f"there is no operator {_shown(op)}; use one of {', '.join(OPERATORS)}"
            )
        if "value" not in node:
            raise ConditionError(place, f"'value' is missing, which {op!r} compares with")
        value = node["value"]
        self._check_value(op, value, _at(place, "value"))
        compare, resolve = _COMPARE[op], resolver(attr)
        if op == "regex":
            value = self._pattern(value, _at(place, "value"))

        def judge(facts: Facts, deadline: Deadline) -> bool:
            found = resolve(facts)
            if found is NO_SNAPSHOT:
                return op in ("eq", "in") and compare(None, value, deadline)
            try:
                return compare(found, value, deadline)
            except TypeError:
                raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is {kind(found)} there") from None

        return judge

    def _pattern(self, source: str, place: str) -> Pattern:
        self._patterns += len(source)
        if self._patterns > PATTERNS:
            raise ConditionError(place, f"the patterns of a rule may have {PATTERNS:,} characters in all; shorten them")
        try:
            return Pattern(source)
        except PatternError as error:
            raise ConditionError(place, str(error)) from error

    def _check_value(self, op: str, value: Any, place: str) -> None:
        kinds, wanted = _VALUES[op]
        if isinstance(value, dict):
            raise ConditionError(place, f"{op!r} compares with {wanted}, not with an object")
        if type(value) not in kinds:
            raise ConditionError(place, f"{op!r} compares with {wanted}, not with {kind(value)}")
        waiting = [(value, 0)]
        while waiting:
            node, depth = waiting.pop()
            self._values += 1
            if self._values > VALUES or depth > GROUPS:
                raise ConditionError(
                    place, f"a rule may hold {VALUES:,} values, lists in lists {GROUPS} deep; shorten it"
                )
            inner = node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
            waiting += [(item, depth + 1) for item in inner]


def _check_keys(node: dict[str, Any], place: str) -> None:
    if unknown := [key for key in node if key not in ("attr", "op", "value", "negate")]:
        key = min(unknown, key=str)
        hint = f"; write {key.lower()!r}" if str(key).lower() in ("and", "or", "attr", "op", "value", "negate") else ""
        raise ConditionError(
            _at(place, key), f"a condition has no {_shown(key)}{hint or f'; it looks like {_EXAMPLE}'}"
        )
    if "attr" not in node:
        raise ConditionError(place, f"'attr' is missing; a condition looks like {_EXAMPLE}")
    if _named(node.get("op"), CHANGES) and node.get("value") is not None:
        raise ConditionError(_at(place, "value"), f"{node['op']!r} compares the snapshots; remove 'value'")


def _on_change(op: str, attr: str) -> _Judge:
    steps = attr.split(".")
    unchanged = op == "unchanged"

    def judge(facts: Facts, deadline: Deadline) -> bool:
        snapshots = facts.get("snapshots")
        sides = [snapshots.get(side) for side in SIDES] if isinstance(snapshots, dict) else [None, None]
        if sides == [None, None]:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}: this Event has no snapshots")
        before, after = (MISSING if side is None else lookup(side, steps) for side in sides)
        if before is MISSING and after is MISSING:
            raise Unanswerable(f"{op!r} cannot judge {attr!r}, which is in neither snapshot")
        return bool(before == after) is unchanged

    return judge


# Operators: how they compare, and what they compare with.


def _in(found: Any, values: Any, deadline: Deadline) -> bool:
    return found in values


def _contains(found: Any, value: Any, deadline: Deadline) -> bool:
    return value in found


def _matches(found: Any, pattern: Pattern, deadline: Deadline) -> bool:
    if not isinstance(found, str):
        raise TypeError
    return pattern.matches(found, deadline)


def _plain(compare: Callable[[Any, Any], Any]) -> _Compare:
    return lambda found, value, deadline: bool(compare(found, value))


_COMPARE: dict[str, _Compare] = {
    "eq": _plain(operator.eq),
    "gt": _plain(operator.gt),
    "gte": _plain(operator.ge),
    "lt": _plain(operator.lt),
    "lte": _plain(operator.le),
    "in": _in,
    "contains": _contains,
    "regex": _matches,
}
OPERATORS = (*_COMPARE, *CHANGES)

_NUMBER = ((int, float), "a number")
_VALUES: dict[str, tuple[tuple[type, ...], str]] = {
    "eq": ((str, int, float, bool, list, type(None)), "text, a number, true, false, null or a list"),
    "gt": _NUMBER,
    "gte": _NUMBER,
    "lt": _NUMBER,
    "lte": _NUMBER,
    "in": ((list,), "a list"),
    "contains": ((str, int, float, bool, list), "text, a number, true, false or a list"),
    "regex": ((str,), "text, a regular expression"),
}

_AFTER = "snapshots.postchange."
_EXAMPLE = '{"attr": "status.value", "value": "active"}'


def _named(name: Any, names: Any) -> bool:
    return isinstance(name, str) and name in names


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _at(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
