"""Acts on chosen rows, and what a page says about them afterwards, as messages for any framework.

On deliveries, events, runs and webhooks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, ngettext_lazy

from webhooks.ground.db import to_db_time, to_utc
from webhooks.insight.wording import number
from webhooks.models import Delivery, Event, Run, Webhook, permissions
from webhooks.models.filters import SUPERSEDED
from webhooks.models.webhook_states import IS_PAUSED
from webhooks.operations import replays, runs, webhooks
from webhooks.operations.retries import DeliveryKind

SUCCESS, WARNING, ERROR = "success", "warning", "error"

# The result of a replay names this many events that could not be replayed.
MAX_NAMED = 5


@dataclass(frozen=True)
class Message:
    """A sentence about the result of an act."""

    text: str
    level: str = SUCCESS
    """As of Django's messages: "success", "warning" or "error"."""


def changed(done: Any, count: int, left: int = 0, why: Any = "") -> Message:
    """How many rows an act changed. ``done`` says it of a count of rows, ``why`` is the reason for the rows that are
    left out."""
    texts = [str(done % {"count": count, "number": number(count)})] if count or not left else []
    if left:
        texts.append(_("Skipped %(number)s: %(why)s.") % {"number": number(left), "why": why})
    return Message(" ".join(texts), SUCCESS if count else WARNING)


def change_deliveries(
    kind: DeliveryKind, chosen: QuerySet[Delivery], user: Any, *, leaves_superseded: bool
) -> list[Message]:
    """Retry, resend or discard the chosen deliveries that the user may change. The button of one delivery sends a
    superseded one, too. An act on several leaves these out."""
    permitted: Any = permissions.allowed(user, kind.operation, chosen)
    count, superseded = permitted.count(), 0
    if leaves_superseded and SUPERSEDED in kind.filters:
        superseded = permitted.superseded().count()
        permitted = permitted.not_superseded()
    done = kind.perform(permitted, user)  # the oldest first
    messages = []
    if count - superseded or not superseded:
        messages.append(changed(kind.done, done, count - superseded - done, kind.why_left))
    if superseded:
        messages.append(Message(runs.superseded_note(superseded), WARNING))
    return messages


def replay(chosen: QuerySet[Event], user: Any, opened_at: str) -> list[Message]:
    """Replay the chosen events that the user may replay, oldest first. ``opened_at`` is when the page was opened, in
    ISO format: a form may come twice."""
    permitted: Any = permissions.allowed(user, "replay", chosen)
    results = replays.replay(permitted.replayable().order_by("pk"), user, _moment(opened_at))
    replayed = sum(one.event is not None for one in results)
    text = _("“%(event)s” was not replayed: %(problem)s.")
    problems = [text % {"event": one.original.name, "problem": one.problem} for one in results if not one.event]
    messages = []
    if replayed:
        text = ngettext("%(count)s event replayed.", "%(count)s events replayed.", replayed)
        messages.append(Message(text % {"count": number(replayed)}))
    messages += [Message(problem, ERROR) for problem in problems[:MAX_NAMED]]
    if more := len(problems[MAX_NAMED:]):
        text = ngettext(
            "%(count)s more event could not be replayed.", "%(count)s more events could not be replayed.", more
        )
        messages.append(Message(text % {"count": number(more)}, ERROR))
    if not results:
        messages.append(Message(_("Nothing to replay: these are tests, or failed events that were replayed."), WARNING))
    return messages


def _moment(text: str) -> datetime | None:
    try:
        return to_db_time(to_utc(datetime.fromisoformat(text)))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Steering:
    """What users do to runs that have begun."""

    label: Any
    """The action in the list of runs."""
    change: Callable[[Run, Any], bool]
    done: Any
    why_left: Any

    def perform(self, chosen: QuerySet[Run], user: Any) -> Message:
        """Do it to the chosen runs that the user may steer."""
        results = [self.change(run, user) for run in permissions.allowed(user, "add", chosen)]
        return changed(self.done, sum(results), len(results) - sum(results), self.why_left)


# fmt: off

STEERINGS = {
    "pause": Steering(
        gettext_lazy("Pause the selected runs"), runs.pause,
        ngettext_lazy("%(number)s run paused.", "%(number)s runs paused.", "count"),
        gettext_lazy("only running ones can be paused"),
    ),
    "resume": Steering(
        gettext_lazy("Resume the selected runs"), runs.resume,
        ngettext_lazy("%(number)s run resumed.", "%(number)s runs resumed.", "count"),
        gettext_lazy("only paused ones can be resumed"),
    ),
    "cancel": Steering(
        gettext_lazy("Cancel the selected runs"), runs.cancel,
        ngettext_lazy("%(number)s run cancelled.", "%(number)s runs cancelled.", "count"),
        gettext_lazy("they have ended"),
    ),
}

# fmt: on

# Enable, disable, pause and resume webhooks


@dataclass(frozen=True)
class Switch:
    """Turns webhooks on or off. Users press it for one or for many."""

    name: str
    action_label: Any
    """Its label for selected webhooks."""
    change: Callable[[Any, Any], list[Webhook]]
    done: Any
    """What was done, for a count of webhooks."""
    why_left: Any
    button: Any
    """Its short label."""
    hint: Any = ""
    starting: Q | None = None
    """The webhooks that would send then. It leaves out the ones that would send what the user may not view."""

    def press(self, chosen: QuerySet[Webhook], user: Any) -> list[Message]:
        """Change the chosen webhooks that the user may change. Returns what to say about it."""
        refused: list[str] = []
        if self.starting is not None:
            chosen, refused = _without_refused(user, chosen, chosen.filter(self.starting))
        keys = list(permissions.allowed(user, "change", chosen).values_list("pk", flat=True))
        if skipped := chosen.count() - len(keys):
            text = _("You do not have permission to change %(count)s of these webhooks.")
            refused.append(text % {"count": skipped})
        count = len(self.change(Webhook.objects.filter(pk__in=keys), user))
        result = changed(self.done, count, len(keys) - count, self.why_left)
        return [*(Message(text, WARNING) for text in refused), result]


def _without_refused(
    user: Any, chosen: QuerySet[Webhook], starting: QuerySet[Webhook]
) -> tuple[QuerySet[Webhook], list[str]]:
    """The chosen webhooks without the starting ones that would send what the user may not view, and the reasons."""
    refused: dict[str, list[Webhook]] = defaultdict(list)
    for webhook in permissions.allowed(user, "change", starting).prefetch_related("object_types"):
        if reason := webhooks.why_not_started(user, webhook):
            refused[reason].append(webhook)
    texts = []
    for reason, group in refused.items():
        names = ", ".join(f"“{webhook.name}”" for webhook in group)
        texts.append(_("%(names)s: %(reason)s") % {"names": names, "reason": reason})
    return chosen.exclude(pk__in=[webhook.pk for group in refused.values() for webhook in group]), texts


_SENDS = gettext_lazy("Sends what has waited.")

# fmt: off

_DECLARED = (
    Switch(
        "enable", gettext_lazy("Enable the selected webhooks"), partial(webhooks.set_enabled, enabled=True),
        ngettext_lazy("%(number)s webhook enabled.", "%(number)s webhooks enabled.", "count"),
        gettext_lazy("already enabled"), gettext_lazy("Enable"), _SENDS, starting=Q(enabled=False),
    ),
    Switch(
        "disable", gettext_lazy("Disable the selected webhooks"), partial(webhooks.set_enabled, enabled=False),
        ngettext_lazy("%(number)s webhook disabled.", "%(number)s webhooks disabled.", "count"),
        gettext_lazy("already disabled"), gettext_lazy("Disable"),
    ),
    Switch(
        "pause", gettext_lazy("Pause the selected webhooks"), webhooks.pause,
        ngettext_lazy(
            "%(number)s webhook paused. Changes are still stored, and sent after you resume.",
            "%(number)s webhooks paused. Changes are still stored, and sent after you resume.", "count",
        ),
        gettext_lazy("disabled, or paused by a user already"), gettext_lazy("Pause"),
        gettext_lazy("Changes are still stored, and sent after you resume."),
    ),
    Switch(
        "resume", gettext_lazy("Resume the selected webhooks now"), webhooks.resume,
        ngettext_lazy("%(number)s webhook resumed.", "%(number)s webhooks resumed.", "count"),
        gettext_lazy("not paused"), gettext_lazy("Resume"), _SENDS, starting=IS_PAUSED,
    ),
)

# fmt: on

SWITCHES = {one.name: one for one in _DECLARED}
"""In the order of lists."""
