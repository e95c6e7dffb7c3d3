"""Whether a webhook wants an Event, beyond its model and action: changed fields and conditions."""

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
from webhooks.capture.subscriptions import Filters, Subscriptions
from webhooks.conditions import MISSING, SIDES, Verdict, lookup
from webhooks.conf import conf
from webhooks.logs import reraise_job_timeout
from webhooks.models import Action


class FilterError(Exception):
    """The filters of a webhook cannot be evaluated for an Event."""


class Budget:
    """Seconds of processor time for all conditions of a change.

    The changes of a transaction share one budget, which refills by a hundredth with each. So the conditions for 10,000
    changes of a batch take at most 101 times as long as those for one change.
    """

    def __init__(self) -> None:
        self.left = conf.conditions_timeout

    def refill(self) -> None:
        """Another change begins."""
        self.left = min(conf.conditions_timeout, max(self.left, 0) + conf.conditions_timeout / 100)


@dataclass
class EventContext:
    """What filters know of an Event. ``data``, ``snapshots`` and ``changed`` are JSON texts, parsed only if needed."""

    action: str
    data: str
    snapshots: str
    changed: str
    actor: Actor
    verdicts: dict[str, Verdict] = field(default_factory=dict, init=False)
    errors: dict[str, Exception] = field(default_factory=dict, init=False)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The input of conditions."""
        return conditions.facts(json.loads(self.data), json.loads(self.snapshots or "null"))

    @cached_property
    def changed_fields(self) -> list[str] | None:
        """The fields that an update changed. None if that is not known, or if it is no update."""
        names: list[str] | None = json.loads(self.changed) if self.changed else None
        return names if self.action == Action.UPDATED else None

    def judge(self, texts: Iterable[str], budget: Budget) -> None:
        """Evaluate these conditions within the budget; each text once, however many webhooks have it.

        Each gets an equal share of what is left, so that slow ones do not keep others from being evaluated. Slow ones
        then share the rest.
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
        if budget.left > 0:  # parsing the facts for the first time may take long, too
            try:
                verdict = conditions.parse_stored(text).judge(self.facts, budget.left * share)
            except Exception as error:
                reraise_job_timeout(error)
                self.errors[text] = error
        self.verdicts[text] = verdict
        budget.left -= time.thread_time() - began
        return verdict.late and text not in self.errors

    def matches(self, text: str) -> bool:
        """Whether these conditions hold. Raises FilterError, and what evaluating them raised."""
        if text not in self.verdicts:
            self.judge([text], Budget())
        if text in self.errors:
            raise self.errors[text]
        if self.verdicts[text].late:
            raise FilterError(
                f"the conditions took longer than the {conf.conditions_timeout:g} s that all webhooks have together "
                "for a change; write simpler ones"
            )
        return self.verdicts[text].matches


@dataclass
class Match:
    """The ids of the webhooks that want an Event, and the ids and tracebacks of webhooks with filters that failed."""

    matched: list[int] = field(default_factory=list)
    errored: list[int] = field(default_factory=list)
    error: str = ""

    def add(self, other: Match) -> None:
        self.matched = sorted([*self.matched, *other.matched])
        self.add_error(other.errored, other.error)

    def add_error(self, webhook_ids: list[int], error: str) -> None:
        self.errored = sorted([*self.errored, *webhook_ids])
        self.error += error


_ERRORED = (
    "The filters of webhook {} failed, so nothing was sent to it. Correct its conditions, then replay this event to "
    "send it with the data of today.\n{}\n"
)


def match(candidates: list[int], subscriptions: Subscriptions, event: EventContext, budget: Budget) -> Match:
    """Apply the filters of each candidate, within the budget."""
    if not subscriptions.has_filters(candidates):
        return Match(candidates)
    found = Match()
    filters = {pk: subscriptions.filters[pk] for pk in candidates if pk in subscriptions.filters}
    judged = (one.conditions for one in filters.values() if one.conditions and _changes_enough(one, event))
    event.judge(judged, budget)
    for webhook_id in candidates:
        try:
            if webhook_id not in filters or wants(filters[webhook_id], event):
                found.matched.append(webhook_id)
        except Exception as error:
            reraise_job_timeout(error)
            found.add_error([webhook_id], _ERRORED.format(webhook_id, "".join(traceback.format_exception(error))))
    return found


def wants(filters: Filters, event: EventContext) -> bool:
    """Whether a webhook with these filters wants the Event. Raises FilterError, and what evaluating them raises."""
    return _changes_enough(filters, event) and (not filters.conditions or event.matches(filters.conditions))


def _changes_enough(filters: Filters, event: EventContext) -> bool:
    """Whether a wanted field changed. If the changed fields are not known, it may have."""
    changed = event.changed_fields
    if changed is None:
        return True
    if filters.only_changes and not changed:
        return False
    return not filters.changed_fields or any(_has_changed(name, changed, event) for name in filters.changed_fields)


def _has_changed(name: str, changed: list[str], event: EventContext) -> bool:
    field, *steps = name.split(".")
    if field not in changed or not steps:
        return field in changed
    snapshots = event.facts["snapshots"]
    before, after = (lookup(snapshots[side][field], steps) if field in snapshots[side] else MISSING for side in SIDES)
    return bool(before != after)
