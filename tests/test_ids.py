"""Delivery ids: RFC 9562, version 7."""

from __future__ import annotations

import time

from webhooks.ids import new_id


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


def test_later_ids_sort_after_earlier_ones() -> None:
    first = new_id()
    time.sleep(0.002)
    assert str(new_id()) > str(first)
