"""An Event as the body of a request, and as what templates see."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from webhooks.db import to_utc
from webhooks.payloads.snapshots import differences
from webhooks.payloads.variants import Told, snapshots_json


def json_body(event: Told) -> bytes:
    """The body that receivers get, in NetBox's form with more beside it (``docs/payload.md``)."""
    envelope = _plain_json(_envelope(event))[:-1]
    request, data = event.request or "null", event.data or "null"
    compared = f'"snapshots":{event.snapshots or snapshots_json(None, None)},"changed":{event.changed or "null"}'
    return f'{envelope},"request":{request},"data":{data},{compared}}}'.encode()


# Of a dictionary of text and numbers, in ASCII as ``written`` writes it.
_plain_json = json.JSONEncoder(separators=(",", ":")).encode


def form_body(event: Told) -> bytes:
    """The body as a form: one field for each key of the payload, and JSON text where a value is not plain."""
    fields = _envelope(event) | {
        "request": event.request or "null",
        "data": event.data or "null",
        "snapshots": event.snapshots or snapshots_json(None, None),
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
    def context(self) -> str:
        """What templates see, as JSON: the payload, and what differs between the snapshots."""
        context = json.loads(self.body(as_form=False))
        context["snapshots"]["differences"] = differences(context)
        return json.dumps(context, separators=(",", ":"))


def _envelope(event: Told) -> dict[str, Any]:
    replay = {"replay_of": event.replay_of} if event.replay_of else {}
    return replay | {
        "event": event.action,
        "timestamp": to_utc(event.timestamp).isoformat(),
        "object_type": event.object_type,
        "model": event.object_type.rpartition(".")[2],
        "username": event.username,
        "request_id": event.request_id,
        "sequence": event.pk,
    }
