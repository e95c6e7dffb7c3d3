"""The kinds of runs: one class each, and the list of all.

The admin, the REST API, the commands and the choices of ``Run.kind`` come from this list. A new kind is a class here,
or in a module below, with a place in ``RUN_KINDS`` and a command that names it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from webhooks.delivery.runs.kinds import (
    EVENTS,
    NEEDED_SINCE,
    SINCE_FILTERS,
    Applied,
    Key,
    Look,
    Portion,
    Position,
    RunKind,
    TimeLeft,
)
from webhooks.ground.db import to_db_time
from webhooks.models import Delivery, Event, Run, State, delivery
from webhooks.models.delivery import DeliveryQuerySet, Handover
from webhooks.models.event import LOOP_PROTECTION, EventQuerySet
from webhooks.models.filters import EACH, SUPERSEDED
from webhooks.models.queue import ENDED_STATES
from webhooks.operations.backfills import Backfill, RecoverSkipped
from webhooks.operations.replays import Replay
from webhooks.operations.retries import DeliveryKind


class Retry(DeliveryKind):
    """Send failed and discarded deliveries again, in their lanes. Pending ones get their next attempt now."""

    name = "retry"
    label = _("retry")
    past = "Retried"
    meaning = "Sends failed deliveries again, and makes the next attempt of pending ones due now."
    consequence = _("They are sent again, in the order of their lanes, with the data they had.")
    summary = _("retry of deliveries")
    question = ngettext_lazy(
        "Retry %(rows)s delivery of %(webhooks)s?", "Retry %(rows)s deliveries of %(webhooks)s?", "count"
    )
    short_question = ngettext_lazy("Retry %(rows)s delivery?", "Retry %(rows)s deliveries?", "count")
    action_label = _("Retry the selected deliveries")
    done = ngettext_lazy(
        "%(number)s delivery will be sent again.", "%(number)s deliveries will be sent again.", "count"
    )
    why_left = _("only failed, discarded or pending deliveries can be retried, and none of a deleted webhook")
    meaning_of_one = "Send a failed or discarded delivery again, or a pending one now, before its next attempt is due."
    refusal = _(
        "Delivery %(id)s is %(state)s. You can only retry a failed or discarded delivery, or one between attempts, "
        "of a webhook that is not deleted."
    )
    button = _("Retry")

    filters = (*DeliveryKind.filters, SUPERSEDED)
    states = (State.FAILED, State.DISCARDED, State.PENDING)
    queued = (State.FAILED, State.PENDING)
    takes_pending = True
    operation = "retry"
    permissions = ("rq_webhooks.retry_delivery",)

    choose = staticmethod(DeliveryQuerySet.retriable)
    change = staticmethod(DeliveryQuerySet.retry)
    change_locked = staticmethod(delivery.retry)

    def button_in(self, state: str) -> str:
        return gettext("Retry now") if state == State.PENDING else super().button_in(state)


class Resend(DeliveryKind):
    """Send finished deliveries again, including succeeded ones, in their lanes."""

    name = "resend"
    label = _("resend")
    past = "Resent"
    meaning = "Sends finished deliveries again, those that succeeded too, under the same ids."
    consequence = _(
        "They are sent again, in the order of their lanes, with the data they had. Receivers get succeeded ones twice, "
        "with the same webhook-id."
    )
    summary = _("resend of deliveries")
    question = ngettext_lazy(
        "Resend %(rows)s delivery of %(webhooks)s?", "Resend %(rows)s deliveries of %(webhooks)s?", "count"
    )
    short_question = ngettext_lazy("Resend %(rows)s delivery?", "Resend %(rows)s deliveries?", "count")
    action_label = _("Resend the selected deliveries")
    done = Retry.done
    why_left = _("only finished deliveries can be resent, and none of a deleted webhook")
    meaning_of_one = (
        "Send a finished delivery again, one that succeeded too: under its ``webhook-id``, in the order of its lane. "
        "The request has the header ``X-Webhook-Redelivery: true``."
    )
    refusal = _(
        "Delivery %(id)s is %(state)s. You can only resend a finished delivery, of a webhook that is not deleted."
    )
    button = _("Resend")
    gives_way_to = Retry.name

    filters = (*DeliveryKind.filters, SUPERSEDED)
    states = ENDED_STATES
    operation = "resend"
    permissions = ("rq_webhooks.resend_delivery",)

    choose = staticmethod(DeliveryQuerySet.resendable)
    change = staticmethod(DeliveryQuerySet.resend)
    change_locked = staticmethod(delivery.resend)


class Discard(DeliveryKind):
    """End deliveries without sending them, unless they are being sent."""

    name = "discard"
    label = _("discard")
    past = "Discarded"
    meaning = "Ends deliveries without sending them."
    consequence = _(
        "Their receivers do not get these changes. A discarded delivery can be retried until it is deleted."
    )
    summary = _("discard of deliveries")
    question = ngettext_lazy(
        "Discard %(rows)s delivery of %(webhooks)s?", "Discard %(rows)s deliveries of %(webhooks)s?", "count"
    )
    short_question = ngettext_lazy("Discard %(rows)s delivery?", "Discard %(rows)s deliveries?", "count")
    action_label = _("Discard the selected deliveries")
    done = ngettext_lazy("%(number)s delivery discarded.", "%(number)s deliveries discarded.", "count")
    why_left = _("finished deliveries, and deliveries that a worker is sending, cannot be discarded")
    meaning_of_one = "End a delivery without sending it."
    refusal = _("Delivery %(id)s is %(state)s. You can only discard a waiting, pending or failed delivery.")
    button = _("Discard")
    button_question = _("Discard this delivery?")
    button_detail = _("“%(webhook)s” does not get this change. The next change of the object is sent.")

    states = queued = (State.WAITING, State.PENDING, State.FAILED)
    decided_at = "queued__requested_at"
    is_sent = False
    is_dangerous = True
    operation = "discard"
    permissions = ("rq_webhooks.discard_delivery",)

    choose = staticmethod(DeliveryQuerySet.discardable)

    def rows(self, run: Run, user: Any = None, with_superseded: bool = False) -> DeliveryQuerySet:
        """With a filter by state, not those that came into the state behind a delivery that the run has discarded."""
        found = super().rows(run, user, with_superseded)
        if State.WAITING in run.filters.get("state", self.states):
            return found
        return found.exclude(
            queued__state=State.PENDING, queued__waited=True, queued__attempts=0, queued__due_at__gte=run.created
        )

    @staticmethod
    def change(chosen: DeliveryQuerySet, requested_by: str) -> int:
        return chosen.discard()

    @staticmethod
    def change_locked(using: str, ids: Sequence[uuid.UUID], *others: Any) -> int:
        return Delivery.objects.filter(pk__in=ids).discard()


class ReplayFailed(Replay):
    """The events of a recovery. It leaves out the ones of a stopped chain: their replay would begin it again."""

    are_failed = True

    def replayable(self, run: Run) -> EventQuerySet:
        return super().replayable(run).failed().exclude(error__startswith=LOOP_PROTECTION)


RETRY, RESEND, DISCARD = Retry(), Resend(), Discard()


class Recover(RunKind):
    """Send everything of a webhook that failed: retry deliveries, and replay events that failed before they had any."""

    name = "recover"
    label = _("recover")
    past = "Recovered"
    meaning = (
        "Sends everything of a webhook again, from a time on, that failed: its deliveries, and events that failed "
        "before they had deliveries."
    )
    consequence = _(
        "Sends what this webhook should have sent and did not: failed deliveries again, and events that failed before "
        "they had a delivery. What the receiver accepted is not sent again, and what a user discarded is not sent."
    )
    summary = _("recovery of deliveries and events")
    link = _("Recover since…")

    listed = "delivery"
    nouns = ("delivery", "event")
    filters = (*SINCE_FILTERS, EACH, SUPERSEDED)
    needed = NEEDED_SINCE
    takes_pending = True
    permissions = ("rq_webhooks.retry_delivery", "rq_webhooks.replay_event")

    def __init__(self) -> None:
        self._events = ReplayFailed()

    def _part(self, webhook: int) -> RunKind:
        return self._events if webhook == EVENTS else RETRY

    def is_risky(self, webhook: int) -> bool:
        return self._part(webhook).is_risky(webhook)

    def late_key(self, run: Run) -> int | None:
        return self._events.late_key(run)

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return RETRY.count(run, after, until) | self._events.count(run, after, until)

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return self._part(webhook).keys(run, webhook, after, until, limit)

    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        """First at the deliveries, then at the events."""
        if isinstance(after, int):
            return self._events.look(run, after, size, limit, time_left)
        look = RETRY.look(run, after, size, limit, time_left)
        if look.until == run.last_event:
            look.until = run.counted_event
        return look

    def rows_of_index(self, run: Run) -> list[QuerySet[Any]] | None:
        deliveries = RETRY.rows_of_index(run)
        if deliveries is None:
            return None
        since = to_db_time(datetime.fromisoformat(run.filters["created_after"]))
        return [*deliveries, Event.objects.failed().filter(timestamp__gte=since)]

    def apply(self, run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft) -> Applied:
        return self._part(portions[0].webhook).apply(run, portions, handover, time_left)


RUN_KINDS: dict[str, RunKind] = {
    kind.name: kind for kind in (RETRY, RESEND, DISCARD, Replay(), Recover(), Backfill(), RecoverSkipped())
}

OF_DELIVERIES = {name: kind for name, kind in RUN_KINDS.items() if isinstance(kind, DeliveryKind)}
OF_WEBHOOK = [name for name, kind in RUN_KINDS.items() if kind.is_of_webhook]
