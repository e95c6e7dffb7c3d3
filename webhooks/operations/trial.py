"""Try a webhook, saved or not, on a real object or a custom event: judge it, compose the request, send it as a test.
Or try its filters on stored events.

The request comes from the code that composes deliveries. Nothing is stored of it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.capture.context import actor_columns, current_actor
from webhooks.capture.matching import Budget, EventContext, match, wants
from webhooks.capture.serialize import context_columns, serialize_or_error
from webhooks.capture.subscriptions import Filters, Subscriptions
from webhooks.ground import payloads, registry
from webhooks.ground.conf import conf
from webhooks.ground.outcome import Outcome
from webhooks.ground.payloads import Bodies
from webhooks.ground.payloads.snapshots import PrechangeState
from webhooks.ground.payloads.templates import Renderer
from webhooks.ground.registry import label_of
from webhooks.ground.registry.registration import Registration
from webhooks.ground.security import url_policy
from webhooks.ground.text import last_line
from webhooks.ground.text.json_text import dumps
from webhooks.insight import history
from webhooks.insight.why import not_chosen
from webhooks.insight.wording import number, skip_reason
from webhooks.models import Action, Event, Skip, Webhook, permissions
from webhooks.models.event import PING
from webhooks.models.ids import new_id
from webhooks.models.skip import Refusal, Rule
from webhooks.operations.webhooks import new_ping
from webhooks.workers import compose
from webhooks.workers.network.attempt import Refused, Request
from webhooks.workers.network.auth import exchange
from webhooks.workers.network.transport import utc_now

# The longest time (seconds) that a user waits for the answer to a test.
MAX_SECONDS = 10

# The filters are tried on this many stored events, for this many seconds.
MAX_EVENTS, MAX_FILTER_SECONDS = 200, 2.0
READ = 10  # events that one query reads, with their data


class NoSample(LookupError):
    """There is no such object, the user may not view it, or the data is not JSON. The message names the reason."""


@dataclass(frozen=True)
class Sample:
    """What to try: an action on an object, or a custom event. Without either, a test message."""

    registration: Registration | None = None
    pk: Any = None
    action: str = PING
    """For a custom event its name."""
    data: str = "null"
    """The data of a custom event, as JSON text."""
    like: Event | None = None
    """A stored event with the object of a custom event."""


@dataclass(frozen=True)
class Trial:
    """What a webhook would send for a sample."""

    event: Event
    """Not saved: its id, the ``sequence`` of the payload, is 0."""
    is_wanted: bool
    """Whether the webhook would send such a change."""
    verdict: str
    """Why it would, or why not."""
    request: Request | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    """Why there is no request, by the field of the webhook; "" for a problem of the object."""


def try_out(webhook: Webhook, models_chosen: Collection[Any], sample: Sample, user: Any) -> Trial:
    """The request that the webhook, as its attributes are, would send for the sample.

    ``models_chosen`` are the content types of the webhook: an unsaved one cannot have them. Raises NoSample.
    """
    event = _event(webhook, sample, user)
    labels = {label_of(one) for one in models_chosen}
    if event.error:
        return Trial(event, False, _("The data of the object cannot be written."), problems={"": event.error})
    is_wanted, verdict = _judge(webhook, labels, event, permissions.may_view_payloads(user))
    bodies = Bodies(event)
    with Renderer() as renderer:
        try:
            request = compose.compose(webhook, bodies, str(new_id()), renderer, utc_now, is_test=True)
        except Refused as refused:
            problems = compose.problems_by_field(webhook, bodies, renderer) or {"": str(refused)}
            return Trial(event, is_wanted, verdict, problems=problems)
    return Trial(event, is_wanted, verdict, request)


def send(trial: Trial, webhook: Webhook, user: Any) -> Outcome:
    """Send the request of a trial and wait for the answer, at most ``MAX_SECONDS``. The history names the user, the
    method and the beginning of the URL: those of the webhook may be others, or the webhook may never be saved."""
    if trial.request is None:
        raise ValueError("There is no request to send.")
    request = replace(trial.request, timeout=min(trial.request.timeout, MAX_SECONDS))
    try:
        return exchange(request)
    finally:
        entry = f"{_entry(trial.event)} {request.method} {url_policy.redacted(request.url)}"
        if webhook.pk:
            history.record(user, [webhook], history.CHANGE, entry)
        else:
            history.record_summary(user, Webhook, f"{webhook} (not saved)".strip(), history.CHANGE, entry)


def _entry(event: Event) -> str:
    """What was sent. Readers of the history may not view the object, so it does not name it."""
    if event.action == PING:
        return "Sent a test:"
    # A custom event may have no object.
    return " ".join(filter(None, ["Sent", event.object_type, event.action, "as a test:"]))


# The event


def _event(webhook: Webhook, sample: Sample, user: Any) -> Event:
    """The event of the sample as capture would make it. If its data cannot be written, it has the error."""
    unsaved: dict[str, Any] = {"pk": 0, "timestamp": utc_now()}
    common = unsaved | actor_columns(current_actor())
    if sample.action in registry.custom_events():
        return _custom_event(sample, common)
    if sample.registration is None:
        return new_ping(webhook, **unsaved)
    registration, instance = sample.registration, _instance(sample.registration, sample.pk, user)
    event = Event(
        action=sample.action,
        object_type=registration.label,
        object_id=registration.key_of(instance),
        object_repr=registration.name_of(instance),
        **common,
    )
    prechange = _earlier_state(webhook, event, user) if sample.action == Action.UPDATED else None
    payload = serialize_or_error(registration, instance, webhook.serializer, prechange)
    if isinstance(payload, str):
        event.error = payload
        return event
    columns = payload.columns(sample.action == Action.DELETED)
    for name, text in (columns | context_columns(vars(event) | columns, Event.objects.db)).items():
        setattr(event, name, text)
    return event


def _custom_event(sample: Sample, common: Mapping[str, Any]) -> Event:
    try:
        data = dumps(json.loads(sample.data))
    except (ValueError, RecursionError) as error:
        raise NoSample(_("The data of the event is not JSON: %(error)s.") % {"error": error}) from None
    like = sample.like or Event(object_id=sample.action, object_repr=registry.custom_events()[sample.action])
    about = {name: getattr(like, name) for name in ("object_type", "object_id", "object_repr")}
    return Event(action=sample.action, data=data, **about, **common)


def _instance(registration: Registration, pk: Any, user: Any) -> models.Model:
    instance = registration.find(registration.rows(Event.objects.db), pk)
    visible = permissions.viewable_objects(user, registration.model)
    if instance is None or not visible.filter(pk=instance.pk).exists():
        text = _("There is no %(model)s with the key %(key)s, or you may not view it.")
        raise NoSample(text % {"model": registration.model._meta.verbose_name, "key": pk})
    return instance


def _earlier_state(webhook: Webhook, event: Event, user: Any) -> PrechangeState | None:
    """The state before the last recorded update of the object, if the webhook looks at it. None if it is not known."""
    if not Filters.of(webhook).needs_prechange:
        return None
    of_object = Event.objects.filter(object_type=event.object_type, object_id=event.object_id, action=Action.UPDATED)
    last = permissions.visible_events(user, of_object).order_by("-pk").first()
    if last is None or not permissions.may_view_payloads(user, last):
        return None
    return payloads.stored_prechange(last, webhook.serializer)


# The verdict


def _judge(webhook: Webhook, labels: Collection[str], event: Event, shows_actual: bool) -> tuple[bool, str]:
    """Whether the webhook would send the event, and why."""
    if event.action == PING:
        return True, _("A test message is sent whatever the filters are.")
    if refused := not_chosen(webhook, event.action, event.object_type, labels):
        return False, refused
    if event.username in webhook.excluded_usernames:
        return False, _describe(Refusal(Rule.IGNORED_USER), event, shows_actual)
    filters = Filters.of(webhook)
    alone = Subscriptions(filters={filters.webhook_id: filters}, disabled={})
    found = match([filters.webhook_id], alone, EventContext.of_stored(event, ""), Budget())
    if found.errored:
        return False, last_line(found.error)
    if not found.matched:
        return False, _describe(found.refusals[filters.webhook_id], event, shows_actual)
    return True, _why_wanted(webhook, filters, event)


def _why_wanted(webhook: Webhook, filters: Filters, event: Event) -> str:
    if event.action == Action.UPDATED and not event.changed and (filters.changed_fields or filters.only_changes):
        return _(
            "It depends on what the update changes. No earlier update of this object is stored, so the trial cannot "
            "judge that."
        )
    if not webhook.enabled:
        return _("The webhook would send this change, if it were enabled.")
    if not conf.enabled:
        return _("The webhook would send this change, but webhooks are turned off in the settings.")
    return _("The webhook sends such a change.")


def _describe(refusal: Refusal, event: Event, shows_actual: bool) -> str:
    skip = Skip(action=event.action, rule=refusal.rule, detail=refusal.detail, username=event.username)
    return skip_reason(skip, shows_actual)


# The filters on stored events


def try_filters(webhook: Webhook, models_chosen: Collection[Any], user: Any) -> str:
    """Say how many of the last events of its models and actions the webhook, as its attributes are, would have sent.
    Or name the missing choice or permission."""
    for permission in ("rq_webhooks.view_event", "rq_webhooks.read_payload_event"):
        if not permissions.has_perm(user, permission):
            text = _("To try the filters on stored events, you need the permission %(permission)s.")
            return text % {"permission": permission}
    if not (models_chosen and webhook.actions) and not webhook.custom_events:
        return _("Choose at least one model and one action first, or one of the custom events.")
    labels = [label_of(one) for one in models_chosen]
    wanted = Q(object_type__in=labels, action__in=webhook.actions) | Q(action__in=webhook.custom_events)
    # Only visible payloads: conditions could be used to guess the data of others.
    visible = permissions.visible_events(user, Event.objects.filter(wanted, error=""))
    visible = permissions.allowed(user, "read_payload", visible)
    # The payload alone may need the previous state. Whether an event is wanted does not depend on that.
    filters = replace(Filters.of(webhook), prechange=False)
    return _in_words(filters, _read(list(visible.order_by("-pk").values_list("pk", flat=True)[:MAX_EVENTS])))


def _read(ids: Sequence[int]) -> Iterator[Event]:
    """These events, the newest first. They may have a megabyte each, so few are read at a time."""
    for start in range(0, len(ids), READ):
        yield from Event.objects.filter(pk__in=ids[start : start + READ]).order_by("-pk")


def _in_words(filters: Filters, events: Iterable[Event]) -> str:
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    end = time.monotonic() + MAX_FILTER_SECONDS
    for event in events:
        result, reason = _judge_stored(filters, event)
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


def _judge_stored(filters: Filters, event: Event) -> tuple[str, str]:
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
