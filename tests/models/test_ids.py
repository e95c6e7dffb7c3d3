"""The ids of deliveries and skips."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta

from webhooks.models.ids import delivery_id, first_id, new_id


def test_an_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    one = new_id()
    after = time.time_ns() // 1_000_000
    assert one.version == 7
    assert one.variant == "specified in RFC 4122"
    assert before <= one.int >> 80 <= after


def test_ids_are_unique_and_ordered_by_time() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    stamps = [one.int >> 80 for one in ids]
    assert stamps == sorted(stamps)


def test_the_id_of_a_delivery_depends_on_its_event_and_webhook() -> None:
    moment = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    one = delivery_id(moment, 5, 7)
    assert one.version == 7
    assert one.int >> 80 == int(moment.timestamp() * 1000)
    assert one == delivery_id(moment, 5, 7) != delivery_id(moment + timedelta(milliseconds=1), 5, 7)
    others = {delivery_id(moment, event, webhook) for event in range(100) for webhook in range(100)}
    assert len(others) == 10_000


def test_every_id_comes_after_a_moment_before_1970() -> None:
    assert uuid.UUID(int=0) == first_id(datetime(1926, 1, 1, tzinfo=UTC)) < new_id()
