"""Silence: enabled webhooks that send nothing, although nothing fails.

If a model or a custom event is not registered any more, nothing is captured: there is neither a delivery nor a skip. If
a condition is wrong, each change is skipped. A webhook that wants few changes skips many in a row, too. So the share of
the changes that it sent before says whether the skips since are a surprise.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, CharField, F, OuterRef, Q, QuerySet, Subquery, UUIDField, Value, When
from django.db.models.functions import Concat

from webhooks.ground import registry
from webhooks.ground.db.session import index_plans
from webhooks.insight import history
from webhooks.insight.counts import Capped
from webhooks.insight.wording import clock_time
from webhooks.models import Delivery, Skip, Webhook
from webhooks.models.event import PING
from webhooks.models.skip import Rule

# An edit comes before a skip if it is later by no more than this: clocks differ a little.
CLOCKS = timedelta(seconds=10)


# A run of skips is a surprise if it had at most this probability, and at least so many skips.
UNLIKELY, FEWEST = 0.02, 3

# The share of changes that a webhook sends is measured over so many of the last ones that it sent.
WINDOW = 20

# The share of a webhook that has sent, if nothing of that is stored any more.
UNKNOWN_SHARE = 0.1

# At most so many webhooks are looked at for skips, of these the ones with the newest ones.
MAX_LOOKED_AT = 50


@dataclass(frozen=True)
class Skipping:
    """A webhook that used to send, and has skipped each change since by one rule."""

    rule: str
    since: datetime
    count: int
    """Up to ``EACH_CAP + 1``."""
    edit: str = ""
    """The last change of the webhook before, and whose it was. Empty without the admin's history."""


@dataclass(frozen=True)
class Silence:
    """Why an enabled webhook sends nothing of some changes."""

    models: tuple[str, ...] = ()
    """The labels of its models that are not registered."""
    events: tuple[str, ...] = ()
    """The names of its custom events that are not registered."""
    skipping: Skipping | None = None


def read_silences(webhooks: Collection[Any]) -> dict[int, Silence]:
    """The silences of these webhooks by id, of the enabled ones that have any."""
    silences = read_unregistered(webhooks)
    judged = [webhook for webhook in webhooks if webhook.enabled and webhook.has_filters and webhook.last_success_at]
    for pk, skipping in _skipping(judged).items():
        silences[pk] = replace(silences.get(pk, Silence()), skipping=skipping)
    return silences


def read_unregistered(webhooks: Collection[Any]) -> dict[int, Silence]:
    """What these webhooks send and is not registered, by id, of the enabled ones that have any."""
    enabled = [webhook for webhook in webhooks if webhook.enabled]
    if not enabled:
        return {}
    models = _unregistered_models([webhook.pk for webhook in enabled])
    silences = {
        webhook.pk: Silence(
            tuple(models.get(webhook.pk, ())),
            tuple(registry.unregistered_events(webhook.custom_events, webhook.identifier)),
        )
        for webhook in enabled
    }
    return {pk: silence for pk, silence in silences.items() if silence != Silence()}


def _unregistered_models(webhooks: Collection[int]) -> dict[int, list[str]]:
    """The labels of the models of these webhooks that are not registered, by webhook."""
    chosen: Any = Webhook.object_types.through.objects.using(Webhook.objects.db).filter(webhook__in=webhooks)
    chosen = chosen.annotate(label=Concat("contenttype__app_label", Value("."), "contenttype__model"))
    # All webhooks together may have thousands of models, and mostly none is missing.
    missing = set(chosen.order_by().values_list("label", flat=True).distinct()) - registry.registered_models().keys()
    unregistered = defaultdict[int, list[str]](list)
    if missing:
        for pk, label in chosen.filter(label__in=missing).order_by("label").values_list("webhook_id", "label"):
            unregistered[pk].append(label)
    return dict(unregistered)


# Skips


def _skipping(webhooks: Sequence[Webhook]) -> dict[int, Skipping]:
    """The ones of these webhooks that skip everything, by id. Mostly one query, and five for any number of them."""
    using = Webhook.objects.db
    with index_plans(using):
        looked_at = _skipped_last([webhook.pk for webhook in webhooks])
        sent = _last_sent(looked_at) if looked_at else {}
        rows = list(_since_last_sent(looked_at, sent)) if looked_at else []
    filters = Rule.filters()
    silences = {
        row.pk: Skipping(row.rule, row.since, row.skipped)
        for row in rows
        if row.rule == row.other_rule
        and row.rule in filters
        and is_surprising(row.skipped, min(WINDOW, sent[row.pk].sent), row.before)
    }
    edits = _edits({pk: silence.since for pk, silence in silences.items()})
    return {pk: replace(silence, edit=edits.get(pk, "")) for pk, silence in silences.items()}


def is_surprising(skipped: int, sent: int, skipped_before: int) -> bool:
    """Whether a webhook that sent ``sent`` changes and skipped ``skipped_before`` in the same time should not have
    skipped the next ``skipped`` ones. Pure."""
    share = sent / (sent + skipped_before + 1) if sent else UNKNOWN_SHARE
    return skipped >= FEWEST and (1 - share) ** skipped <= UNLIKELY


def _skipped_last(webhooks: Sequence[int]) -> list[int]:
    """The webhooks with a skip that is newer than their last delivery: all of them if they skip everything."""
    if not webhooks:
        return []
    skips, deliveries = (
        rows.filter(webhook=OuterRef("pk")).order_by("-pk") for rows in (Skip.objects, Delivery.objects)
    )
    newest = Webhook.objects.filter(pk__in=webhooks).annotate(
        skip=Subquery(skips.values("pk")[:1]), delivery=Subquery(deliveries.values("pk")[:1])
    )
    later = newest.filter(Q(delivery=None, skip__isnull=False) | Q(skip__gt=F("delivery"))).order_by("-skip")
    return list(later.values_list("pk", flat=True)[:MAX_LOOKED_AT])


def _last_sent(webhooks: Sequence[int]) -> dict[int, Any]:
    """The last change that each of these webhooks wanted: ``last``, the ``first`` of the last ``WINDOW`` ones, and how
    many these are. Tests and replays say nothing about filters."""
    wanted: Any = Delivery.objects.filter(webhook=OuterRef("pk"), event__replay_of=None).exclude(event__action=PING)
    newest = wanted.order_by("-pk").values("pk")
    rows = Webhook.objects.filter(pk__in=webhooks).annotate(
        last=Subquery(newest[:1]),
        first=Subquery(newest[WINDOW - 1 : WINDOW]),
        oldest=Subquery(wanted.order_by("pk").values("pk")[:1]),
        sent=Capped(wanted.order_by("-pk")),
    )
    return {row.pk: row for row in rows.only("pk").order_by()}


def _since_last_sent(webhooks: Sequence[int], sent: Mapping[int, Any]) -> QuerySet[Any]:
    """The skips of each of these webhooks since the last change that it wanted: ``skipped``, ``since``, and two rules.
    These are the first and the last one of the alphabet, the same if there is only one. ``before`` are the skips in the
    same time as the last ``WINDOW`` changes."""

    def of_each(values: Mapping[int, uuid.UUID]) -> Case:
        whens = [When(pk=pk, then=Value(value, UUIDField())) for pk, value in values.items()]
        return Case(*whens, output_field=UUIDField())

    lowest = uuid.UUID(int=0)
    last = {pk: sent[pk].last or lowest for pk in webhooks}
    first = {pk: sent[pk].first or sent[pk].oldest or lowest for pk in webhooks}
    own = Skip.objects.filter(webhook=OuterRef("pk"))
    since = own.filter(pk__gt=OuterRef("last")).order_by("pk")
    before = own.filter(pk__gt=OuterRef("first"), pk__lte=OuterRef("last")).order_by("pk")
    rows: Any = Webhook.objects.filter(pk__in=webhooks).annotate(last=of_each(last), first=of_each(first))
    annotated: QuerySet[Any] = rows.annotate(
        skipped=Capped(since),
        before=Capped(before),
        since=Subquery(since.values("timestamp")[:1]),
        rule=Capped(since, "MIN(rule)", "rule", CharField()),
        other_rule=Capped(since, "MAX(rule)", "rule", CharField()),
    )
    return annotated.only("pk").order_by()


def _edits(begun: Mapping[int, datetime]) -> dict[int, str]:
    """The last edit of each webhook before it began to skip, such as "02:11 jstretch: Changed Conditions."."""
    edits = dict[int, str]()
    for entry in history.newest_of_webhooks(set(begun)):
        pk = int(entry.object_id)
        # Tests and pauses have a text, and edits a list of fields.
        if pk not in edits and entry.action_time <= begun[pk] + CLOCKS and entry.change_message.startswith("["):
            edits[pk] = f"{clock_time(entry.action_time)} {entry.user}: {entry.get_change_message()}"
    return edits
