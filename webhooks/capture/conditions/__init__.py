"""The conditions of webhooks, in NetBox's format. Pure: JSON in, yes or no out.

The format of NetBox 4.7 (https://netboxlabs.com/docs/netbox/reference/conditions/) applies to the
payload's ``data`` and ``snapshots``. ``docs/conditions.md`` describes it and lists the differences from NetBox.

This module parses a rule, or refuses it with the place of the error. ``operators`` has a row for each operator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.utils.translation import gettext

from webhooks.capture.conditions.operators import (
    MISSING,
    OPERATORS,
    SIDES,
    WITHOUT_VALUE,
    Judge,
    Single,
    Unanswerable,
    Values,
    actual_value,
    judge_of,
    kind,
    lookup,
    never,
)
from webhooks.capture.conditions.patterns import MAX_SIZE, Deadline, Pattern, PatternError, TooSlow, too_large
from webhooks.ground.text import short_repr

__all__ = [
    "MISSING", "OPERATORS", "SIDES", "WITHOUT_VALUE", "Condition", "ConditionError", "Judgement", "actual_value",
    "facts", "lookup", "parse", "parse_stored",
]  # fmt: skip

SECONDS = 0.1  # of CPU time, for an evaluation without another limit

# The limits of one rule.
_MAX_DEPTH = 20  # of "and" and "or", and of lists in values
_MAX_CONDITIONS = 500
_MAX_VALUES = 10_000  # members of lists included
_SECONDS = 0.5  # of CPU time, until the last pattern is compiled

_KEYS = ("attr", "op", "value", "negate")
_AFTER = "snapshots.postchange."
_EXAMPLE = '{"attr": "status.value", "value": "active"}'


class ConditionError(ValueError):
    """Refused conditions. ``place`` is the path to the error, such as ``and[1].or[0].op``; empty for the whole."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)
        self.place = place


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether the conditions match an Event, and why they cannot be judged. ``late``: they took too long.

    ``decided_by`` is the condition that was evaluated last: if they do not match, it is the reason.
    """

    matches: bool
    problem: str = ""
    late: bool = False
    decided_by: Single | None = None


class Condition:
    """Parsed conditions, to judge many Events. ``needs_prechange``: they look at the state before a change."""

    def __init__(self, judge: Judge, needs_prechange: bool) -> None:
        self._judge = judge
        self.needs_prechange = needs_prechange

    def judge(self, facts: Mapping[str, Any], seconds: float = SECONDS) -> Judgement:
        """Judge an Event by its ``facts``. Stops after ``seconds`` of CPU time. Never raises."""
        values = Values(facts, Deadline(seconds))
        try:
            return Judgement(self._judge(values), decided_by=values.last)
        except Unanswerable as error:
            return Judgement(False, str(error), decided_by=values.last)
        except TooSlow:
            problem = f"the conditions took longer than {seconds:g} s to judge; write simpler ones"
            return Judgement(False, problem, late=True)
        except (RecursionError, MemoryError):
            return Judgement(False, "the data are nested too deeply to be compared")


def facts(data: Any, snapshots: Mapping[str, Any] | None) -> dict[str, Any]:
    """The input of conditions: ``snapshots``, and the fields of the object. Data that is no object has no fields."""
    return {**(data if isinstance(data, Mapping) else {}), "snapshots": snapshots}


def parse(conditions: Any, is_stored: bool = False) -> Condition:
    """Parse conditions. None, or anything empty, matches every Event. Raises ConditionError."""
    parser = _Parser(is_stored)
    judge = parser.parse(conditions) if conditions else lambda values: True
    return Condition(judge, parser.needs_prechange)


@lru_cache(maxsize=1024)
def parse_stored(text: str) -> Condition:
    """Parse the JSON text of stored conditions, and cache the result. Raises ConditionError."""
    return parse(json.loads(text), is_stored=True)


class _Parser:
    """Parses one rule within the limits. ``is_stored``: it was accepted when it was saved."""

    def __init__(self, is_stored: bool = False) -> None:
        self._is_stored = is_stored
        self._deadline = Deadline(float("inf") if is_stored else _SECONDS)
        self._conditions = self._value_count = self._pattern_size = 0
        self.needs_prechange = False

    def parse(self, node: Any, place: str = "", depth: int = 0) -> Judge:
        if not isinstance(node, dict):
            problem = gettext("a condition must be an object such as %(example)s, not %(kind)s")
            raise ConditionError(place, problem % {"example": _EXAMPLE, "kind": gettext(kind(node))})
        for name in ("and", "or"):
            if name in node:
                return self._group(name, node, place, depth)
        return self._single(node, place)

    def _group(self, name: str, node: dict[str, Any], place: str, depth: int) -> Judge:
        if len(node) > 1:
            others = ", ".join(sorted(f"{key!r}" for key in node if key != name))
            problem = gettext("%(name)r must be the only key of its object; move or remove %(others)s")
            raise ConditionError(place, problem % {"name": name, "others": others})
        place = _at(place, name)
        if depth >= _MAX_DEPTH:
            problem = gettext("'and' and 'or' may be nested %(most)d deep; make the rule flatter")
            raise ConditionError(place, problem % {"most": _MAX_DEPTH})
        members = node[name]
        if members in ({}, ""):
            members = []
        if not isinstance(members, list):
            problem = gettext("%(name)r must hold a list of conditions, not %(kind)s")
            raise ConditionError(place, problem % {"name": name, "kind": gettext(kind(members))})
        judges = tuple(self.parse(member, f"{place}[{index}]", depth + 1) for index, member in enumerate(members))
        if name == "and":
            return lambda values: all(judge(values) for judge in judges)
        if not judges:
            return never(Single(place, "", "or", []))
        return lambda values: any(judge(values) for judge in judges)

    def _single(self, node: dict[str, Any], place: str) -> Judge:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            problem = gettext("a rule may have %(most)d conditions; split it over several webhooks")
            raise ConditionError(place, problem % {"most": _MAX_CONDITIONS})
        if unknown := [key for key in node if key not in _KEYS]:
            key = min(unknown, key=str)
            if key.lower() in ("and", "or", *_KEYS):
                problem = gettext("a condition has no %(key)s; write %(right)r")
            else:
                problem = gettext("a condition has no %(key)s; it looks like %(example)s")
            values = {"key": short_repr(key), "right": key.lower(), "example": _EXAMPLE}
            raise ConditionError(_at(place, key), problem % values)
        if "attr" not in node:
            problem = gettext("'attr' is missing; a condition looks like %(example)s")
            raise ConditionError(place, problem % {"example": _EXAMPLE})
        attr, op = node["attr"], node.get("op", "eq")
        if not isinstance(attr, str):
            problem = gettext("'attr' must be text, a path such as 'site.slug', not %(kind)s")
            raise ConditionError(_at(place, "attr"), problem % {"kind": gettext(kind(attr))})
        if not isinstance(op, str) or op not in OPERATORS:
            problem = gettext("there is no operator %(op)s; use one of %(known)s")
            raise ConditionError(_at(place, "op"), problem % {"op": short_repr(op), "known": ", ".join(OPERATORS)})
        changes = OPERATORS[op].compares_snapshots
        if changes and attr.startswith("snapshots."):  # as in NetBox: it looks for the path inside each snapshot
            bare = ".".join(attr.split(".")[2:]) or "status"
            problem = gettext("%(op)r looks into both snapshots by itself; write %(right)s, not %(wrong)s")
            values = {"op": op, "right": short_repr(bare), "wrong": short_repr(attr)}
            raise ConditionError(_at(place, "attr"), problem % values)
        self.needs_prechange |= changes or (attr.startswith("snapshots") and not attr.startswith(_AFTER))
        single = Single(place, attr, op, node.get("value"), bool(node.get("negate")))
        judge = judge_of(single, self._value(op, node, place))
        return (lambda values: not judge(values)) if single.negate else judge

    def _value(self, op: str, node: dict[str, Any], place: str) -> Any:
        """The value that the operator compares with: a Pattern for one that matches, None for one without."""
        operator, at_value = OPERATORS[op], _at(place, "value")
        if not operator.types:
            # NetBox refuses null, too. A rule that was saved before goes on.
            if "value" in node and not (self._is_stored and node["value"] is None):
                raise ConditionError(at_value, gettext("%(op)r takes no value; remove 'value'") % {"op": op})
            return None
        if "value" not in node:
            raise ConditionError(place, gettext("'value' is missing, which %(op)r compares with") % {"op": op})
        value = node["value"]
        if type(value) not in operator.types:
            problem = gettext("%(op)r compares with %(wanted)s, not with %(kind)s")
            names = {"op": op, "wanted": operator.wanted, "kind": gettext(kind(value))}
            raise ConditionError(at_value, problem % names)
        self._count_values(value, at_value)
        if not operator.is_pattern:
            return value
        try:
            return self._pattern(value)
        except PatternError as error:
            raise ConditionError(at_value, str(error)) from error

    def _count_values(self, value: Any, place: str, depth: int = 0) -> None:
        self._value_count += 1
        if self._value_count > _MAX_VALUES or depth > _MAX_DEPTH:
            problem = gettext("a rule may hold %(values)s values, lists in lists %(depth)d deep; shorten it")
            raise ConditionError(place, problem % {"values": f"{_MAX_VALUES:,}", "depth": _MAX_DEPTH})
        for inner in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            self._count_values(inner, place, depth + 1)

    def _pattern(self, source: str) -> Pattern:
        pattern = Pattern(source, self._is_stored)
        self._pattern_size += pattern.size
        if self._pattern_size > MAX_SIZE:
            raise PatternError(too_large())
        try:
            self._deadline.left()
        except TooSlow:
            raise PatternError(gettext("the patterns take too long to compile; write simpler ones")) from None
        return pattern


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
