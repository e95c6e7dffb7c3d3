"""Backfill: send a webhook the stored events that it wants and did not get. Workers do it, in runs.

Importing this adds the act to ``delivery.runs.acts``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence

from django.db.models import Exists, OuterRef, Q

from webhooks import payloads
from webhooks.capture.matching import EventContext, wants
from webhooks.capture.subscriptions import Filters
from webhooks.delivery.dispatch import insert_for
from webhooks.delivery.runs.acts import EVENTS, Applied, EventAct, Key, Portion, RunRefused, acts, events_of, keys_of
from webhooks.errors import reraise_job_timeout
from webhooks.models import Action, Delivery, Event, Run, RunKind, Webhook
from webhooks.models.event import EventQuerySet
from webhooks.registry import label_of
from webhooks.text import last_line

READ = 500  # events that one query reads to judge their conditions


class BackfillAct(EventAct):
    """Send a webhook the stored events that it wants and did not get."""

    is_sent = True

    def key(self, run: Run) -> int:
        return run.filters["webhook"]  # type: ignore[no-any-return]

    def events(self, run: Run) -> EventQuerySet:
        """The events with a model and an action that the webhook wants, without a delivery to it."""
        webhook = _webhook(run)
        models = [label_of(one) for one in webhook.object_types.all()]
        is_wanted = Q(object_type__in=models, action__in=webhook.actions) | Q(action__in=webhook.custom_events)
        has_delivery = Exists(Delivery.objects.filter(event=OuterRef("pk"), webhook=webhook.pk))
        filters = {name: value for name, value in run.filters.items() if name != "webhook"}
        found = events_of(run, filters).filter(is_wanted, ~has_delivery, error="")
        return found.exclude(username__in=webhook.excluded_usernames)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        applied, receiver, wanted = Applied(), _webhook(run), []
        [portion] = portions
        for event, problem in _wanted(receiver, portion.keys):
            if problem:
                applied.failed += 1
                applied.problem = f"event {event.pk} ({event.object_repr or event}): {last_line(problem)}"
            else:
                wanted.append(event)
        _choose_serializer(receiver, wanted)
        applied.done, applied.claimed = insert_for(receiver, wanted, portion.free, token)
        return applied

    def look(self, run: Run, after: int, until: int, limit: int) -> tuple[dict[int, int], list[Key]]:
        """Unlike ``count``, judges the conditions, and so reads all data of these events."""
        webhook, candidates, count, first = _webhook(run), self.events(run), 0, list[Key]()
        while keys := keys_of(candidates, after, until, READ):
            wanted = [Key(event.pk, event.pk) for event, problem in _wanted(webhook, keys) if not problem]
            count += len(wanted)
            first += wanted[: limit - len(first)]
            after = keys[-1].event_id
        return {EVENTS: count}, first


def _webhook(run: Run) -> Webhook:
    """Raises RunRefused if it was deleted."""
    webhook = Webhook.objects.filter(pk=run.filters["webhook"]).first()
    if webhook is None:
        raise RunRefused("the webhook was deleted")
    return webhook


def _wanted(webhook: Webhook, keys: Sequence[Key]) -> Iterator[tuple[Event, str]]:
    """The events that match the conditions of the webhook, as they were. With a reason if that cannot be judged."""
    filters = Filters.of(webhook)
    for event in Event.objects.filter(pk__in=[key.id for key in keys]).order_by("pk"):
        is_wanted, problem = True, ""
        if event.action in Action and not payloads.has_serializer(event, webhook.serializer):
            problem = f"it has no data of the serializer {webhook.serializer or '(default)'}"
        else:
            try:
                is_wanted = wants(filters, EventContext.of_stored(event, webhook.serializer))
            except Exception as error:
                reraise_job_timeout(error)
                problem = str(error) or type(error).__name__
        if is_wanted:
            yield event, problem


def _choose_serializer(webhook: Webhook, events: Sequence[Event]) -> None:
    """Note in the events that the webhook gets the output of its serializer. Custom events have none."""
    for event in [one for one in events if webhook.serializer and one.action in Action]:
        outputs = json.loads(event.serializers)
        chosen = outputs[webhook.serializer]
        if webhook.pk not in chosen["webhooks"]:
            chosen["webhooks"].append(webhook.pk)
            event.serializers = json.dumps(outputs)
            event.save(update_fields=["serializers"])


acts[RunKind.BACKFILL] = BackfillAct()
