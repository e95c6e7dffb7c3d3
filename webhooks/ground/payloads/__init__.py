"""The body of a request: an Event, with the output of the serializer that the webhook chose."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol
from urllib.parse import urlencode

from webhooks.ground.conf import conf
from webhooks.ground.db import to_utc
from webhooks.ground.payloads.snapshots import PrechangeState, differences

# The columns of an Event that a serializer determines.
SERIALIZED_COLUMNS = ("data", "snapshots", "changed")


class Unsendable(Exception):
    """Data that cannot be sent: too large, or not JSON. The message says why."""


def refuse_too_large(what: str, size: int) -> None:
    """Raise Unsendable for more bytes than ``PAYLOAD_BYTES``."""
    if size > conf.payload_bytes:
        raise Unsendable(f"{what} has {size:,} bytes; PAYLOAD_BYTES allows {conf.payload_bytes:,}")


def too_large(what: str) -> Unsendable:
    """The error for data that were not written to their end, so that their size is not known."""
    return Unsendable(f"{what} has more bytes than the {conf.payload_bytes:,} that PAYLOAD_BYTES allows")


class SendableEvent(Protocol):
    """The attributes of an Event that a body needs. Texts hold JSON and may be empty."""

    pk: int
    timestamp: datetime
    action: str
    object_type: str
    username: str
    request_id: str
    request: str
    depth: int
    replay_of: int | None
    data: str
    snapshots: str
    changed: str
    context: str
    serializers: str
    trace: str | None


def json_body(event: SendableEvent) -> bytes:
    """The JSON body: NetBox's keys, and more (``docs/payload.md``)."""
    envelope = {name: _plain_json(value) for name, value in _envelope(event).items()}
    texts = [f'"{name}":{text}' for name, text in (envelope | _json_texts(event)).items()]
    return f"{{{','.join(texts)}}}".encode()


def _plain_json(value: str | int) -> str:
    """In ASCII, as ``json.dumps`` writes it, in a tenth of the time."""
    return encode_basestring_ascii(value) if isinstance(value, str) else str(value)


def form_body(event: SendableEvent) -> bytes:
    """The body as a form: one field for each key of the payload, with JSON text where a value is not plain."""
    return urlencode(_envelope(event) | _json_texts(event)).encode()


def _envelope(event: SendableEvent) -> dict[str, str | int]:
    replay = {"replay_of": event.replay_of} if event.replay_of else {}
    return {
        **replay,
        "event": event.action,
        "timestamp": to_utc(event.timestamp).isoformat(),
        "object_type": event.object_type,
        "model": event.object_type.rpartition(".")[2],
        "username": event.username,
        "request_id": event.request_id,
        "sequence": event.pk,
    }


def _json_texts(event: SendableEvent) -> dict[str, str]:
    context = {"context": event.context} if event.context else {}
    return context | {
        "request": event.request or "null",
        "data": event.data or "null",
        "snapshots": event.snapshots or snapshots_json(None, None),
        "changed": event.changed or "null",
    }


def snapshots_json(before: str | None, after: str | None) -> str:
    """The ``snapshots`` of the payload, from two JSON texts."""
    return f'{{"prechange":{before or "null"},"postchange":{after or "null"}}}'


class Bodies:
    """The bodies of one Event. All its webhooks share them."""

    def __init__(self, event: SendableEvent) -> None:
        self._event = event
        self.depth = event.depth
        self.timestamp = event.timestamp
        self.trace = event.trace or ""
        self._made: dict[bool, bytes] = {}

    def adding(self, static_data: Mapping[str, Any] | None) -> Bodies:
        """With these keys in ``data``, unless it has them. Data that is no object stays as it is."""
        data = json.loads(self._event.data or "null") if static_data else None
        if not static_data or not isinstance(data, dict):
            return self
        new = {name: value for name, value in static_data.items() if name not in data}
        added = json.dumps(new, separators=(",", ":"))
        comma = "," if data and added != "{}" else ""
        return Bodies(_Replaced(self._event, {"data": f"{added[:-1]}{comma}{self._event.data[1:]}"}))

    def body(self, as_form: bool) -> bytes:
        if as_form not in self._made:
            self._made[as_form] = (form_body if as_form else json_body)(self._event)
        return self._made[as_form]

    @cached_property
    def context(self) -> str:
        """The context of templates as JSON: the payload, and the differences of the snapshots."""
        context = json.loads(self.body(as_form=False))
        context["snapshots"]["differences"] = differences(context)
        return json.dumps(context, separators=(",", ":"))


# The serializers that webhooks chose by name


def serializer_columns(chosen: Mapping[str, list[int]], texts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The columns of an Event, from the webhooks and the texts of each serializer. The texts of the first serializer
    go into the columns themselves, the texts of the others into the column ``serializers``."""
    first = next(iter(chosen))
    others = {
        name: {"webhooks": webhook_ids, **(texts.get(name, {}) if name != first else {})}
        for name, webhook_ids in chosen.items()
        if name
    }
    columns = {name: texts.get(first, {}).get(name, "") for name in SERIALIZED_COLUMNS}
    return columns | {"serializers": json.dumps(others) if others else ""}


def webhooks_by_serializer(event: Any) -> dict[str, list[int]]:
    """The webhooks of an Event by the serializer that each had chosen. The default one, with no name, comes first."""
    names = serializers_by_webhook(event)
    chosen: dict[str, list[int]] = {}
    for webhook_id in event.webhook_ids:
        chosen.setdefault(names.get(webhook_id, ""), []).append(webhook_id)
    return dict(sorted(chosen.items())) or {"": []}


def serializers_by_webhook(event: Any) -> dict[int, str]:
    """The names of the serializers that webhooks had chosen when the Event happened. The others had the default one."""
    return {webhook_id: name for name, part in _serializers(event).items() for webhook_id in part["webhooks"]}


def has_serializer(event: Any, name: str) -> bool:
    """Whether the Event has the data of this serializer."""
    serializers = _serializers(event)
    first = next((other for other, part in serializers.items() if "data" not in part), "")
    return name == first or "data" in serializers.get(name, {})


def as_serialized_by(event: Any, name: str) -> SendableEvent:
    """The Event with the data of this serializer."""
    texts = _serializers(event).get(name, {}) if name else {}
    return _Replaced(event, texts) if "data" in texts else event


def stored_prechange(event: Any, serializer: str) -> PrechangeState | None:
    """The state before a stored Event, as this serializer wrote it. None if it is not known."""
    if not has_serializer(event, serializer):
        return None
    stored = json.loads(as_serialized_by(event, serializer).snapshots or "{}").get("prechange")
    return None if stored is None else PrechangeState(snapshot=stored)


def as_sent_to(event: Any, webhook_id: int) -> SendableEvent:
    """The Event with the data of the serializer that this webhook had chosen."""
    return as_serialized_by(event, serializers_by_webhook(event).get(webhook_id, ""))


def bodies_by_webhook(event: Any) -> Callable[[int], Bodies]:
    """What gives the bodies of an Event for a webhook, by its id. Webhooks that chose the same serializer share them,
    for the texts may be large."""
    names = serializers_by_webhook(event)
    bodies = {name: Bodies(as_serialized_by(event, name)) for name in {"", *names.values()}}
    return lambda webhook_id: bodies[names.get(webhook_id, "")]


def _serializers(event: Any) -> dict[str, dict[str, Any]]:
    serialized: dict[str, dict[str, Any]] = json.loads(event.serializers) if event.serializers else {}
    return serialized


class _Replaced:
    """An Event with some of its texts replaced."""

    def __init__(self, event: Any, texts: dict[str, str]) -> None:
        self._event, self._texts = event, texts

    def __getattr__(self, name: str) -> Any:
        return self._texts[name] if name in self._texts else getattr(self._event, name)
