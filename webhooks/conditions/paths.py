"""The way to a value in the data of an Event, as NetBox's conditions go it. Pure.

A path has dots between its steps. A list on the way stands for all its members: ``tags.slug`` is the list of the slugs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Facts = Mapping[str, Any]

SIDES = ("prechange", "postchange")
MISSING = object()
NO_SNAPSHOT = object()  # a field of a snapshot that is null, on creation or deletion


class Found:
    """What was found so far in the facts of one Event: a way that many conditions share is gone once."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._known: dict[tuple[str, ...], Any] = {}

    def get(self, way: tuple[str, ...], find: Callable[[], Any]) -> Any:
        if way not in self._known:
            self._known[way] = find()
        return self._known[way]


class Unanswerable(Exception):
    """A condition has no answer for this Event, and so the whole rule does not match, as in NetBox."""


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


def resolver(attr: str) -> Callable[[Facts], Any]:
    """What finds the value at ``attr``, or ``NO_SNAPSHOT``; it raises Unanswerable where there is none."""
    steps = attr.split(".")
    first, side, rest = steps[0], steps[1:2], steps[2:]
    if first == "snapshots" and side and side[0] in SIDES:
        return lambda facts: _in_snapshot(facts, side[0], rest, attr)
    if len(steps) == 1:
        return lambda facts: _step(facts, attr, attr)
    return lambda facts: _walk(facts, steps, attr)


def _in_snapshot(facts: Facts, side: str, steps: list[str], attr: str) -> Any:
    """A value in a snapshot; ``NO_SNAPSHOT`` where there is none but the path is one of the other snapshot's."""
    snapshots = facts.get("snapshots")
    if not isinstance(snapshots, dict) or side not in snapshots or snapshots[side] is not None or not steps:
        return _walk(facts, ["snapshots", side, *steps], attr)
    other = snapshots.get(SIDES[1 - SIDES.index(side)])
    if other is not None and steps != [""] and lookup(other, steps) is MISSING:
        raise Unanswerable(f"there is no {attr!r}, and the other snapshot has none either")
    return NO_SNAPSHOT


def lookup(value: Any, steps: list[str]) -> Any:
    """The value at a path, or ``MISSING``; what lies beyond an empty list is missing too."""
    try:
        found = _walk(value, steps, "")
    except Unanswerable:
        return MISSING
    return MISSING if _beyond_nothing(value, steps) else found


def _beyond_nothing(value: Any, steps: list[str]) -> bool:
    for step in steps:
        if value == []:
            return True
        value = [member[step] for member in value] if isinstance(value, list) else value[step]
    return False


# Words for what JSON holds.

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
