"""The filters that each kind of run can have. A mistake is refused: it must mean neither all rows nor none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from webhooks import permissions, registry
from webhooks.delivery.runs.kinds import RunKind
from webhooks.error_kinds import ErrorKind
from webhooks.models import Action, Delivery, Event
from webhooks.models.event import PING
from webhooks.models.selection import EVENT_COLUMNS, without_options
from webhooks.models.skip import Rule


class RefusedFilter(ValueError):
    """A filter that a run cannot have. ``filter`` is its name; empty without any filter."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.filter = name


def needed_permission(kind: RunKind, name: str) -> str:
    """The permission that a filter needs, because the number of the rows says what they have; "" without one."""
    if name in permissions.ACTOR_FILTERS:
        return "rq_webhooks.view_event"
    if name not in {*EVENT_COLUMNS, "error_kind", "status", "failed"}:
        return ""
    return f"rq_webhooks.view_{kind.listed}"


def check(kind: RunKind, filters: Mapping[str, Any], takes_all: bool, user: Any = None) -> None:
    """Raise RefusedFilter for a mistake: it must mean neither all rows nor none. A ``user`` learns nothing about rows
    and webhooks that they may not view."""
    user = user or permissions.Operator("webhooks")
    for name in filters:
        if name not in kind.filters:
            text = _("A run of %(kind)s has no filter %(name)s.")
            raise RefusedFilter(name, text % {"kind": kind.name, "name": name})
        if (needed := needed_permission(kind, name)) and not permissions.has_perm(user, needed):
            raise RefusedFilter(name, needs_permission(name, needed))
    if not without_options(filters) and not takes_all:
        raise RefusedFilter("", _("Give at least one filter, or say that the run takes all rows."))
    if "object_id" in filters and "object_type" not in filters:
        raise RefusedFilter("object_id", _("Give object_type as well: ids of different models are the same."))
    for name, value in filters.items():
        if problem := _filter_problem(kind, name, value, user):
            raise RefusedFilter(name, problem)


def needs_permission(name: str, permission: str) -> str:
    """Why a user may not use a filter."""
    return _("The filter %(name)s requires the permission %(permission)s.") % {"name": name, "permission": permission}


def _is_known_webhook(user: Any, pk: Any) -> bool:
    """Whether the user may know that there is this webhook: from the webhook itself, or from its deliveries."""
    if not isinstance(pk, int):
        return False
    if permissions.visible_webhooks(user).filter(pk=pk).exists():
        return True
    of_webhook = Delivery.objects.filter(webhook=pk, webhook__deleted_at=None)
    return bool(permissions.visible_deliveries(user, of_webhook).exists())


def _filter_problem(kind: RunKind, name: str, value: Any, user: Any) -> str:
    """Why no row can have this value; empty if one can. A user may be deleted since, or be the name of a script."""
    match name:
        case _ if value == "":
            return _("An empty text is no filter.")
        case "status" if not 100 <= value <= 999:
            return _("An HTTP status is a number from 100 to 999.")
        case "webhook":
            return "" if _is_known_webhook(user, value) else _("There is no webhook %(id)s.") % {"id": value}
        case "object_type":
            # A model that is not registered any more may have stored events.
            is_registered = registry.registration_by_label(value) is not None
            stored = Event.objects.filter(object_type=value)
            is_known = is_registered or permissions.of_viewable_objects(user, stored).exists()
            text = _("No registered model and no stored event has the label %(model)s.")
            return "" if is_known else text % {"model": value}
        case "action" | "error_kind" | "rule":
            choices = {"error_kind": [*ErrorKind], "rule": Rule.values}.get(
                name, [*Action.values, PING, *registry.custom_events()]
            )
            text = _("“{input}” is not one of these: {choices}.")
            return "" if value in choices else text.format(input=value, choices=", ".join(choices))
        case "state" if not {*value} & {*kind.states}:
            text = _("A run of %(kind)s takes only these states: %(states)s.")
            return text % {"kind": kind.name, "states": ", ".join(kind.states)}
    return ""
