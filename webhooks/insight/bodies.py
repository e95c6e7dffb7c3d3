"""The bodies that attempts sent: made again from the event, or stored."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection

from webhooks.ground import payloads
from webhooks.models import Attempt, Body, BodyKind, Delivery
from webhooks.models.attempt import STORED_BODIES


def sent_bodies(delivery: Delivery, attempts: Collection[Attempt]) -> dict[str, bytes]:
    """The bodies of a delivery's attempts by their SHA-256, in at most one query.

    A body is missing if the event does not give the same bytes again, as after an upgrade.
    """
    plain = payloads.Bodies(payloads.as_sent_to(delivery.event, delivery.webhook_id))
    kinds = {attempt.body_kind for attempt in attempts}
    made = [plain.body(kind == BodyKind.FORM) for kind in kinds & {BodyKind.PAYLOAD, BodyKind.FORM}]
    if stored := {attempt.body_sha256 for attempt in attempts if attempt.body_kind in STORED_BODIES}:
        bodies = Body.objects.filter(delivery=delivery, sha256__in=stored)
        made += map(zlib.decompress, bodies.values_list("content", flat=True))
    return {hashlib.sha256(body).hexdigest(): body for body in made}
