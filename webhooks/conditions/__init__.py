"""Which Events a webhook wants: NetBox's condition format. Pure: JSON in, yes or no out.

The format of NetBox 4.7 (https://netboxlabs.com/docs/netbox/reference/conditions/) applies to the
payload's ``data`` and ``snapshots``. ``docs/conditions.md`` describes it and lists the differences from NetBox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from webhooks.conditions.operators import MISSING, SIDES, Facts, Judge, Unanswerable, Values, lookup
from webhooks.conditions.parser import ConditionError, Parser
from webhooks.conditions.patterns import Deadline, TooSlow

__all__ = ["MISSING", "SIDES", "Condition", "ConditionError", "Verdict", "facts", "lookup", "parse", "parse_stored"]

SECONDS = 0.1  # of CPU time, for an evaluation without another limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the conditions match an Event, and why they cannot be judged. ``late``: they took too long."""

    matches: bool
    problem: str = ""
    late: bool = False


class Condition:
    """Parsed conditions, to judge many Events. ``needs_prechange``: they look at the state before a change."""

    def __init__(self, judge: Judge, needs_prechange: bool = False) -> None:
        self._judge = judge
        self.needs_prechange = needs_prechange

    def judge(self, facts: Facts, seconds: float = SECONDS) -> Verdict:
        """Judge an Event by its ``facts``. Stops after ``seconds`` of CPU time. Never raises."""
        try:
            return _YES if self._judge(Values(facts), Deadline(seconds)) else _NO
        except Unanswerable as error:
            return Verdict(False, str(error))
        except TooSlow:
            problem = f"the conditions took longer than {seconds:g} s to judge; write simpler ones"
            return Verdict(False, problem, late=True)
        except (RecursionError, MemoryError):
            return Verdict(False, "the data are nested too deeply to be compared")


_YES, _NO = Verdict(True), Verdict(False)


def facts(data: Any, snapshots: Mapping[str, Any] | None) -> dict[str, Any]:
    """The input of conditions: the fields of the object, and ``snapshots``. A serializer may also give a list, text or
    a number, which has no fields."""
    return {**(data if isinstance(data, Mapping) else {}), "snapshots": snapshots}


def parse(conditions: Any, is_stored: bool = False) -> Condition:
    """Parse conditions. None, or anything empty, matches every Event. Raises ConditionError."""
    if not conditions:
        return Condition(lambda values, deadline: True)
    parser = Parser(is_stored)
    judge = parser.parse(conditions)
    return Condition(judge, parser.needs_prechange)


@lru_cache(maxsize=1024)
def parse_stored(text: str) -> Condition:
    """Parse the JSON text of stored conditions, and cache the result. Raises ConditionError."""
    return parse(json.loads(text), is_stored=True)
