"""Which of the webhooks that match an Event's model and action want it as it is."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from webhooks import conditions
from webhooks.capture.context import Actor
from webhooks.capture.subscriptions import Demand, Subscriptions
from webhooks.conditions import MISSING, SIDES, Verdict, lookup
from webhooks.conf import conf
from webhooks.logs import reraise_job_timeout
from webhooks.models import Action


class Undecided(Exception):
    """It cannot be told whether a webhook wants an Event: its demands cannot be read, or judging them failed."""


class Budget:
    """Seconds of processor time that the conditions of a change may take in all.

    The changes of a transaction share one, and it fills up by a hundredth with each. So the conditions for 10,000
    changes of a batch take at most 101 times as long as those for one.
    """

    def __init__(self) -> None:
        self.left = conf.conditions_timeout

    def fill_up(self) -> None:
        """Another change begins."""
        self.left = min(conf.conditions_timeout, max(self.left, 0) + conf.conditions_timeout / 100)


@dataclass
class Occasion:
    """What has become of an object, as webhooks are asked about it; ``data``, ``snapshots`` and ``changed`` are JSON
    texts, which are only parsed where somebody looks into them."""

    action: str
    data: str
    snapshots: str
    changed: str
    actor: Actor
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What conditions are judged over."""
        return conditions.facts(json.loads(self.data), json.loads(self.snapshots or "null"))

    @cached_property
    def names_changed(self) -> list[str] | None:
        """The fields that an update changed; None where that is not known, or it is none."""
        names: list[str] | None = json.loads(self.changed) if self.changed else None
        return names if self.action == Action.UPDATED else None

    def verdict(self, text: str) -> Verdict:
        """How these conditions are judged; once, however many webhooks have the same. Raises ConditionError."""
        if text not in self.verdicts:
            self.judge([text], Budget())
        if text in self.errors:
            raise self.errors[text]
        return self.verdicts[text]

    def judge(self, texts: Iterable[str], budget: Budget) -> None:
        """Judge these conditions within the budget.

        Each gets an equal share of what is left, so that slow ones keep no others from being judged. Those that need
        more get what the others left over.
        """
        waiting = [text for text in dict.fromkeys(texts) if text not in self.verdicts]
        is_over = False
        while waiting and not is_over:
            count = len(waiting)
            late = [text for done, text in enumerate(waiting) if self._is_late(text, budget, 1 / (count - done))]
            waiting, is_over = late, len(late) == count

    def _is_late(self, text: str, budget: Budget, share: float) -> bool:
        began = time.thread_time()
        verdict = Verdict(False, late=True)
        if budget.left > 0:  # what is read here for the first time may take long, too
            try:
                verdict = conditions.parse_stored(text).judge(self.facts, budget.left * share)
            except Exception as error:
                reraise_job_timeout(error)
                self.errors[text] = error
        self.verdicts[text] = verdict
        budget.left -= time.thread_time() - began
        return verdict.late and text not in self.errors


@dataclass
class Selection:
    """Those who want the Event of this action; and those of whom it cannot be told, with the tracebacks of why."""

    action: str
    wanting: list[int] = field(default_factory=list)
    undecided: list[int] = field(default_factory=list)
    error: str = ""

    def add(self, other: Selection) -> None:
        """Take another one's webhooks in, in order."""
        self.wanting = sorted([*self.wanting, *other.wanting])
        self.leave_undecided(other.undecided, other.error)

    def leave_undecided(self, webhook_ids: list[int], error: str) -> None:
        self.undecided = sorted([*self.undecided, *webhook_ids])
        self.error += error


_UNDECIDED = (
    "It could not be told whether webhook {} wants this, so nothing of it was sent there. Put its conditions right and "
    "send this with the data of today.\n{}\n"
)


def select(candidates: list[int], wanted: Subscriptions, occasion: Occasion, budget: Budget) -> Selection:
    """Ask each candidate that has demands, within the budget."""
    selection = Selection(occasion.action)
    if not wanted.demanding(candidates):
        selection.wanting = candidates
        return selection
    demands = {pk: wanted.demands[pk] for pk in candidates if pk in wanted.demands}
    occasion.judge(
        (one.conditions for one in demands.values() if one.conditions and _changes_enough(one, occasion)), budget
    )
    for webhook_id in candidates:
        try:
            wants_it = webhook_id not in demands or wants(demands[webhook_id], occasion)
        except Exception as error:
            reraise_job_timeout(error)
            selection.undecided.append(webhook_id)
            selection.error += _UNDECIDED.format(webhook_id, "".join(traceback.format_exception(error)))
        else:
            selection.wanting += [webhook_id] if wants_it else []
    return selection


def wants(demand: Demand, occasion: Occasion) -> bool:
    """Whether a webhook that demands this wants such an Event. Raises Undecided, or whatever judging raises."""
    if not _changes_enough(demand, occasion):
        return False
    return not demand.conditions or _matches(demand.conditions, occasion)


def _changes_enough(demand: Demand, occasion: Occasion) -> bool:
    """Where it is not known what changed, it may be what the webhook waits for."""
    changed = occasion.names_changed
    if changed is None:
        return True
    if demand.only_changes and not changed:
        return False
    return not demand.changed_fields or any(_differs(name, changed, occasion) for name in demand.changed_fields)


def _differs(name: str, changed: list[str], occasion: Occasion) -> bool:
    field, *steps = name.split(".")
    if field not in changed or not steps:
        return field in changed
    snapshots = occasion.facts["snapshots"]
    before, after = (lookup(snapshots[side][field], steps) if field in snapshots[side] else MISSING for side in SIDES)
    return bool(before != after)


def _matches(text: str, occasion: Occasion) -> bool:
    verdict = occasion.verdict(text)
    if verdict.late:
        raise Undecided(
            f"the conditions took longer to judge than the {conf.conditions_timeout:g} s that all webhooks have "
            "together for a change; write simpler ones"
        )
    return verdict.matches
