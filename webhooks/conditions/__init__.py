"""The conditions of webhooks, in NetBox's format. Pure: JSON in, yes or no out.

The format of NetBox 4.7 (https://netboxlabs.com/docs/netbox/reference/conditions/) applies to the
payload's ``data`` and ``snapshots``. ``docs/conditions.md`` describes it and lists the differences from NetBox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from webhooks.conditions.operators import (
    CHANGES,
    MISSING,
    SIDES,
    Judge,
    Single,
    Unanswerable,
    Values,
    actual_value,
    lookup,
)
from webhooks.conditions.parser import ConditionError, Parser
from webhooks.conditions.patterns import Deadline, TooSlow

__all__ = [
    "CHANGES",
    "MISSING",
    "SIDES",
    "Condition",
    "ConditionError",
    "Judgement",
    "Single",
    "actual_value",
    "facts",
    "lookup",
    "parse",
    "parse_stored",
]  # fmt: skip

SECONDS = 0.1  # of CPU time, for an evaluation without another limit


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
    parser = Parser(is_stored)
    judge = parser.parse(conditions) if conditions else lambda values: True
    return Condition(judge, parser.needs_prechange)


@lru_cache(maxsize=1024)
def parse_stored(text: str) -> Condition:
    """Parse the JSON text of stored conditions, and cache the result. Raises ConditionError."""
    return parse(json.loads(text), is_stored=True)
