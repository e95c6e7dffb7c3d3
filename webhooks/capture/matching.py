"""Apply the filters of webhooks to an Event: changed fields and conditions."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from webhooks.capture import conditions
from webhooks.capture.conditions import MISSING, SIDES, Judgement, actual_value, lookup
from webhooks.capture.context import Actor
from webhooks.capture.subscriptions import Filters, Subscriptions
from webhooks.ground import payloads
from webhooks.ground.conf import conf
from webhooks.ground.errors import reraise_job_timeout
from webhooks.ground.text import clean
from webhooks.ground.text.json_text import json_equal
from webhooks.models.event import Action, Event
from webhooks.models.skip import Refusal, Rule


class FilterError(Exception):
    """The filters of a webhook cannot be evaluated for an Event."""


class Budget:
    """Seconds of processor time for the conditions of all changes of a transaction.

    The first change gets the setting ``conditions_timeout``. Each later one adds a hundredth of that, up to the setting
    again. So the conditions for 10,000 changes take at most 101 times as long as those for one change may take.
    """

    left = float("inf")  # until the first change

    def refill(self) -> None:
        """Add the share of a change that begins."""
        self.left = min(conf.conditions_timeout, max(self.left, 0) + conf.conditions_timeout / 100)


@dataclass
class EventContext:
    """An Event as filters see it. ``data``, ``snapshots`` and ``changed`` are JSON texts, parsed only if needed."""

    action: str
    data: str
    snapshots: str
    changed: str
    actor: Actor
    judgements: dict[str, Judgement] = field(default_factory=dict, init=False)
    errors: dict[str, Exception] = field(default_factory=dict, init=False)
    explanations: dict[str, Refusal] = field(default_factory=dict, init=False)

    @classmethod
    def of_stored(cls, event: Event, serializer: str) -> EventContext:
        """A stored Event, with the data of this serializer."""
        sent, actor = payloads.as_serialized_by(event, serializer), Actor(event.username, event.request_id)
        return cls(event.action, sent.data, sent.snapshots, sent.changed, actor)

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
        """Evaluate the conditions of a change within the budget; each text once, however many webhooks have it.

        Each gets an equal share of the rest, so that slow ones do not keep others from being evaluated. Slow ones
        then share the rest.
        """
        budget.refill()
        waiting = [text for text in dict.fromkeys(texts) if text not in self.judgements]
        count = 0
        while len(waiting) != count:
            count = len(waiting)
            waiting = [text for done, text in enumerate(waiting) if not self._finish(text, budget, 1 / (count - done))]
        for text in waiting:
            self.errors[text] = FilterError(
                f"the conditions took longer than the {conf.conditions_timeout:g} s that all webhooks have together "
                "for a change; write simpler ones"
            )

    def _finish(self, text: str, budget: Budget, share: float) -> bool:
        """Evaluate these conditions within a share of the budget. False if that is too short."""
        began = time.thread_time()
        try:
            if budget.left > 0:  # parsing the facts for the first time may take long, too
                judgement = conditions.parse_stored(text).judge(self.facts, budget.left * share)
                if not judgement.late:
                    self.judgements[text] = judgement
        except Exception as error:
            reraise_job_timeout(error)
            self.errors[text] = error
        budget.left -= time.thread_time() - began
        return text in self.judgements or text in self.errors

    def matches(self, text: str) -> bool:
        """Whether these conditions hold. Raises FilterError, and what evaluating them raised."""
        if text not in self.judgements and text not in self.errors:
            self.judge([text], Budget())
        if text in self.errors:
            raise self.errors[text]
        return self.judgements[text].matches

    def explain(self, text: str) -> Refusal:
        """Which condition decided that these conditions do not hold."""
        if text not in self.explanations:
            judgement = self.judgements[text]
            detail: dict[str, Any] = {"problem": judgement.problem} if judgement.problem else {}
            if condition := judgement.decided_by:
                detail |= {"path": condition.attr, "operator": condition.op, "expected": condition.value}
                detail |= {"place": condition.place} if condition.place else {}
                detail |= {"negate": True} if condition.negate else {}
                actual = actual_value(condition, self.facts)
                detail |= {} if actual is MISSING else {"actual": actual}
            self.explanations[text] = Refusal.because(Rule.CONDITION, **detail)
        return self.explanations[text]


@dataclass
class Match:
    """The result of all filters for an Event.

    ``matched`` and ``errored`` are ids of webhooks. ``error`` has the tracebacks of filters that failed. ``refusals``
    has the reasons of the other webhooks. It is empty if no skips are stored."""

    matched: list[int] = field(default_factory=list)
    errored: list[int] = field(default_factory=list)
    error: str = ""
    refusals: dict[int, Refusal] = field(default_factory=dict)

    def add(self, other: Match) -> None:
        self.matched = sorted([*self.matched, *other.matched])
        self.refusals |= other.refusals
        if other.errored:
            self.add_error(other.errored, other.error)

    def add_error(self, webhook_ids: list[int], error: str) -> None:
        self.errored = sorted([*self.errored, *webhook_ids])
        self.error += clean(error)


def match(candidates: list[int], subscriptions: Subscriptions, event: EventContext, budget: Budget) -> Match:
    """Apply the filters of each candidate, within the budget."""
    known = subscriptions.filters
    filters = {pk: known[pk] for pk in candidates if pk in known and known[pk].needs_data}
    if not filters:
        return Match(candidates)
    matched = Match()
    judged = (wanted.conditions for wanted in filters.values() if wanted.conditions and _changes_enough(wanted, event))
    event.judge(judged, budget)
    for webhook_id in candidates:
        try:
            if webhook_id not in filters or wants(filters[webhook_id], event):
                matched.matched.append(webhook_id)
            elif subscriptions.keeps_skips:
                matched.refusals[webhook_id] = _refusal(filters[webhook_id], event)
        except Exception as error:
            reraise_job_timeout(error)
            advice = "Correct its conditions, then replay this event to send it with the data of today."
            problem = f"The filters of webhook {webhook_id} failed, so nothing was sent to it. {advice}"
            matched.add_error([webhook_id], f"{problem}\n{''.join(traceback.format_exception(error))}\n")
    return matched


def wants(filters: Filters, event: EventContext) -> bool:
    """Whether a webhook with these filters wants the Event. Raises FilterError, and what evaluating them raises."""
    return _changes_enough(filters, event) and (not filters.conditions or event.matches(filters.conditions))


def _refusal(filters: Filters, event: EventContext) -> Refusal:
    """Why a webhook with these filters does not want the Event."""
    if _changes_enough(filters, event):
        return event.explain(filters.conditions)
    if filters.only_changes and not event.changed_fields:
        return Refusal(Rule.NO_CHANGE)
    return Refusal.because(
        Rule.CHANGED_FIELDS, wanted=list(filters.changed_fields), changed=list(event.changed_fields or ())
    )


def _changes_enough(filters: Filters, event: EventContext) -> bool:
    """Whether a wanted field changed. If the changed fields are not known, it may have."""
    changed = event.changed_fields
    if changed is None:
        return True
    if filters.only_changes and not changed:
        return False
    return not filters.changed_fields or any(
        _has_field_changed(name, changed, event) for name in filters.changed_fields
    )


def _has_field_changed(name: str, changed: list[str], event: EventContext) -> bool:
    field, *steps = name.split(".")
    if field not in changed or not steps:
        return field in changed
    snapshots = event.facts["snapshots"]
    if all(field not in snapshots[side] for side in SIDES):
        return True  # the snapshots do not show the field, so any key in it may have changed
    before, after = (lookup(snapshots[side], [field, *steps]) for side in SIDES)
    return not json_equal(before, after)
