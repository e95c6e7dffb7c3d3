"""What the pages of an event and of a delivery say about the change: who, when, what object, and what changed."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.urls import NoReverseMatch, reverse

from webhooks import permissions, registry
from webhooks.admin.diff import LONG, MAX_LINES, Line, diff
from webhooks.admin.display import EMPTY, action_word, changed_fields, when
from webhooks.admin.lists import events_url
from webhooks.models import Action, Event
from webhooks.operations.counts import EACH_CAP, capped
from webhooks.operations.wording import number
from webhooks.payloads import SendableEvent


def change_context(event: Event, user: Any, sent: SendableEvent, sees_payload: bool) -> dict[str, Any]:
    """``sent`` is the event with the data of one serializer."""
    lines, is_known = diff_lines(sent) if sees_payload else ([], False)
    return {
        "happened": when(event.timestamp),
        "username": event.username or EMPTY,
        "action_word": action_word(event.action),
        "http": _http(event) if sees_payload else "",
        "object_url": object_url(event, user),
        "request_events": _events_of_request(event, user),
        "request_url": events_url(request_id=event.request_id) if event.request_id else "",
        "fields": changed_fields(event),
        "lines": [{"line": line, "is_long": _is_long(line)} for line in lines[:MAX_LINES]],
        "more_lines": max(0, len(lines) - MAX_LINES),
        "is_change_known": is_known,
        "is_fold": event.action != Action.UPDATED,
    }


def diff_lines(sent: SendableEvent) -> tuple[list[Line], bool]:
    """The lines of the difference, and whether it is known: not without snapshots."""
    if not sent.snapshots:
        return [], False
    snapshots = json.loads(sent.snapshots)
    before, after = snapshots.get("prechange"), snapshots.get("postchange")
    if sent.action == Action.UPDATED and (before is None or after is None):
        return [], False
    return diff(before, after), True


def _is_long(line: Line) -> bool:
    return any(len(value or "") > LONG for value in (line.before, line.after))


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
