"""Delivery ids: unique without asking anybody, and in the order of time, so that their index grows at one end."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from datetime import datetime


def new_id() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of milliseconds since 1970 in UTC, the rest random."""
    return _version_7(time.time_ns() // 1_000_000, os.urandom(10))


def delivery_id(moment: datetime, event: int, webhook: int) -> uuid.UUID:
    """The id of the delivery of an Event, of this aware moment, to a webhook: always the same, so that one that a crash
    of the database took back is made again under the id that its receiver may know already."""
    rest = hashlib.blake2b(b"%d:%d" % (event, webhook), digest_size=10).digest()
    return _version_7(int(moment.timestamp() * 1000), rest)


def _version_7(milliseconds: int, rest: bytes) -> uuid.UUID:
    value = milliseconds << 80 | int.from_bytes(rest, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def first_id(moment: datetime) -> uuid.UUID:
    """A UUID that sorts before every version 7 one made from this moment on."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
