"""An object as JSON, and an Event as the body of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol, cast
from urllib.parse import urlencode

from django.conf import settings
from django.db import models
from django.utils import timezone, translation

from webhooks import snapshots as snapshots_of
from webhooks.clock import utc
from webhooks.conf import conf
from webhooks.jsontext import Unwritable, written
from webhooks.registry import Registration
from webhooks.site_request import serializer_context
from webhooks.snapshots import Before
from webhooks.sql.dialect import in_chunks


class Unsendable(Exception):
    """Data that no receiver could be sent: too much, or nothing that JSON has. Says in words what is the matter."""


@dataclass(frozen=True)
class Frozen:
    """An object as it is and as it was: JSON texts. ``before`` and ``changed`` are empty where the state
    before is not known."""

    data: str
    state: str
    before: str = ""
    changed: str = ""


def reread_all(
    registration: Registration, pks: Sequence[Any], using: str, lock: bool = False
) -> dict[str, models.Model]:
    """The rows of these keys as the transaction sees them now, by their keys as text; those that are gone are not
    among them.

    The instances at hand may be stale: another transaction may have changed other columns since they were
    loaded. ``lock`` takes the lock that an UPDATE would hold, and so waits for those who change the rows.
    """
    found: dict[str, models.Model] = {}
    for some in in_chunks(using, pks):
        found |= _reread(registration, some, using, lock)
    return found


def _reread(registration: Registration, pks: Sequence[Any], using: str, lock: bool) -> dict[str, models.Model]:
    rows = registration.model._base_manager.using(using)
    if lock:
        rows = rows.select_for_update(no_key=True, of=("self",))
    if registration.queryset is not None:
        if lock:
            # Its annotations group its rows, and PostgreSQL locks no groups.
            list(rows.filter(pk__in=pks).order_by("pk").values_list("pk"))
        rows = registration.queryset().using(using)
    # The order is that of the locks, and costs a fifth more where there is a single row.
    found = rows.filter(pk=pks[0]).order_by() if len(pks) == 1 else rows.filter(pk__in=pks).order_by("pk")
    return {str(instance.pk): instance for instance in found}


def freeze(
    registration: Registration, instance: models.Model, serializer: str = "", before: Before | None = None
) -> Frozen:
    """Serialize an object with the project's own serializer, of a name or the default one; in the language and time
    zone of the settings, whoever makes the change. Raises whatever that raises, and Unsendable."""
    with translation.override(settings.LANGUAGE_CODE), timezone.override(None):
        return _frozen(registration, instance, serializer, before)


def _frozen(registration: Registration, instance: models.Model, serializer: str, before: Before | None) -> Frozen:
    writer = registration.serializer_class(serializer)(instance, context=serializer_context())
    data = writer.data
    after = snapshots_of.taken(writer, data, instance)
    earlier = snapshots_of.earlier(writer, data, after, before) if before else None
    what = f"the payload of {registration.label} {instance.pk}"
    try:
        frozen = Frozen(_without_secrets(registration, data), _without_secrets(registration, after))
        if earlier is not None:
            frozen = _compared(frozen, _without_secrets(registration, earlier))
    except Unwritable as error:
        raise Unsendable(f"{what} cannot be written as JSON: {error}") from error
    refuse_too_large(what, len(frozen.data) + len(frozen.state) + len(frozen.before))
    return frozen


def refuse_too_large(what: str, size: int) -> None:
    """Raise Unsendable, in words, for more bytes than ``PAYLOAD_BYTES``."""
    if size > conf.payload_bytes:
        raise Unsendable(f"{what} has {size:,} bytes; PAYLOAD_BYTES allows {conf.payload_bytes:,}")


def _compared(frozen: Frozen, before: str) -> Frozen:
    # As JSON: what the receiver cannot tell apart has not changed.
    changed = snapshots_of.changed(json.loads(before), json.loads(frozen.state))
    return replace(frozen, before=before, changed=written(changed))


def _without_secrets(registration: Registration, data: Any) -> str:
    """JSON text of what may be sent of an object."""
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if not registration.is_left_out(key)}
    return written(data, registration.is_sensitive)


def snapshots(before: str | None, after: str | None) -> str:
    """The ``snapshots`` of the payload, from two JSON texts."""
    return f'{{"prechange":{before or "null"},"postchange":{after or "null"}}}'


class Told(Protocol):
    """What of an Event the body of a request tells."""

    @property
    def pk(self) -> int: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def action(self) -> str: ...
    @property
    def object_type(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def request(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def replay_of(self) -> int | None: ...
    @property
    def data(self) -> str: ...
    @property
    def snapshots(self) -> str: ...
    @property
    def changed(self) -> str: ...
    @property
    def variants(self) -> str: ...


# What an Event has of each serializer.
TEXTS = ("data", "snapshots", "changed")


def texts_for(chosen: Mapping[str, list[int]], shown: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The columns of an Event that has what each serializer shows, for the webhooks that chose it: the Event's own are
    those of the first, and ``variants`` has the others."""
    main = next(iter(chosen))
    variants = {
        name: {"webhooks": webhook_ids, **(shown.get(name, {}) if name != main else {})}
        for name, webhook_ids in chosen.items()
        if name
    }
    own = {name: shown.get(main, {}).get(name, "") for name in TEXTS}
    return own | {"variants": json.dumps(variants) if variants else ""}


def chosen_serializers(event: Any) -> dict[str, list[int]]:
    """The webhooks of an Event by the serializers that they had chosen, the default one first."""
    chosen: dict[str, list[int]] = {}
    for webhook_id in event.webhook_ids:
        chosen.setdefault(serializer_for(event, webhook_id), []).append(webhook_id)
    return dict(sorted(chosen.items())) or {"": []}


def serializer_for(event: Told, webhook_id: int) -> str:
    """The name of the serializer that a webhook had chosen when an Event happened; empty for the default one."""
    variants = json.loads(event.variants or "{}")
    return next((name for name, one in variants.items() if webhook_id in one["webhooks"]), "")


def written_by(event: Told, serializer: str) -> Told:
    """The Event as the serializer of this name had written it."""
    texts = json.loads(event.variants or "{}").get(serializer, {})
    return cast(Told, _Variant(event, texts)) if "data" in texts else event


def was_written_by(event: Told, serializer: str) -> bool:
    """Whether there are data of the serializer of this name, for some webhook that had chosen it."""
    variants = json.loads(event.variants or "{}")
    main = next((name for name, one in variants.items() if "data" not in one), "")
    return serializer == main or "data" in variants.get(serializer, {})


def sent_to(event: Told, webhook_id: int) -> Told:
    """The Event as a webhook gets it."""
    return written_by(event, serializer_for(event, webhook_id))


class _Variant:
    """An Event with some of its texts replaced."""

    def __init__(self, event: Told, texts: dict[str, str]) -> None:
        self._event, self._texts = event, texts

    def __getattr__(self, name: str) -> Any:
        return self._texts[name] if name in self._texts else getattr(self._event, name)


def json_body(event: Told) -> bytes:
    """The body that receivers get, in NetBox's form with more beside it (``docs/payload.md``)."""
    envelope = _plain_json(_envelope(event))[:-1]
    request, data = event.request or "null", event.data or "null"
    compared = f'"snapshots":{event.snapshots or snapshots(None, None)},"changed":{event.changed or "null"}'
    return f'{envelope},"request":{request},"data":{data},{compared}}}'.encode()


# Of a dictionary of text and numbers, in ASCII as ``written`` writes it.
_plain_json = json.JSONEncoder(separators=(",", ":")).encode


def form_body(event: Told) -> bytes:
    """The same as a form: one field for each key of the payload, and JSON text where a value is not plain."""
    fields = _envelope(event) | {
        "request": event.request or "null",
        "data": event.data or "null",
        "snapshots": event.snapshots or snapshots(None, None),
        "changed": event.changed or "null",
    }
    return urlencode(fields).encode()


class Bodies:
    """The bodies of one Event, each made once, however many webhooks get it."""

    def __init__(self, event: Told) -> None:
        self._event = event
        self._made: dict[bool, bytes] = {}

    @property
    def depth(self) -> int:
        return self._event.depth

    def body(self, as_form: bool) -> bytes:
        if as_form not in self._made:
            self._made[as_form] = (form_body if as_form else json_body)(self._event)
        return self._made[as_form]

    @cached_property
    def context(self) -> dict[str, Any]:
        """What templates see: the payload, and what differs between the snapshots. It is shared: nobody changes it."""
        context: dict[str, Any] = json.loads(self.body(as_form=False))
        context["snapshots"]["differences"] = snapshots_of.differences(context)
        return context


def _envelope(event: Told) -> dict[str, Any]:
    replay = {"replay_of": event.replay_of} if event.replay_of else {}
    return replay | {
        "event": event.action,
        "timestamp": utc(event.timestamp).isoformat(),
        "object_type": event.object_type,
        "model": event.object_type.rpartition(".")[2],
        "username": event.username,
        "request_id": event.request_id,
        "sequence": event.pk,
    }
