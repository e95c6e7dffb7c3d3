from __future__ import annotations

import json
import uuid
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import models

from webhooks.insight.bodies import sent_bodies
from webhooks.management.base import DatabaseCommand
from webhooks.models import Attempt, Delivery, Event
from webhooks.models.columns import PackedTextField


class Command(DatabaseCommand):
    help = (
        "Prints the stored rows of an event, or of a delivery with its event and attempts, as JSON. In SQL, the large "
        "columns of an event are compressed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="The id of an event, or of a delivery: the header webhook-id.")

    def handle(self, *args: Any, **options: Any) -> None:
        given = options["id"]
        if given.isdecimal() and len(given) < 19:
            if event := Event.objects.filter(pk=given).first():
                return self.write_json(_row(event))
            raise CommandError(f"There is no event {given}.")
        try:
            key = uuid.UUID(given)
        except ValueError:
            raise CommandError(f"Give the number of an event or the UUID of a delivery, not {given!a}.") from None
        delivery = Delivery.objects.select_related("event", "queued").filter(pk=key).first()
        if delivery is None:
            raise CommandError(f"There is no delivery {key}.")
        attempts = list(Attempt.objects.filter(delivery=delivery))
        bodies = sent_bodies(delivery, attempts)
        return self.write_json(
            _row(delivery)
            | {"state": delivery.state, "attempts": [_attempt(attempt, bodies) for attempt in attempts]}
            | {"event": _row(delivery.event)}
        )


def _attempt(attempt: Attempt, bodies: dict[str, bytes]) -> dict[str, Any]:
    packed = ("packed_headers", "packed_response_headers")
    row = {name: value for name, value in _row(attempt).items() if name not in packed}
    body = bodies.get(attempt.body_sha256, b"").decode(errors="replace")
    return row | {
        "request_headers": attempt.request_headers,
        "request_body": body,
        "response_headers": attempt.response_headers,
    }


def _row(row: models.Model) -> dict[str, Any]:
    """The columns of a row, with the JSON in packed ones parsed."""
    values = {}
    for field in row._meta.local_concrete_fields:
        value = getattr(row, field.attname)
        values[field.attname] = json.loads(value) if value and isinstance(field, PackedTextField) else value
    return values
