"""The acts of runs that read objects or conditions: replay, recover and backfill. Importing this adds them to
``delivery``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from django.db.models import Exists, OuterRef, Q

from webhooks import payloads, permissions
from webhooks.capture import subscriptions
from webhooks.capture.matching import EventContext, FilterError, wants
from webhooks.delivery.dispatch import insert_for
from webhooks.delivery.run_acts import EVENTS, Act, Applied, DeliveryAct, Key, Portion, RunRefused, acts, user_of
from webhooks.models import Delivery, Event, Run, RunKind, Webhook
from webhooks.models.event import LOOP_PROTECTION, EventQuerySet
from webhooks.models.selection import Filters, select_events
from webhooks.operations import retries
from webhooks.registry import label_of
from webhooks.text import last_line

# Events that a step replays: each locks its object until the end of the step.
REPLAYED_AT_ONCE = 20

READ = 500  # events that one query reads to judge their conditions


class ReplayAct(Act):
    """Capture the objects of events again, as new events with the data of today."""

    is_sent = False

    def most(self, webhook: int) -> int:
        return REPLAYED_AT_ONCE

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return {EVENTS: _within(_replayable(run), after, until).count()}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return _keys(_within(_replayable(run), after, until), limit)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        ids = [key.id for portion in portions for key in portion.keys]
        found = Event.objects.replayable().filter(pk__in=ids).order_by("pk")
        results = [retries.replay_one(event, run.filters.get("webhook")) for event in found]
        problems = [one for one in results if one.problem and not one.is_unmatched]
        last = f"{problems[-1].original.name}: {problems[-1].problem}" if problems else ""
        return Applied(sum(one.event is not None for one in results), len(problems), last)


def _replayable(run: Run) -> EventQuerySet:
    found: EventQuerySet = _chosen(run, run.filters).replayable()
    if run.kind == RunKind.RECOVER:  # a replay of a chain that was stopped would begin it again
        found = found.failed().exclude(error__startswith=LOOP_PROTECTION)
    if run.is_restricted:
        found = permissions.allowed(user_of(run), "replay", found)  # type: ignore[assignment]
    return found


def _chosen(run: Run, filters: Filters) -> Any:
    """Few of them: see ``_within``."""
    events = select_events(filters, finds_times=False)
    return permissions.visible_events(user_of(run), events) if run.is_restricted else events


def _within(events: EventQuerySet, after: int, until: int) -> EventQuerySet:
    return events.filter(pk__gt=after, pk__lte=until)


def _keys(events: EventQuerySet, limit: int) -> list[Key]:
    return [Key(pk, pk) for pk in events.order_by("pk").values_list("pk", flat=True)[:limit]]


class RecoverAct(Act):
    """Send everything of a webhook that did not succeed: retry deliveries, and replay events that failed before they
    had any."""

    is_sent = True

    def __init__(self) -> None:
        self._deliveries, self._events = DeliveryAct(RunKind.RETRY), ReplayAct()

    def most(self, webhook: int) -> int:
        return self._act(webhook).most(webhook)

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return self._deliveries.count(run, after, until) | self._events.count(run, after, until)

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return self._act(webhook).keys(run, webhook, after, until, limit)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        applied = Applied()
        for portion in portions:
            applied.add(self._act(portion.webhook).apply(run, [portion], token))
        return applied

    def _act(self, webhook: int) -> Act:
        return self._events if webhook == EVENTS else self._deliveries


class BackfillAct(Act):
    """Send a webhook the stored events that it wants and did not get."""

    is_sent = True

    def most(self, webhook: int) -> int:
        return READ

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return {run.filters["webhook"]: _within(_candidates(run, _webhook(run)), after, until).count()}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return _keys(_within(_candidates(run, _webhook(run)), after, until), limit)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        applied, receiver, wanted = Applied(), _webhook(run), []
        filters = _filters(receiver)
        [portion] = portions
        for event in _read(portion.keys):
            try:
                if _wants(receiver, filters, event):
                    wanted.append(event)
            except FilterError as error:
                applied.failed += 1
                applied.problem = f"event {event.pk} ({event.object_repr or event}): {last_line(str(error))}"
        _choose_serializer(receiver, wanted)
        applied.done, applied.claimed = insert_for(receiver, wanted, portion.free, token)
        return applied

    def look(self, run: Run, after: int, until: int, limit: int) -> tuple[dict[int, int], list[Key]]:
        """Unlike ``count``, judges the conditions, and so reads all data of these events."""
        webhook, count, first = _webhook(run), 0, list[Key]()
        filters, candidates = _filters(webhook), _candidates(run, webhook)
        while keys := _keys(_within(candidates, after, until), READ):
            wanted = [Key(event.pk, event.pk) for event in _read(keys) if _surely_wants(webhook, filters, event)]
            count += len(wanted)
            first += wanted[: limit - len(first)]
            after = keys[-1].event_id
        return {EVENTS: count}, first


def _read(keys: Sequence[Key]) -> EventQuerySet:
    return Event.objects.filter(pk__in=[key.id for key in keys]).order_by("pk")


def _candidates(run: Run, webhook: Webhook) -> EventQuerySet:
    """The events with a model and an action that the webhook wants, without a delivery to it."""
    models = [label_of(one) for one in webhook.object_types.all()]
    is_wanted = Q(object_type__in=models, action__in=webhook.actions) | Q(action__in=webhook.custom_events)
    has_delivery = Exists(Delivery.without_state.filter(event=OuterRef("pk"), webhook=webhook.pk))
    filters = {name: value for name, value in run.filters.items() if name != "webhook"}
    events = _chosen(run, filters).filter(is_wanted, ~has_delivery, error="")
    return events.exclude(username__in=webhook.excluded_usernames)  # type: ignore[no-any-return]


def _webhook(run: Run) -> Webhook:
    """Raises RunRefused if it was deleted."""
    webhook = Webhook.objects.filter(pk=run.filters["webhook"]).first()
    if webhook is None:
        raise RunRefused("the webhook was deleted")
    return webhook


def _filters(webhook: Webhook) -> subscriptions.Filters | None:
    return subscriptions.current(Event.objects.db).filters.get(webhook.pk)


def _wants(webhook: Webhook, filters: subscriptions.Filters | None, event: Event) -> bool:
    """Whether the conditions of the webhook match the event as it was. Raises FilterError if that is not known."""
    if event.action not in webhook.actions:
        return True  # a custom event, which has no conditions
    if not payloads.has_serializer(event, webhook.serializer):
        raise FilterError(f"it has no data of the serializer {webhook.serializer or '(default)'}")
    if filters is None:
        return True
    try:
        return wants(filters, EventContext.of_stored(event, webhook.serializer))
    except Exception as error:
        raise FilterError(str(error)) from error


def _surely_wants(webhook: Webhook, filters: subscriptions.Filters | None, event: Event) -> bool:
    """As ``_wants``; False if that is not known. The run counts such an event as failed."""
    try:
        return _wants(webhook, filters, event)
    except FilterError:
        return False


def _choose_serializer(webhook: Webhook, events: Sequence[Event]) -> None:
    """Note in the events that the webhook gets the output of its serializer."""
    for event in events if webhook.serializer else ():
        outputs = json.loads(event.serializers)
        chosen = outputs[webhook.serializer]
        if webhook.pk not in chosen["webhooks"]:
            chosen["webhooks"].append(webhook.pk)
            event.serializers = json.dumps(outputs)
            event.save(update_fields=["serializers"])


acts |= {RunKind.REPLAY: ReplayAct(), RunKind.RECOVER: RecoverAct(), RunKind.BACKFILL: BackfillAct()}
