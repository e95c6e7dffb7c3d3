"""Which of the webhooks that match an Event's model and action want it as it is."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.db import DatabaseError

from webhooks import conditions
from webhooks.actors import Actor
from webhooks.capture.subscriptions import Demand, Subscriptions
from webhooks.conditions import Verdict
from webhooks.conditions.paths import MISSING, SIDES, lookup
from webhooks.interruptions import pass_on
from webhooks.models import Action


class Spoilt(Exception):
    """An error of the database in judging demands: ask again, each webhook in a savepoint of its own."""


class Undecided(Exception):
    """It cannot be told whether a webhook wants an Event: its demands cannot be read, or judging them failed."""


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
            self.verdicts[text] = conditions.parsed(text).judge(self.facts)
        return self.verdicts[text]


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

# Put around the asking of one webhook: a savepoint, so that an error of the database in it spoils no other.
Guard = Callable[[], AbstractContextManager[Any]]


def select(candidates: list[int], wanted: Subscriptions, occasion: Occasion, guard: Guard | None = None) -> Selection:
    """Ask each candidate that has demands. Raises Spoilt where an error of the database calls for a ``guard``."""
    selection = Selection(occasion.action)
    if not wanted.demanding(candidates):
        selection.wanting = candidates
        return selection
    for webhook_id in candidates:
        try:
            with guard() if guard and wanted.demanding([webhook_id]) else nullcontext():
                wants_it = webhook_id not in wanted.demands or wants(wanted.demands[webhook_id], occasion)
        except Exception as error:
            pass_on(error)
            if isinstance(error, DatabaseError) and not guard:
                raise Spoilt from error
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
        raise Undecided(verdict.problem)
    return verdict.matches
