"""The preview of the filters in the form of a webhook: how many of the last events they would have selected."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import payloads, permissions
from webhooks.admin.webhook.form import WebhookForm
from webhooks.capture.matching import EventContext, wants
from webhooks.capture.subscriptions import Filters
from webhooks.models import Action, Event
from webhooks.operations.wording import number
from webhooks.registry import label_of

# The preview looks at this many events, for this many seconds.
MAX_EVENTS = 200
SECONDS = 2.0

FILTERS = ("object_types", "conditions", "changed_fields", "excluded_usernames")


def preview(form: WebhookForm, user: Any) -> str:
    """Try the filters of the form on the last events, and say the result in a sentence."""
    form.full_clean()
    chosen = form.cleaned_data
    labels = [label_of(one) for one in chosen.get("object_types") or []]
    actions, custom_events = form.instance.actions, chosen.get("custom_events") or []
    if refused := [name for name in FILTERS if name in form.data and name in form.errors]:
        return " ".join(f"{form.fields[name].label}: {' '.join(map(str, form.errors[name]))}" for name in refused)
    if not (labels and actions) and not custom_events:
        return _("Choose at least one model and one action first, or one of the custom events.")
    # The payload alone may need the previous state. Whether an event is wanted does not depend on that.
    filters = replace(Filters.of(form.instance), prechange=False)
    # Only visible events: conditions could be used to guess the data of others.
    wanted = Q(object_type__in=labels, action__in=actions) | Q(action__in=custom_events)
    visible = permissions.visible_events(user, Event.objects.filter(wanted, error=""))
    return _summary(filters, list(visible.order_by("-pk")[:MAX_EVENTS]))


def _summary(filters: Filters, events: Sequence[Event]) -> str:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    end = time.monotonic() + SECONDS
    for event in events:
        result, reason = _judge(filters, event)
        counts[result] += 1
        name = f"{event.object_type} {event.object_repr or event.object_id}".strip()
        examples.setdefault(result, f"{name}: {reason}")
        if time.monotonic() > end:
            break
    if not counts:
        return _("There are no stored events of these models and actions to try it on.")
    texts = [
        ngettext(
            "Tried on the last event: %(sent)s would have been sent, %(skipped)s would not.",
            "Tried on the last %(count)s events: %(sent)s would have been sent, %(skipped)s would not.",
            counts.total(),
        )
        % {
            "count": number(counts.total()),
            "sent": number(counts["matched"]),
            "skipped": number(counts["not matched"]),
        }
    ]
    if counts["failed"]:
        text = _("%(count)s could not be judged and would not have been sent; %(example)s.")
        texts.append(text % {"count": number(counts["failed"]), "example": examples["failed"]})
    if counts["unknown"]:
        text = _("%(count)s cannot be judged now; %(example)s.")
        texts.append(text % {"count": number(counts["unknown"]), "example": examples["unknown"]})
    return " ".join(texts)


def _judge(filters: Filters, event: Event) -> tuple[str, str]:
    """The result for one event, "matched", "not matched", "failed" or "unknown", and the reason of the last two."""
    if event.username in filters.excluded_usernames:
        return "not matched", ""
    if event.action in Action and not payloads.has_serializer(event, filters.serializer):
        return "unknown", _("no webhook used this serializer then")
    if event.action == Action.UPDATED and not event.changed and filters.needs_prechange:
        return "unknown", _("no webhook needed the previous state then, so it was not recorded")
    context = EventContext.of_stored(event, filters.serializer)
    try:
        if wants(filters, context):
            return "matched", ""
    except Exception as error:
        return "failed", str(error) or type(error).__name__
    judgement = context.judgements.get(filters.conditions)
    return ("failed", judgement.problem) if judgement and judgement.problem else ("not matched", "")
