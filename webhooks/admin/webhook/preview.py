"""The preview of the filters in the form of a webhook: how many of the last events they would have selected."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence

from django.contrib.contenttypes.models import ContentType
from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks import conditions, payloads, permissions, registry
from webhooks.admin.lists import as_key
from webhooks.admin.webhook.form import FieldNamesField, ListField
from webhooks.capture.matching import EventContext, FilterError, wants
from webhooks.capture.subscriptions import Filters
from webhooks.conditions import ConditionError
from webhooks.models import Action, Event
from webhooks.models.webhook import ACTION_FIELDS
from webhooks.operations.wording import number
from webhooks.registry import label_of

# The preview looks at this many events, for this many seconds.
MAX_EVENTS = 200
SECONDS = 2.0


def condition_preview(request: HttpRequest) -> str:
    """Try the filters of the posted form on the last events, and say the result in a sentence."""
    posted = request.POST
    content_types = ContentType.objects.filter(pk__in=map(as_key, posted.getlist("object_types")))
    labels = [label_of(one) for one in content_types]
    actions = [action for name, action in ACTION_FIELDS.items() if posted.get(name)]
    custom_events = [name for name in posted.getlist("custom_events") if name in registry.custom_events()]
    if not (labels and actions) and not custom_events:
        return _("Choose at least one model and one action first, or one of the custom events.")
    entered = posted.get("conditions", "").strip()
    try:
        wanted = json.loads(entered) if entered else None
        conditions.parse(wanted)
    except ConditionError as error:
        return _("The conditions are not valid: %(error)s.") % {"error": error}
    except (ValueError, RecursionError):
        return _("The conditions are not valid: they are not JSON.")
    filters = Filters(
        0,
        entered if wanted else "",
        tuple(FieldNamesField().to_python(posted.get("changed_fields", ""))),
        only_changes=bool(posted.get("only_changes")),
        serializer=posted.get("serializer", "").strip(),
        excluded_usernames=tuple(ListField().to_python(posted.get("excluded_usernames", ""))),
    )
    # Only visible events: conditions could be used to guess the data of others.
    chosen = Q(object_type__in=labels, action__in=actions) | Q(action__in=custom_events)
    visible = permissions.visible_events(request.user, Event.objects.filter(chosen))
    return _summary(filters, list(visible.filter(error="").order_by("-pk")[:MAX_EVENTS]))


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
    except FilterError as error:
        return "failed", str(error)
    judgement = context.judgements.get(filters.conditions)
    return ("failed", judgement.problem) if judgement and judgement.problem else ("not matched", "")
