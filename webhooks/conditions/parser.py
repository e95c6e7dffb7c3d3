"""Parse conditions from JSON, or refuse them with the place of the error. Pure."""

from __future__ import annotations

from typing import Any

from webhooks.conditions.operators import CHANGES, OPERATORS, VALUE_TYPES, Judge, change, comparison, kind
from webhooks.conditions.patterns import WIDE, Pattern, PatternError, size
from webhooks.text import short_repr

# The limits of one rule.
_MAX_DEPTH = 20  # of "and" and "or", and of lists in values
_MAX_CONDITIONS = 500
_MAX_VALUES = 10_000  # members of lists included
_MAX_PATTERN_SIZE = 10_000  # characters of all patterns: a long one takes up to 60 ms to compile, a wide set 15

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
        self._conditions = self._values = self._pattern_size = 0
        self.needs_prechange = False

    def parse(self, node: Any, place: str = "", depth: int = 0) -> Judge:
        if not isinstance(node, dict):
            raise ConditionError(place, f"a condition must be an object such as {_EXAMPLE}, not {kind(node)}")
        for name in ("and", "or"):
            if name in node:
                return self._group(name, node, place, depth)
        return self._single(node, place)

    def _group(self, name: str, node: dict[str, Any], place: str, depth: int) -> Judge:
        if len(node) > 1:
            others = ", ".join(sorted(f"{key!r}" for key in node if key != name))
            raise ConditionError(place, f"{name!r} must be the only key of its object; move or remove {others}")
        place = _at(place, name)
        if depth >= _MAX_DEPTH:
            raise ConditionError(place, f"'and' and 'or' may be nested {_MAX_DEPTH} deep; make the rule flatter")
        members = node[name]
        if members in ({}, ""):
            members = []
        if not isinstance(members, list):
            raise ConditionError(place, f"{name!r} must hold a list of conditions, not {kind(members)}")
        judges = tuple(self.parse(member, f"{place}[{index}]", depth + 1) for index, member in enumerate(members))
        if name == "and":
            return lambda values, deadline: all(judge(values, deadline) for judge in judges)
        return lambda values, deadline: any(judge(values, deadline) for judge in judges)

    def _single(self, node: dict[str, Any], place: str) -> Judge:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            raise ConditionError(place, f"a rule may have {_MAX_CONDITIONS} conditions; split it over several webhooks")
        _check_keys(node, place)
        attr, op = node["attr"], node.get("op", "eq")
        if not isinstance(attr, str):
            problem = f"'attr' must be text, a path such as 'site.slug', not {kind(attr)}"
            raise ConditionError(_at(place, "attr"), problem)
        if op not in OPERATORS:  # a tuple: JSON values that have no hash can be looked for in it
            problem = f"there is no operator {short_repr(op)}; use one of {', '.join(OPERATORS)}"
            raise ConditionError(_at(place, "op"), problem)
        self.needs_prechange |= op in CHANGES or (attr.startswith("snapshots") and not attr.startswith(_AFTER))
        judge = self._change(op, attr, node, place) if op in CHANGES else self._comparison(op, attr, node, place)
        return (lambda values, deadline: not judge(values, deadline)) if node.get("negate") else judge

    def _change(self, op: str, attr: str, node: dict[str, Any], place: str) -> Judge:
        if node.get("value") is not None:
            raise ConditionError(_at(place, "value"), f"{op!r} compares the snapshots; remove 'value'")
        if attr.startswith("snapshots."):  # as in NetBox: this operator looks for the path inside each snapshot
            bare = ".".join(attr.split(".")[2:]) or "status"
            problem = f"{op!r} looks into both snapshots by itself; write {short_repr(bare)}, not {short_repr(attr)}"
            raise ConditionError(_at(place, "attr"), problem)
        return change(op, attr)

    def _comparison(self, op: str, attr: str, node: dict[str, Any], place: str) -> Judge:
        if "value" not in node:
            raise ConditionError(place, f"'value' is missing, which {op!r} compares with")
        value, place = node["value"], _at(place, "value")
        types, wanted = VALUE_TYPES[op]
        if type(value) not in types:
            raise ConditionError(place, f"{op!r} compares with {wanted}, not with {kind(value)}")
        self._count_values(value, place)
        return comparison(op, attr, self._pattern(value, place) if op == "regex" else value)

    def _pattern(self, source: str, place: str) -> Pattern:
        try:
            self._pattern_size += size(source)
            if self._pattern_size > _MAX_PATTERN_SIZE:
                raise PatternError(
                    f"the patterns of a rule may have {_MAX_PATTERN_SIZE:,} characters in all. Those that must repeat "
                    f"count each time, and a set with characters beyond Latin-1 counts as {WIDE}; shorten them"
                )
            return Pattern(source, self._is_stored)
        except PatternError as error:
            raise ConditionError(place, str(error)) from error

    def _count_values(self, value: Any, place: str) -> None:
        waiting = [(value, 0)]
        while waiting:
            node, depth = waiting.pop()
            self._values += 1
            if self._values > _MAX_VALUES or depth > _MAX_DEPTH:
                problem = f"a rule may hold {_MAX_VALUES:,} values, lists in lists {_MAX_DEPTH} deep; shorten it"
                raise ConditionError(place, problem)
            inner = node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
            waiting += [(item, depth + 1) for item in inner]


def _check_keys(node: dict[str, Any], place: str) -> None:
    if unknown := [key for key in node if key not in _KEYS]:
        key = min(unknown, key=str)
        is_case = key.lower() in ("and", "or", *_KEYS)
        hint = f"; write {key.lower()!r}" if is_case else f"; it looks like {_EXAMPLE}"
        raise ConditionError(_at(place, key), f"a condition has no {short_repr(key)}{hint}")
    if "attr" not in node:
        raise ConditionError(place, f"'attr' is missing; a condition looks like {_EXAMPLE}")


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
