"""The change on the pages of an event and of a delivery: who made it, when, and the values before and after."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.contrib import admin
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _

from webhooks import permissions, registry
from webhooks.admin.lists import list_url
from webhooks.insight.counts import EACH_CAP, capped
from webhooks.insight.wording import number
from webhooks.models import Action, Event
from webhooks.payloads import SendableEvent
from webhooks.templatetags.webhooks_display import when
from webhooks.text import json_equal

# A page shows this many lines.
MAX_LINES = 100

# Of a list, a line names this many members that it lost, and this many that it got.
MAX_MEMBERS = 50

# A longer value is folded.
LONG = 120

_MISSING: Any = object()


def change_context(event: Event, user: Any, sent: SendableEvent, sees_payload: bool) -> dict[str, Any]:
    """``sent`` is the event with the data of one serializer. A delivery may show the change without the event: then it
    does not show who made it."""
    sees_event = permissions.may(user, "view", event)
    lines, is_known = diff_lines(sent) if sees_payload else ([], False)
    return {
        "happened": when(event.timestamp),
        "http": _http(event) if sees_payload else "",
        "object_url": object_url(event, user),
        "request_events": _events_of_request(event, user),
        "sees_event": sees_event,
        "request_url": list_url("event", request_id=event.request_id) if event.request_id and sees_event else "",
        "fields": _fields(sent.changed) if sees_event or sees_payload else "",
        "lines": lines[:MAX_LINES],
        "more_lines": max(0, len(lines) - MAX_LINES),
        "is_change_known": is_known,
        "is_fold": event.action != Action.UPDATED,
    }


def _fields(changed: str) -> str:
    """The names of the changed fields, which are stored as JSON text."""
    return ", ".join(json.loads(changed)) or _("nothing") if changed else ""


def diff_lines(sent: SendableEvent) -> tuple[list[Line], bool]:
    """The lines of the difference, and whether it is known: not without snapshots."""
    if not sent.snapshots:
        return [], False
    snapshots = json.loads(sent.snapshots)
    before, after = snapshots.get("prechange"), snapshots.get("postchange")
    if sent.action == Action.UPDATED and (before is None or after is None):
        return [], False
    return diff(before, after), True


def _http(event: Event) -> str:
    """The HTTP request that made the change: "PATCH /api/dcim/sites/1/"."""
    request = json.loads(event.request) if event.request else None
    if not isinstance(request, dict):
        return ""
    return " ".join(str(request[name]) for name in ("method", "path") if request.get(name))


def _events_of_request(event: Event, user: Any) -> str:
    """How many events the request made, if the user may view events."""
    if not event.request_id or not permissions.may_view_events(user):
        return ""
    rows = permissions.visible_events(user, Event.objects.filter(request_id=event.request_id)).order_by()
    return number(capped(rows, EACH_CAP).count(), EACH_CAP)


def object_url(event: Event, user: Any) -> str:
    """The object's own page in the admin. Empty if it is deleted, has no page, or the user may not view it."""
    registration = registry.registration_by_label(event.object_type)
    if registration is None or event.action == Action.DELETED or not admin.site.is_registered(registration.model):
        return ""
    meta = registration.model._meta
    if not any(permissions.has_perm(user, f"{meta.app_label}.{what}_{meta.model_name}") for what in ("view", "change")):
        return ""
    try:
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[event.object_id])
    except NoReverseMatch:
        return ""


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
