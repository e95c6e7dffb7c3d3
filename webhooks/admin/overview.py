"""What the rows say about how things stand, for the status page: a fixed number of bounded queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from webhooks import permissions
from webhooks.admin import counting, counts
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.delivery import OPEN_STATES, State

# More webhooks than this are left to the list of webhooks.
MOST_WEBHOOKS = 200


@dataclass(frozen=True)
class Standing:
    """How one webhook is doing. Counts go up to one more than ``counting.EACH``; ``probe_at`` is set while paused."""

    pk: int
    name: str
    enabled: bool = True
    pending: int = 0
    waiting: int = 0
    sending: int = 0
    failed: int = 0
    retrying: int = 0
    due_since: datetime | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_failure: str = ""
    failures_in_a_row: int = 0
    probe_at: datetime | None = None
    disabled_reason: str = ""
    unreadable: Sequence[str] = ()

    @property
    def open(self) -> int:
        """How many are not sent yet."""
        return self.pending + self.waiting + self.sending

    @property
    def is_paused(self) -> bool:
        return self.enabled and self.probe_at is not None


@dataclass(frozen=True)
class Situation:
    """``counts`` go up to one more than ``counting.ALL``; ``undispatched_since`` is the time of the oldest such
    event; ``deleted`` is how many webhooks are gone whose deliveries are not yet; ``hidden`` names what the user may
    not view, and what is therefore left out: "webhooks", "events"."""

    counts: dict[State, int] = field(default_factory=dict)
    undispatched: int = 0
    undispatched_since: datetime | None = None
    failed_events: int = 0
    deleted: int = 0
    webhooks: tuple[Standing, ...] = ()
    has_more_webhooks: bool = False
    hidden: tuple[str, ...] = ()

    @property
    def open(self) -> int:
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)


def read(user: Any) -> Situation:
    """What the user may see of it."""
    deliveries = permissions.visible_deliveries(user)
    webhooks = list(
        counts.with_tallies(permissions.visible_webhooks(user).order_by("name"), deliveries)[: MOST_WEBHOOKS + 1]
    )
    failed = permissions.visible_deliveries(user, Delivery.objects.failed())
    by_state = {state: deliveries.filter(state=state) for state in State} | {State.FAILED: failed}
    undispatched = permissions.visible_events(user, Event.objects.undispatched())
    return Situation(
        counts={state: _capped(rows) for state, rows in by_state.items()},
        undispatched=_capped(undispatched),
        undispatched_since=undispatched.order_by("pk").values_list("timestamp", flat=True).first(),
        failed_events=_capped(permissions.visible_events(user, Event.objects.failed())),
        deleted=_capped(permissions.visible_webhooks(user, Webhook.with_deleted.being_deleted())),
        webhooks=tuple(map(standing_of, webhooks[:MOST_WEBHOOKS])),
        has_more_webhooks=len(webhooks) > MOST_WEBHOOKS,
        hidden=_hidden(user),
    )


def _hidden(user: Any) -> tuple[str, ...]:
    seen = {"webhooks": permissions.may_view_webhooks(user), "events": permissions.may_view_events(user)}
    return tuple(what for what, is_seen in seen.items() if not is_seen)


def _capped(rows: QuerySet[Any]) -> int:
    return counting.capped(rows, counting.ALL).count()


def standing_of(webhook: Webhook) -> Standing:
    """How a webhook is doing that was read with its tallies."""
    return Standing(**{each.name: getattr(webhook, each.name) for each in fields(Standing)})
