"""The filters that each kind of run can have. A mistake is refused: it must mean neither all rows nor none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _

from webhooks import registry
from webhooks.error_kinds import ErrorKind
from webhooks.models import Action, Event, RunKind, State, Webhook
from webhooks.models.event import PING
from webhooks.models.queue import ENDED_STATES
from webhooks.models.selection import DELIVERY_FILTERS, EACH, EVENT_FILTERS, SINCE_FILTERS, SUPERSEDED, without_options
from webhooks.models.skip import Rule

# The filters that a run of a kind can have, and the ones that it needs.
FILTERS: dict[RunKind, Sequence[str]] = dict.fromkeys(RunKind, DELIVERY_FILTERS)
FILTERS |= dict.fromkeys((RunKind.RETRY, RunKind.RESEND), (*DELIVERY_FILTERS, SUPERSEDED))
FILTERS |= {
    RunKind.REPLAY: (*EVENT_FILTERS, EACH),
    RunKind.RECOVER: (*SINCE_FILTERS, EACH, SUPERSEDED),
    RunKind.BACKFILL: SINCE_FILTERS,
    RunKind.RECOVER_SKIPPED: (*SINCE_FILTERS, "rule"),
}
OF_WEBHOOK = (RunKind.RECOVER, RunKind.BACKFILL, RunKind.RECOVER_SKIPPED)
NEEDED: dict[RunKind, Sequence[str]] = dict.fromkeys(OF_WEBHOOK, ("webhook", "created_after"))

# The states of the deliveries that a run of a kind can take.
STATES: dict[RunKind, Sequence[State]] = {
    RunKind.RETRY: (State.FAILED, State.DISCARDED, State.PENDING),
    RunKind.RESEND: ENDED_STATES,
    RunKind.DISCARD: (State.WAITING, State.PENDING, State.FAILED),
}


class RefusedFilter(ValueError):
    """A filter that a run cannot have. ``filter`` is its name; empty without any filter."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.filter = name


def check(kind: RunKind, filters: Mapping[str, Any], takes_all: bool) -> None:
    """Raise RefusedFilter for a mistake: it must mean neither all rows nor none."""
    for name in filters:
        if name not in FILTERS[kind]:
            raise RefusedFilter(name, _("A run of %(kind)s has no filter %(name)s.") % {"kind": kind, "name": name})
    if not without_options(filters) and not takes_all:
        raise RefusedFilter("", _("Give at least one filter, or say that the run takes all rows."))
    if "object_id" in filters and "object_type" not in filters:
        raise RefusedFilter("object_id", _("Give object_type as well: ids of different models are the same."))
    for name, value in filters.items():
        if problem := _filter_problem(kind, name, value):
            raise RefusedFilter(name, problem)


def _filter_problem(kind: RunKind, name: str, value: Any) -> str:
    """Why no row can have this value; empty if one can. A user may be deleted since, or be the name of a script."""
    match name:
        case _ if value == "":
            return _("An empty text is no filter.")
        case "status" if not 100 <= value <= 999:
            return _("An HTTP status is a number from 100 to 999.")
        case "webhook":
            is_known = isinstance(value, int) and Webhook.objects.filter(pk=value).exists()
            return "" if is_known else _("There is no webhook %(id)s.") % {"id": value}
        case "object_type":
            # A model that is not registered any more may have stored events.
            is_registered = registry.registration_by_label(value) is not None
            is_known = is_registered or Event.objects.filter(object_type=value).exists()
            text = _("No registered model and no stored event has the label %(model)s.")
            return "" if is_known else text % {"model": value}
        case "action" | "error_kind" | "rule":
            choices = {"error_kind": [*ErrorKind], "rule": Rule.values}.get(
                name, [*Action.values, PING, *registry.custom_events()]
            )
            text = _("“{input}” is not one of these: {choices}.")
            return "" if value in choices else text.format(input=value, choices=", ".join(choices))
        case "state" if not {*value} & {*STATES[kind]}:
            text = _("A run of %(kind)s takes only these states: %(states)s.")
            return text % {"kind": kind, "states": ", ".join(STATES[kind])}
    return ""
