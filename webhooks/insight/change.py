"""The change of an event: who made it, when, and the values before and after."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.utils.translation import gettext as _

from webhooks import permissions
from webhooks.insight.counts import EACH_CAP, capped
from webhooks.models import Action, Event
from webhooks.payloads import SendableEvent
from webhooks.permissions.redaction import WHO_SEES_PAYLOADS
from webhooks.text import json_equal

# A page shows this many lines.
MAX_LINES = 100

# Of a list, a line names this many members that it lost, and this many that it got.
MAX_MEMBERS = 50

# A longer value is folded.
LONG = 120

_MISSING: Any = object()


@dataclass(frozen=True)
class Change:
    """The change as one user may see it. A delivery may show it without the event: then not who made it."""

    event: Event
    sees_event: bool
    sees_payload: bool
    http: str
    """The HTTP request that made the change: "PATCH /api/dcim/sites/1/"."""
    request_events: int
    """How many events the request made. 0 if the user may not view events."""
    fields: str
    """The names of the changed fields."""
    lines: list[Line]
    """The first values that changed."""
    more_lines: int
    is_known: bool
    """Whether the values before are known: not without snapshots."""
    who_sees_payloads: ClassVar = WHO_SEES_PAYLOADS

    @property
    def is_fold(self) -> bool:
        """Whether the lines are a whole object."""
        return self.event.action != Action.UPDATED


def read_change(event: Event, user: Any, sent: SendableEvent, sees_payload: bool) -> Change:
    """``sent`` is the event with the data of one serializer."""
    sees_event = permissions.may(user, "view", event)
    lines, is_known = diff_lines(sent) if sees_payload else ([], False)
    return Change(
        event=event,
        sees_event=sees_event,
        sees_payload=sees_payload,
        http=_http(event) if sees_payload else "",
        request_events=_events_of_request(event, user),
        fields=_fields(sent.changed) if sees_event or sees_payload else "",
        lines=lines[:MAX_LINES],
        more_lines=max(0, len(lines) - MAX_LINES),
        is_known=is_known,
    )


def _fields(changed: str) -> str:
    """``changed`` has the names as JSON text."""
    return ", ".join(json.loads(changed)) or _("nothing") if changed else ""


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
