"""What the page of an event shows: what became of it, its deliveries, the webhooks that skipped it, and its payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Count
from django.utils.translation import gettext as _

from webhooks import payloads, permissions
from webhooks.insight.change import Change, read_change
from webhooks.insight.why.rows import near, skip_ids_around
from webhooks.insight.wording import skip_reason
from webhooks.models import Delivery, Event, Skip, State
from webhooks.permissions.redaction import Redaction

# The page of an event shows this many deliveries, and this many skips.
MAX_DELIVERIES = 100


@dataclass(frozen=True)
class EventPage:
    """An event as one user may see it."""

    event: Event
    change: Change
    is_dispatched: bool
    is_replayed: bool
    replayed_as: int | None
    """The event that replayed it, if the user may view it."""
    replay_of: int | None
    """The event that it replays, if the user may view it."""
    deliveries: list[tuple[Delivery, str]]
    """With the reason why the last attempt failed."""
    skips: list[tuple[Skip, str]]
    """The webhooks that did not want the change, and why."""
    payload: Payload | None
    """None if the user may not view it."""
    may_see_deliveries: bool
    may_see_skips: bool
    may_ask_why: bool
    may_replay: bool

    @property
    def outcomes(self) -> dict[str, int]:
        """The number of its deliveries by outcome."""
        found = [delivery.outcome for delivery, _ in self.deliveries]
        return {outcome: found.count(outcome) for outcome in found}


@dataclass(frozen=True)
class Payload:
    """The stored JSON texts of an event."""

    outputs: list[tuple[str, str]]
    """The output of each serializer, with its name. Without a name if there is only one."""
    snapshots: str
    request: str


def read_event_page(event: Event, user: Any) -> EventPage:
    same = {"object_type": event.object_type, "object_id": event.object_id}
    replayed = Event.objects.filter(**same, pk__gt=event.pk, replay_of=event.pk).first() if event.error else None
    sees_payload = permissions.may_view_payloads(user, event)

    def visible_id(pk: int | None) -> int | None:
        return pk if pk and permissions.visible_events(user, Event.objects.filter(pk=pk)).exists() else None

    return EventPage(
        event=event,
        change=read_change(event, user, event, sees_payload),
        is_dispatched=not hasattr(event, "undispatched"),
        is_replayed=replayed is not None,
        replayed_as=visible_id(replayed.pk if replayed else None),
        replay_of=visible_id(event.replay_of),
        deliveries=_deliveries(event, user),
        skips=_skips(event, user),
        payload=_payload(event) if sees_payload else None,
        may_see_deliveries=permissions.may_view_deliveries(user),
        may_see_skips=permissions.may_view_skips(user),
        may_ask_why=permissions.may_view_webhooks(user),
        may_replay=permissions.may(user, "replay", event) and Event.objects.replayable().filter(pk=event.pk).exists(),
    )


def count_outcomes(events: Sequence[Event], user: Any) -> dict[int, dict[str, int]]:
    """The number of deliveries of each event by outcome. One that is not sent yet has none."""
    deliveries = permissions.visible_deliveries(user, Delivery.objects.filter(event__in=events))
    outcomes: dict[int, dict[str, int]] = {event.pk: {} for event in events}
    for pk, outcome, count in deliveries.order_by().values_list("event", "outcome").annotate(count=Count("pk")):
        outcomes[pk][outcome] = count
    return outcomes


def outcomes_in_order(outcomes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The outcomes that there are, the ones that need an admin first."""
    order = (State.FAILED, "", State.SUCCEEDED, State.DISCARDED)
    return [(outcome, outcomes[outcome]) for outcome in order if outcomes.get(outcome)]


def _deliveries(event: Event, user: Any) -> list[tuple[Delivery, str]]:
    redacted = Redaction(user)
    rows = permissions.visible_deliveries(user, event.deliveries.for_list()).order_by("pk")[:MAX_DELIVERIES]
    return [(one, redacted.error(one.webhook_id, one.reason, one.error_kind)) for one in rows]


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


def _payload(event: Event) -> Payload:
    names = payloads.webhooks_by_serializer(event) if event.serializers else []
    outputs = [(name or _("default"), payloads.as_serialized_by(event, name).data) for name in names]
    return Payload(outputs or [("", event.data)], event.snapshots, event.request)
