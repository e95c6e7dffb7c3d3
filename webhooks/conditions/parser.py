"""Parse conditions from JSON, or refuse them with the place of the error. Pure."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext

from webhooks.conditions.operators import (
    CHANGES,
    OPERATORS,
    VALUE_TYPES,
    Judge,
    Single,
    change,
    comparison,
    kind,
    never,
)
from webhooks.conditions.patterns import MAX_SIZE, Deadline, Pattern, PatternError, TooSlow, too_large
from webhooks.text import short_repr

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


class Parser:
    """Parses one rule within the limits. ``is_stored``: it was accepted when it was saved."""

    def __init__(self, is_stored: bool = False) -> None:
        self._is_stored = is_stored
        self._deadline = Deadline(float("inf") if is_stored else _SECONDS)
        self._conditions = self._values = self._pattern_size = 0
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
        if op not in OPERATORS:  # a tuple: JSON values that have no hash can be looked for in it
            problem = gettext("there is no operator %(op)s; use one of %(known)s")
            raise ConditionError(_at(place, "op"), problem % {"op": short_repr(op), "known": ", ".join(OPERATORS)})
        self.needs_prechange |= op in CHANGES or (attr.startswith("snapshots") and not attr.startswith(_AFTER))
        single = Single(place, attr, op, node.get("value"), bool(node.get("negate")))
        judge = self._change(single, node, place) if op in CHANGES else self._comparison(single, node, place)
        return (lambda values: not judge(values)) if single.negate else judge

    def _change(self, single: Single, node: dict[str, Any], place: str) -> Judge:
        op, attr = single.op, single.attr
        # NetBox refuses null, too. A rule that was saved before goes on.
        if "value" in node and not (self._is_stored and node["value"] is None):
            problem = gettext("%(op)r compares the snapshots; remove 'value'")
            raise ConditionError(_at(place, "value"), problem % {"op": op})
        if attr.startswith("snapshots."):  # as in NetBox: this operator looks for the path inside each snapshot
            bare = ".".join(attr.split(".")[2:]) or "status"
            problem = gettext("%(op)r looks into both snapshots by itself; write %(right)s, not %(wrong)s")
            values = {"op": op, "right": short_repr(bare), "wrong": short_repr(attr)}
            raise ConditionError(_at(place, "attr"), problem % values)
        return change(single)

    def _comparison(self, single: Single, node: dict[str, Any], place: str) -> Judge:
        op = single.op
        if "value" not in node:
            raise ConditionError(place, gettext("'value' is missing, which %(op)r compares with") % {"op": op})
        value, place = node["value"], _at(place, "value")
        types, wanted = VALUE_TYPES[op]
        if type(value) not in types:
            problem = gettext("%(op)r compares with %(wanted)s, not with %(kind)s")
            raise ConditionError(place, problem % {"op": op, "wanted": gettext(wanted), "kind": gettext(kind(value))})
        self._count_values(value, place)
        if op == "regex":
            try:
                value = self._pattern(value)
            except PatternError as error:
                raise ConditionError(place, str(error)) from error
        return comparison(single, value)

    def _count_values(self, value: Any, place: str, depth: int = 0) -> None:
        self._values += 1
        if self._values > _MAX_VALUES or depth > _MAX_DEPTH:
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
