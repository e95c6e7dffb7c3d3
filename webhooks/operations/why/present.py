"""The object as it is now: its differences from the last Event, and the webhooks that want it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction

from webhooks import payloads
from webhooks.capture import serialize, subscriptions
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext, match
from webhooks.capture.serialize import Payload
from webhooks.capture.subscriptions import Subscriptions
from webhooks.errors import reraise_job_timeout
from webhooks.models import Action, Event, Skip, Webhook
from webhooks.payloads import snapshots
from webhooks.payloads.snapshots import PrechangeState
from webhooks.registry.registration import Registration
from webhooks.text import clean, json_equal, last_line


@dataclass(frozen=True)
class Present:
    """An object now. ``error`` says why its data cannot be written."""

    exists: bool = False
    last_saved: datetime | None = None
    """By its ``auto_now`` field, if it has one."""
    differs: tuple[str, ...] = ()
    """Its own fields that differ from the last Event. Values of related objects do not count."""
    differs_in_relations: bool = False
    """Whether these are all many-to-many relations: then an object that they show may have a new name."""
    error: str = ""
    refusals: Mapping[int, Skip] = field(default_factory=dict)
    """Why webhooks would skip an update of it."""
    filter_errors: Mapping[int, str] = field(default_factory=dict)
    """Why the conditions of webhooks fail for it."""


def look(registration: Registration, pk: Any, last: Event | None, webhooks: Sequence[Webhook]) -> Present:
    """The object now, compared with its last Event, and judged by the filters of these webhooks."""
    instance = _read(registration, pk)
    if instance is None:
        return Present()
    payload_of = cache(partial(write, registration, instance))
    chosen = subscriptions.read(Event.objects.db)
    if not chosen.keeps_skips:  # then it would give no reasons
        chosen = replace(chosen, disabled=Subscriptions())
    found = Present(exists=True, last_saved=_last_saved(instance))
    refusals, filter_errors, error = dict[int, Skip](), dict[int, str](), ""
    for serializer, ids in chosen.by_serializer([webhook.pk for webhook in webhooks]).items():
        payload = payload_of(serializer)
        if isinstance(payload, str):
            error = payload
            continue
        context = EventContext(Action.UPDATED, payload.data, payload.columns()["snapshots"], "", Actor())
        matched = match(ids, chosen, context, Budget())
        for webhook, refusal in matched.refusals.items():
            refusals[webhook] = Skip(action=Action.UPDATED, rule=refusal.rule, detail=refusal.detail)
        filter_errors |= dict.fromkeys(matched.errored, last_line(matched.error))
    found = replace(found, error=error, refusals=refusals, filter_errors=filter_errors)
    return _compare(found, registration, payload_of, last) if last else found


def _read(registration: Registration, pk: Any) -> models.Model | None:
    using = Event.objects.db
    try:
        with transaction.atomic(using):
            found = serialize.reread_all(registration, [registration.normalize_pk(pk)], using)
    except (ValidationError, ValueError, TypeError, OverflowError):  # an impossible key
        return None
    return next(iter(found.values()), None)


def write(
    registration: Registration, instance: models.Model, serializer: str, prechange: PrechangeState | None = None
) -> Payload | str:
    """The payload of the object, or the last line of the error: a serializer may raise anything."""
    try:
        with transaction.atomic(Event.objects.db):
            return serialize.serialize(registration, instance, serializer, prechange)
    except Exception as error:
        reraise_job_timeout(error)
        return clean(last_line(f"{type(error).__name__}: {error}"))


def _compare(
    found: Present, registration: Registration, payload_of: Callable[[str], Payload | str], last: Event
) -> Present:
    """With the fields that differ in the snapshots, which leave out ``auto_now`` fields and values of related objects.
    Fields that only one snapshot has do not count: the serializer may have changed since."""
    names = ["", *json.loads(last.serializers or "{}")]
    name = next((name for name in names if payloads.has_serializer(last, name)), "")
    payload, before = payload_of(name), json.loads(last.snapshots or "{}").get("postchange")
    if isinstance(payload, str) or not isinstance(before, Mapping):
        return found
    now = json.loads(payload.snapshot)
    differs = sorted(name for name in now.keys() & before.keys() if not json_equal(now[name], before[name]))
    fields = snapshots.snapshot_fields(registration, name)
    relations = {name for name, one in fields.items() if one.many_to_many}
    return replace(found, differs=tuple(differs), differs_in_relations=relations.issuperset(differs))


def _last_saved(instance: models.Model) -> datetime | None:
    times: list[Any] = [
        getattr(instance, one.attname)
        for one in instance._meta.concrete_fields
        if isinstance(one, models.DateTimeField) and one.auto_now
    ]
    return max((one for one in times if isinstance(one, datetime)), default=None)
