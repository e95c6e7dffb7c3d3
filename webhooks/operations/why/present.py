"""The object as it is now: its differences from the last Event, and the webhooks that want it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction

from webhooks import payloads
from webhooks.capture import serialize, subscriptions
from webhooks.capture.context import Actor
from webhooks.capture.matching import Budget, EventContext, match
from webhooks.capture.serialize import Payload
from webhooks.capture.subscriptions import Subscriptions
from webhooks.logs import reraise_job_timeout
from webhooks.models import Action, Event, Skip, Webhook
from webhooks.models.skip import Refusal
from webhooks.payloads import snapshots
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


class Reader:
    """Reads an object, and writes its data with each serializer at most once. Errors are values: a serializer that
    raises, or a database error in it."""

    def __init__(self, registration: Registration, using: str) -> None:
        self._registration, self._using = registration, using
        self._payloads: dict[str, Payload | str] = {}

    def instance(self, pk: Any) -> models.Model | None:
        try:
            pk = self._registration.normalize_pk(pk)
            with transaction.atomic(self._using):
                found = serialize.reread_all(self._registration, [pk], self._using)
        except (ValidationError, ValueError, TypeError, OverflowError):  # an impossible key
            return None
        return next(iter(found.values()), None)

    def payload(self, instance: models.Model, serializer: str) -> Payload | str:
        """The payload, or the last line of the error."""
        if serializer not in self._payloads:
            try:
                with transaction.atomic(self._using):
                    made: Payload | str = serialize.serialize(self._registration, instance, serializer)
            except Exception as error:
                reraise_job_timeout(error)
                made = clean(last_line(f"{type(error).__name__}: {error}"))
            self._payloads[serializer] = made
        return self._payloads[serializer]

    def relations(self, serializer: str) -> set[str]:
        """The names of the many-to-many relations in a payload."""
        fields = snapshots.snapshot_fields(self._registration, serializer)
        return {name for name, one in fields.items() if one.many_to_many}


def look(registration: Registration, pk: Any, last: Event | None, webhooks: Sequence[Webhook], using: str) -> Present:
    """The object now, compared with its last Event, and judged by the filters of these webhooks."""
    reader = Reader(registration, using)
    instance = reader.instance(pk)
    if instance is None:
        return Present()
    chosen = _with_skips(subscriptions.read(using))
    found = Present(exists=True, last_saved=_last_saved(instance))
    refusals, filter_errors, error = dict[int, Skip](), dict[int, str](), ""
    for serializer, ids in chosen.by_serializer([webhook.pk for webhook in webhooks]).items():
        payload = reader.payload(instance, serializer)
        if isinstance(payload, str):
            error = payload
            continue
        context = EventContext(Action.UPDATED, payload.data, payload.columns()["snapshots"], "", Actor())
        matched = match(ids, chosen, context, Budget())
        refusals |= {pk: _as_skip(refusal) for pk, refusal in matched.refusals.items()}
        filter_errors |= dict.fromkeys(matched.errored, last_line(matched.error))
    found = replace(found, error=error, refusals=refusals, filter_errors=filter_errors)
    return _compare(found, reader, instance, last) if last else found


def _with_skips(found: Subscriptions) -> Subscriptions:
    """The same with reasons: otherwise there are none if no skips are stored."""
    return found if found.keeps_skips else replace(found, disabled=Subscriptions())


def _as_skip(refusal: Refusal) -> Skip:
    return Skip(action=Action.UPDATED, rule=refusal.rule, detail=refusal.detail)


def _compare(found: Present, reader: Reader, instance: models.Model, last: Event) -> Present:
    """With the fields that differ in the snapshots, which leave out ``auto_now`` fields and values of related objects.
    Fields that only one snapshot has do not count: the serializer may have changed since."""
    names = ["", *json.loads(last.serializers or "{}")]
    name = next((name for name in names if payloads.has_serializer(last, name)), "")
    payload, before = reader.payload(instance, name), json.loads(last.snapshots or "{}").get("postchange")
    if isinstance(payload, str) or not isinstance(before, Mapping):
        return found
    now = json.loads(payload.snapshot)
    differs = sorted(name for name in now.keys() & before.keys() if not json_equal(now[name], before[name]))
    return replace(found, differs=tuple(differs), differs_in_relations=reader.relations(name).issuperset(differs))


def _last_saved(instance: models.Model) -> datetime | None:
    times: list[Any] = [
        getattr(instance, one.attname)
        for one in instance._meta.concrete_fields
        if isinstance(one, models.DateTimeField) and one.auto_now
    ]
    return max((one for one in times if isinstance(one, datetime)), default=None)
