"""How many of the last events would have gone to a webhook with these demands, before it is saved."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db.models import Q
from django.http import HttpRequest

from webhooks import conditions, payloads, permissions, registry
from webhooks.admin.display import count_of
from webhooks.admin.fields import ConditionsField, LinesField, NamesField
from webhooks.admin.search import as_key
from webhooks.capture.context import Actor
from webhooks.capture.matching import Occasion, Undecided, wants
from webhooks.capture.subscriptions import Demand
from webhooks.conditions import ConditionError
from webhooks.models import Action, Event
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.registry import label_of

# So many are tried, the newest of the chosen models, and for so many seconds.
MOST = 200
SECONDS = 2.0


def in_words(request: HttpRequest) -> str:
    """What the form of a webhook, as it was posted, would have come to."""
    labels = _labels(request.POST.getlist("object_types"))
    actions = [action for name, action in ACTION_FIELDS.items() if request.POST.get(name)]
    custom_events = [name for name in request.POST.getlist("custom_events") if name in registry.custom_events()]
    if not (labels and actions) and not custom_events:
        return "Choose at least one model and one action first, or one of the custom events."
    try:
        demand = _demand(request.POST)
    except ConditionError as error:
        return f"The conditions are refused: {error}."
    # Only of what may be seen: the answers would tell of the others, one condition after the other.
    chosen = Q(object_type__in=labels, action__in=actions) | Q(action__in=custom_events)
    visible = permissions.visible_events(request.user, Event.objects.filter(chosen))
    return _told(demand, list(visible.filter(error="").order_by("-pk")[:MOST]))


def _labels(chosen: Sequence[str]) -> list[str]:
    return [label_of(one) for one in ContentType.objects.filter(pk__in=map(as_key, chosen))]


def _demand(posted: Any) -> Demand:
    text = posted.get("conditions", "").strip()
    try:
        wanted = json.loads(text) if text else None
        conditions.parse(wanted)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, ConditionError) else ConditionError("", "they are no JSON") from error
    return Demand(
        0,
        ConditionsField().prepare_value(wanted),
        tuple(NamesField().to_python(posted.get("changed_fields", ""))),
        only_changes=bool(posted.get("only_changes")),
        serializer=posted.get("serializer", "").strip(),
        excluded_usernames=tuple(LinesField().to_python(posted.get("excluded_usernames", ""))),
    )


def _told(demand: Demand, events: Sequence[Event]) -> str:
    counts: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    end = time.monotonic() + SECONDS
    for event in events:
        answer, why = _answer(demand, event)
        counts[answer] += 1
        about = f"{event.object_type} {event.object_repr or event.object_id}".strip()
        reasons.setdefault(answer, f"{about}: {why}")
        if time.monotonic() > end:
            break
    if not counts:
        return "There are no events of these kinds to try it on."
    told = (
        f"Of the last {count_of(counts.total(), 'event')}, {counts['matched']:,} would have been sent and "
        f"{counts['not matched']:,} not."
    )
    if counts["no answer"]:
        why = reasons["no answer"]
        told += f" For {counts['no answer']:,} there is no answer, and they would not have been sent; {why}."
    if counts["not known"]:
        told += f" Of {counts['not known']:,} it cannot be told; {reasons['not known']}."
    return told


def _answer(demand: Demand, event: Event) -> tuple[str, str]:
    if event.username in demand.excluded_usernames:
        return "not matched", ""
    is_change = event.action in Action
    if is_change and not payloads.has_serializer(event, demand.serializer):
        return "not known", "no webhook had chosen this serializer then"
    told = payloads.as_serialized_by(event, demand.serializer)
    occasion = Occasion(event.action, told.data, told.snapshots, told.changed, Actor(event.username))
    if event.action == Action.UPDATED and not event.changed and demand.needs_before:
        return "not known", "what was there before was not recorded, for no webhook needed it"
    try:
        if wants(demand, occasion):
            return "matched", ""
    except Undecided as error:
        return "no answer", str(error)
    problem = occasion.verdicts[demand.conditions].problem if demand.conditions in occasion.verdicts else ""
    return ("no answer", problem) if problem else ("not matched", "")
