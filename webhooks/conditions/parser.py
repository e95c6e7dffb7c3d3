"""Conditions as they come from JSON: read, and refused with the place of what is wrong. Pure."""

from __future__ import annotations

from typing import Any

from webhooks.conditions.operators import CHANGES, COMPARE, COMPARED_WITH, OPERATORS, Judge, comparison, on_change
from webhooks.conditions.paths import kind
from webhooks.conditions.patterns import WIDE, Pattern, PatternError, size
from webhooks.text import quoted

GROUPS = 20  # and, or within each other
CONDITIONS = 500  # in one rule
VALUES = 10_000  # values in one rule, those in lists counted
PATTERNS = 10_000  # characters of all patterns of one rule: a long one takes up to 60 ms to compile, a wide set 15

_AFTER = "snapshots.postchange."
_EXAMPLE = '{"attr": "status.value", "value": "active"}'


class ConditionError(ValueError):
    """Conditions that are refused.

    ``place`` is the path to what is wrong, such as ``and[1].or[0].op``; empty for the whole.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)
        self.place = place


class Reader:
    """Reads one rule, and counts what it holds. One that ``is_stored`` was judged when it was saved."""

    def __init__(self, is_stored: bool = False) -> None:
        self._is_stored = is_stored
        self._conditions = self._values = self._patterns = 0
        self.needs_before = False

    def read(self, node: Any, place: str = "", depth: int = 0) -> Judge:
        if not isinstance(node, dict):
            raise ConditionError(place, f"a condition must be an object such as {_EXAMPLE}, not {kind(node)}")
        for name in ("and", "or"):
            if name in node:
                return self._group(name, node, place, depth)
        return self._single(node, place)

    def _group(self, name: str, node: dict[str, Any], place: str, depth: int) -> Judge:
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
            return lambda known, deadline: all(judge(known, deadline) for judge in judges)
        return lambda known, deadline: any(judge(known, deadline) for judge in judges)

    def _single(self, node: dict[str, Any], place: str) -> Judge:
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
        if _named(op, CHANGES):
            _check_bare(op, attr, _at(place, "attr"))
        judge = on_change(op, attr) if _named(op, CHANGES) else self._comparison(op, attr, node, place)
        if node.get("negate"):
            return lambda known, deadline: not judge(known, deadline)
        return judge

    def _comparison(self, op: Any, attr: str, node: dict[str, Any], place: str) -> Judge:
        if not _named(op, COMPARE):
            raise ConditionError(
                _at(place, "op"), f"there is no operator {quoted(op)}; use one of {', '.join(OPERATORS)}"
            )
        if "value" not in node:
            raise ConditionError(place, f"'value' is missing, which {op!r} compares with")
        value = node["value"]
        self._check_value(op, value, _at(place, "value"))
        return comparison(op, attr, self._pattern(value, _at(place, "value")) if op == "regex" else value)

    def _pattern(self, source: str, place: str) -> Pattern:
        try:
            self._patterns += size(source)
            if self._patterns > PATTERNS:
                raise PatternError(
                    f"the patterns of a rule may have {PATTERNS:,} characters in all. Those that must repeat count "
                    f"each time, and a set with characters beyond Latin-1 counts as {WIDE}; shorten them"
                )
            return Pattern(source, self._is_stored)
        except PatternError as error:
            raise ConditionError(place, str(error)) from error

    def _check_value(self, op: str, value: Any, place: str) -> None:
        kinds, wanted = COMPARED_WITH[op]
        if isinstance(value, dict):
            raise ConditionError(place, f"{op!r} compares with {wanted}, not with an object")
        if type(value) not in kinds:
            raise ConditionError(place, f"{op!r} compares with {wanted}, not with {kind(value)}")
        self._count(value, place)

    def _count(self, value: Any, place: str) -> None:
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
            _at(place, key), f"a condition has no {quoted(key)}{hint or f'; it looks like {_EXAMPLE}'}"
        )
    if "attr" not in node:
        raise ConditionError(place, f"'attr' is missing; a condition looks like {_EXAMPLE}")
    if _named(node.get("op"), CHANGES) and node.get("value") is not None:
        raise ConditionError(_at(place, "value"), f"{node['op']!r} compares the snapshots; remove 'value'")


def _check_bare(op: str, attr: str, place: str) -> None:
    """As in NetBox: these operators look for the name in each snapshot, where no snapshot is."""
    if attr.startswith("snapshots."):
        bare = ".".join(attr.split(".")[2:]) or "status"
        raise ConditionError(
            place, f"{op!r} looks into both snapshots by itself; write {quoted(bare)}, not {quoted(attr)}"
        )


def _named(name: Any, names: Any) -> bool:
    return isinstance(name, str) and name in names


def _at(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
