"""What the page of an event shows: its change, what became of it, the webhooks that skipped it, and its payload.

The change has who made it, when, and the values before and after.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.db.models import Count
from django.utils.translation import gettext as _

from webhooks.ground import payloads
from webhooks.ground.db.session import index_plans
from webhooks.ground.payloads import SendableEvent
from webhooks.ground.text.json_text import json_equal
from webhooks.insight.counts import EACH_CAP, capped
from webhooks.insight.why.rows import near, skip_ids_around
from webhooks.insight.wording import skip_reason
from webhooks.models import Action, Delivery, Event, Skip, State, permissions
from webhooks.models.delivery import ENDED_STATE
from webhooks.models.permissions.redaction import WHO_SEES_PAYLOADS, Redaction
from webhooks.models.queue import ENDED_STATES
from webhooks.pages.links import Link

# The page of an event shows this many deliveries, and this many skips.
MAX_DELIVERIES = 100

# A page shows this many lines.
MAX_LINES = 100

# Of a list, a line names this many members that it lost, and this many that it got.
MAX_MEMBERS = 50

# A longer value is folded.
LONG = 120

_MISSING: Any = object()


class EventPage:
    """An event as one user may see it."""

    def __init__(self, event: Event, user: Any) -> None:
        deliveries = permissions.visible_deliveries(user, event.deliveries.for_list()).order_by("pk")[:MAX_DELIVERIES]
        same = {"object_type": event.object_type, "object_id": event.object_id}
        replay = Event.objects.filter(**same, pk__gt=event.pk, replay_of=event.pk).first() if event.error else None
        sees_payload, redacted = permissions.may_view_payloads(user, event), Redaction(user)
        self.event = event
        self.change = Change(event, user, event, sees_payload)
        self.is_dispatched = not hasattr(event, "undispatched")
        self.is_replayed = replay is not None
        self.replayed_as = _visible_id(replay.pk if replay else None, user)
        """The event that replayed it, if the user may view it."""
        self.replay_of = _visible_id(event.replay_of, user)
        """The event that it replays, if the user may view it."""
        self.deliveries = [(one, redacted.error(one.webhook_id, one.reason, one.error_kind)) for one in deliveries]
        """With the reason why the last attempt failed."""
        states = [one.state for one, _reason in self.deliveries]
        self.outcomes = Counter(one if one in ENDED_STATES else "" for one in states)
        """The number of its deliveries by outcome."""
        self.skips = _skips(event, user)
        """The webhooks that did not want the change, and why."""
        self.payload = Payload(event) if sees_payload else None
        """None if the user may not view it."""
        self.may_see_deliveries = permissions.may_view_deliveries(user)
        self.may_see_skips = permissions.may_view_skips(user)
        self.acts = list(_acts(event, user))
        """The buttons."""


class Payload:
    """The stored JSON texts of an event."""

    def __init__(self, event: Event) -> None:
        names = payloads.webhooks_by_serializer(event) if event.serializers else []
        outputs = [(name or _("default"), payloads.as_serialized_by(event, name).data) for name in names]
        self.outputs = outputs or [("", event.data)]
        """The output of each serializer, with its name. Without a name if there is only one."""
        self.snapshots, self.request = event.snapshots, event.request


def _acts(event: Event, user: Any) -> Iterator[Link]:
    replayable = Event.objects.replayable().filter(pk=event.pk)
    if permissions.may(user, "replay", event) and replayable.exists():
        label = _("Replay as the first of a new chain") if event.is_loop_protected else _("Replay with current data")
        yield Link(label, "event", event.pk, "replay", posts=True, is_main=True)
    if permissions.may_view_webhooks(user):
        yield Link(_("Why?"), "why", filters={"event": event.pk})


def _visible_id(pk: int | None, user: Any) -> int | None:
    return pk if pk and permissions.visible_events(user, Event.objects.filter(pk=pk)).exists() else None


def count_outcomes(events: Sequence[Event], user: Any) -> dict[int, dict[str, int]]:
    """The number of deliveries of each event by outcome. One that is not sent yet has none."""
    deliveries = permissions.visible_deliveries(user, Delivery.objects.filter(event__in=events))
    outcomes: dict[int, dict[str, int]] = {event.pk: {} for event in events}
    found = deliveries.order_by().values_list("event", ENDED_STATE).annotate(count=Count("pk"))
    with index_plans(deliveries.db, may_sort=True):
        for pk, outcome, count in found:
            outcomes[pk][outcome] = count
    return outcomes


def outcomes_in_order(outcomes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The outcomes that there are, the ones that need an admin first."""
    order = (State.FAILED, "", State.SUCCEEDED, State.DISCARDED)
    return [(outcome, outcomes[outcome]) for outcome in order if outcomes.get(outcome)]


def _skips(event: Event, user: Any) -> list[tuple[Skip, str]]:
    """An object and a time find the skips: they do not name the event. So another change may have left them. Each
    webhook shows its nearest one, and none if it got the event."""
    got = {*event.deliveries.order_by().values_list("webhook", flat=True)}
    if not event.is_loop_protected:  # such an event went to none of the webhooks that wanted it
        got |= {*event.webhook_ids}
    chosen = Skip.objects.filter(near(event), skip_ids_around([event])).exclude(webhook__in=got)
    rows = permissions.visible_skips(user, chosen).select_related("webhook")[:MAX_DELIVERIES]
    farthest_first = sorted(rows, key=lambda row: abs(row.timestamp - event.timestamp), reverse=True)
    nearest = {row.webhook_id: row for row in farthest_first}
    shows_actual = permissions.may_view_payloads(user)
    return [(row, skip_reason(row, shows_actual)) for row in nearest.values()]


# The change


class Change:
    """The change as one user may see it. A delivery may show it without the event: then not who made it."""

    who_sees_payloads: ClassVar = WHO_SEES_PAYLOADS

    def __init__(self, event: Event, user: Any, sent: SendableEvent, sees_payload: bool) -> None:
        """``sent`` is the event with the data of one serializer."""
        lines, is_known = diff_lines(sent) if sees_payload else ([], False)
        self.event, self.sees_payload = event, sees_payload
        self.sees_event = permissions.may(user, "view", event)
        self.http = _http(event) if sees_payload else ""
        """The HTTP request that made the change: "PATCH /api/dcim/sites/1/"."""
        self.request_events = _events_of_request(event, user)
        """How many events the request made. 0 if the user may not view events."""
        changed = json.loads(sent.changed or "null") if self.sees_event or sees_payload else None
        self.fields = "" if changed is None else ", ".join(changed) or _("nothing")
        """The names of the changed fields."""
        self.lines, self.more_lines = lines[:MAX_LINES], max(0, len(lines) - MAX_LINES)
        """The first values that changed."""
        self.is_known = is_known
        """Whether the values before are known: not without snapshots."""
        self.is_fold = event.action != Action.UPDATED
        """Whether the lines are a whole object."""


def diff_lines(sent: SendableEvent) -> tuple[list[Line], bool]:
    """The lines of the difference, and whether it is known."""
    if not sent.snapshots:
        return [], False
    snapshots = json.loads(sent.snapshots)
    before, after = snapshots.get("prechange"), snapshots.get("postchange")
    if sent.action == Action.UPDATED and (before is None or after is None):
        return [], False
    return diff(before, after), True


def _http(event: Event) -> str:
    request = json.loads(event.request) if event.request else None
    if not isinstance(request, dict):
        return ""
    return " ".join(str(request[name]) for name in ("method", "path") if request.get(name))


def _events_of_request(event: Event, user: Any) -> int:
    if not event.request_id or not permissions.may_view_events(user):
        return 0
    rows = permissions.visible_events(user, Event.objects.filter(request_id=event.request_id)).order_by()
    return capped(rows, EACH_CAP).count()


# The comparison of two snapshots


@dataclass(frozen=True)
class Line:
    """One value that changed. ``before`` and ``after`` are texts; None if there was no such value."""

    path: str
    before: str | None = None
    after: str | None = None
    gone: list[str] = field(default_factory=list)
    """Members that a list lost. Then ``before`` and ``after`` are None."""
    new: list[str] = field(default_factory=list)
    """Members that a list got."""
    kept: int = 0
    """The number of members that a list kept."""
    more: int = 0
    """The number of members that it lost or got and that the line does not name."""

    @property
    def is_list(self) -> bool:
        return bool(self.gone or self.new)

    @property
    def is_long(self) -> bool:
        return any(len(value or "") > LONG for value in (self.before, self.after))


def diff(before: Any, after: Any) -> list[Line]:
    """The lines for two snapshots, in the order of their keys. None means that there is no object."""
    return list(_lines("", {} if before is None else before, {} if after is None else after))


def _lines(path: str, before: Any, after: Any) -> Iterator[Line]:
    if before is not _MISSING and after is not _MISSING and json_equal(before, after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [*before, *(name for name in after if name not in before)]
        for name in sorted(names) if path else names:
            yield from _lines(f"{path}.{name}" if path else name, before.get(name, _MISSING), after.get(name, _MISSING))
    elif isinstance(before, list) and isinstance(after, list) and (line := _members(path, before, after)):
        yield line
    else:
        old, new = (None if value is _MISSING else as_text(value) for value in (before, after))
        yield Line(path, old, new)


def _members(path: str, before: list[Any], after: list[Any]) -> Line | None:
    """The members that a list lost and got. None if only their order changed."""
    old, now = Counter(map(as_text, before)), Counter(map(as_text, after))
    gone, new = list((old - now).elements()), list((now - old).elements())
    if not gone and not new:
        return None
    named = gone[:MAX_MEMBERS], new[:MAX_MEMBERS]
    more = len(gone) + len(new) - sum(map(len, named))
    return Line(path, gone=named[0], new=named[1], kept=len(before) - len(gone), more=more)


def as_text(value: Any) -> str:
    """A value as it is shown: text as it is, unless it is empty or has blanks at its ends, and other values as JSON."""
    if isinstance(value, str) and value and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False)
