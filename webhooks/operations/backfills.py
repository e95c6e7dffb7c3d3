"""Backfill: send a webhook the stored events that it wants and did not get. Workers do it, in runs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext_lazy as _

from webhooks import payloads
from webhooks.capture.matching import EventContext, wants
from webhooks.capture.subscriptions import Filters
from webhooks.delivery.dispatch import insert_for
from webhooks.delivery.runs.kinds import (
    EVENTS,
    NEEDED_SINCE,
    SINCE_FILTERS,
    Applied,
    ExaminedKind,
    Key,
    Look,
    Portion,
    TimeLeft,
    events_of,
    webhook_of,
)
from webhooks.errors import reraise_job_timeout
from webhooks.models import Action, Delivery, Event, Run, Webhook
from webhooks.models.event import EventQuerySet
from webhooks.registry import label_of
from webhooks.text import last_line

READ = 50  # events that one query reads to judge their conditions, with their data


@dataclass
class Judged(Applied):
    """The events that the webhook wants. ``failed`` could not be judged, the last one for this ``reason``."""

    wanted: list[Event] = field(default_factory=list)
    reason: str = ""


class Backfill(ExaminedKind):
    """Send a webhook the stored events that it wants and did not get."""

    name = "backfill"
    label = _("backfill")
    past = "Backfilled"
    meaning = (
        "Sends a webhook the stored events, from a time on, that match its models, actions and conditions of today, "
        "and that it did not get. It may be a new webhook."
    )
    consequence = _(
        "Sends this webhook the stored events that match its current settings and that it never got, for example "
        "events from before it was created."
    )
    summary = _("backfill of events")
    summary_of = _("backfill of events for %(webhooks)s")
    link = _("Backfill…")

    listed = ""
    nouns = ("event",)
    filters = SINCE_FILTERS
    needed = NEEDED_SINCE
    permissions = ("rq_webhooks.resend_delivery",)
    is_sent = True
    examined = READ

    def key(self, run: Run) -> int:
        return run.filters["webhook"]  # type: ignore[no-any-return]

    def rows(self, run: Run) -> EventQuerySet:
        """The events with a model and an action that the webhook wants, without a delivery to it."""
        webhook = webhook_of(run)
        models = [label_of(one) for one in webhook.object_types.all()]
        is_wanted = Q(object_type__in=models, action__in=webhook.actions) | Q(action__in=webhook.custom_events)
        has_delivery = Exists(Delivery.objects.filter(event=OuterRef("pk"), webhook=webhook.pk))
        filters = {name: value for name, value in run.filters.items() if name != "webhook"}
        found = events_of(run, filters).filter(is_wanted, ~has_delivery, error="")
        return found.exclude(username__in=webhook.excluded_usernames)

    def prepare(self, run: Run, portion: Portion, time_left: TimeLeft) -> Portion:
        """Judge the events before the transaction: that may take long, and others wait for the locks of a step."""
        judged = self._judge(webhook_of(run), self.rows(run), portion.keys, time_left)
        return portion.first(len(portion.keys) - judged.left)._replace(prepared=judged)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None, time_left: TimeLeft) -> Applied:
        [portion], receiver = portions, webhook_of(run)
        judged: Judged = portion.prepared
        _choose_serializer(receiver, judged.wanted)
        done, claimed = insert_for(receiver, judged.wanted, portion.free, token)
        return Applied(done, judged.failed, judged.problem, claimed)

    def examine(self, run: Run, rows: Any, keys: Sequence[Key], found: Look, time_left: TimeLeft) -> int:
        """Unlike ``count``, judges the conditions, and so reads all data of these events."""
        judged = self._judge(webhook_of(run), rows, keys, time_left)
        found.counts[EVENTS] += len(judged.wanted)
        found.first += [self.key_of(event.pk) for event in judged.wanted]
        found.unjudged += judged.failed
        found.problem = judged.reason or found.problem
        return judged.left

    def _judge(self, webhook: Webhook, candidates: EventQuerySet, keys: Sequence[Key], time_left: TimeLeft) -> Judged:
        """Judge the conditions of the webhook for these events, as they were."""
        judged, filters = Judged(), Filters.of(webhook)
        for event in self.in_time(_read(candidates, keys), keys, time_left, judged):
            is_wanted, problem = _judge_one(webhook, filters, event)
            if problem:
                judged.failed += 1
                judged.reason = last_line(problem)
                judged.problem = f"event {event.pk} ({event.object_repr or event}): {judged.reason}"
            elif is_wanted:
                judged.wanted.append(event)
        return judged


def _read(candidates: EventQuerySet, keys: Sequence[Key]) -> Iterator[Event]:
    """These events in their order, as far as they are still candidates."""
    for start in range(0, len(keys), READ):
        ids = [key.id for key in keys[start : start + READ]]
        yield from candidates.filter(pk__in=ids).order_by("pk")


def _judge_one(webhook: Webhook, filters: Filters, event: Event) -> tuple[bool, str]:
    """Whether the webhook wants the event, and why that cannot be judged."""
    if event.action in Action and not payloads.has_serializer(event, webhook.serializer):
        return False, f"it has no data of the serializer {webhook.serializer or '(default)'}"
    try:
        return wants(filters, EventContext.of_stored(event, webhook.serializer)), ""
    except Exception as error:
        reraise_job_timeout(error)
        return False, str(error) or type(error).__name__


def _choose_serializer(webhook: Webhook, events: Sequence[Event]) -> None:
    """Note in the events that the webhook gets the output of its serializer. Custom events have none."""
    for event in [one for one in events if webhook.serializer and one.action in Action]:
        outputs = json.loads(event.serializers)
        chosen = outputs[webhook.serializer]
        if webhook.pk not in chosen["webhooks"]:
            chosen["webhooks"].append(webhook.pk)
            event.serializers = json.dumps(outputs)
            event.save(update_fields=["serializers"])
