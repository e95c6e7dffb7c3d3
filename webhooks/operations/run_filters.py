"""The filters that each kind of run can have, and filters in words.

A mistake is refused: it must mean neither all rows nor none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from webhooks.delivery.runs.kinds import RunKind
from webhooks.ground import registry
from webhooks.ground.db import to_utc
from webhooks.insight.wording import exact_time
from webhooks.models import Delivery, Event, permissions
from webhooks.models.filters import FILTERS, Filter, incomplete, without_options


class RefusedFilter(ValueError):
    """A filter that a run cannot have. ``filter`` is its name; empty without any filter."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.filter = name


def needed_permission(kind: RunKind, name: str) -> str:
    """The permission that a filter needs, because the number of the rows reveals their values; "" without one."""
    match FILTERS[name].needs:
        case "nothing":
            return ""
        case "rows":
            return f"rq_webhooks.view_{kind.listed}"
    return "rq_webhooks.view_event"


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
    for name, problem in incomplete(filters).items():
        raise RefusedFilter(name, problem)
    for name, value in filters.items():
        if problem := _filter_problem(kind, FILTERS[name], value, user):
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


def _filter_problem(kind: RunKind, one: Filter, value: Any, user: Any) -> str:
    """Why no row can have this value; empty if one can. A user may be deleted since, or be the name of a script."""
    if value == "":
        return _("An empty text is no filter.")
    match one.type:
        case "number":
            least, most = one.bounds
            text = _("Must be a number from %(least)s to %(most)s.")
            return "" if isinstance(value, int) and least <= value <= most else text % {"least": least, "most": most}
        case "webhook":
            return "" if _is_known_webhook(user, value) else _("There is no webhook %(id)s.") % {"id": value}
        case "model":
            # A model that is not registered any more may have stored events.
            is_registered = registry.registration_by_label(value) is not None
            stored = Event.objects.filter(object_type=value)
            is_known = is_registered or permissions.of_viewable_objects(user, stored).exists()
            text = _("No registered model and no stored event has the label %(model)s.")
            return "" if is_known else text % {"model": value}
        case "choice" | "text" if choices := [choice for choice, _label in one.choices()]:
            text = _("“{input}” is not one of these: {choices}.")
            return "" if value in choices else text.format(input=value, choices=", ".join(choices))
        case "choices" if not {*value} & {*kind.states}:
            text = _("A run of %(kind)s takes only these states: %(states)s.")
            return text % {"kind": kind.name, "states": ", ".join(kind.states)}
    return ""


def filters_in_words(filters: Mapping[str, Any]) -> list[str]:
    """Such as "state: failed, discarded" or "since 2026-11-26 02:11:40 UTC". The title names the webhook."""
    return [in_words(one, filters[name]) for name, one in FILTERS.items() if name in filters and name != "webhook"]


def in_words(one: Filter, value: Any) -> str:
    """The filter with this value, which is plain JSON."""
    labels = dict(one.choices())
    match one.type:
        case "moment":
            value = exact_time(to_utc(datetime.fromisoformat(value)))
        case "choices":
            value = ", ".join(str(labels.get(chosen, chosen)) for chosen in value)
        case _:
            value = labels.get(value, value)
    return str(one.words) % {"label": one.label, "value": value}
