"""Which Events a webhook wants, by what is in them: NetBox's condition format. Pure: JSON in, yes or no out.

The format is that of NetBox 4.7 (https://netboxlabs.com/docs/netbox/reference/conditions/), where a condition is
judged over the payload's ``data`` with its ``snapshots`` beside the fields. ``docs/conditions.md`` describes it, and
lists where this differs from NetBox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from webhooks.conditions.operators import Judge
from webhooks.conditions.parser import ConditionError, Reader
from webhooks.conditions.paths import Facts, Found, Unanswerable
from webhooks.conditions.patterns import Deadline, TooSlow

__all__ = ["Condition", "ConditionError", "Verdict", "facts", "parse", "parsed"]

SECONDS = 0.1  # of processor time, for one evaluation whose caller gives no other time


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an Event is wanted, and why a condition had no answer for it. ``late``: it took too long."""

    matches: bool
    problem: str = ""
    late: bool = False


class Condition:
    """Conditions that were read, to be judged many times. ``needs_before``: they look at the state before a change."""

    def __init__(self, judge: Judge, needs_before: bool = False) -> None:
        self._judge = judge
        self.needs_before = needs_before

    def judge(self, facts: Facts, seconds: float = SECONDS) -> Verdict:
        """Whether an Event with these ``facts`` is wanted. Stops after ``seconds`` of processor time. Never raises."""
        try:
            return _YES if self._judge(Found(facts), Deadline(seconds)) else _NO
        except Unanswerable as error:
            return Verdict(False, str(error))
        except TooSlow:
            return Verdict(
                False, f"the conditions took longer than {seconds:g} s to judge; write simpler ones", late=True
            )
        except (RecursionError, MemoryError):
            return Verdict(False, "the data are nested too deeply to be compared")


_YES, _NO = Verdict(True), Verdict(False)


def facts(data: Any, snapshots: Mapping[str, Any] | None) -> dict[str, Any]:
    """What conditions are judged over: the fields of the object, and ``snapshots`` beside them. Data that are no object
    (a serializer may give a list, text or a number) have no fields."""
    return {**(data if isinstance(data, Mapping) else {}), "snapshots": snapshots}


def parse(conditions: Any, is_stored: bool = False) -> Condition:
    """Read conditions as they come from JSON. None, or anything empty, matches every Event. Raises ConditionError."""
    if not conditions:
        return Condition(lambda known, deadline: True)
    reader = Reader(is_stored)
    judge = reader.read(conditions)
    return Condition(judge, reader.needs_before)


@lru_cache(maxsize=1024)
def parsed(text: str) -> Condition:
    """The same from JSON text that is stored; what was read is remembered by its text. Raises ConditionError."""
    return parse(json.loads(text), is_stored=True)
