"""Delivery ids: unique without asking anybody, and in the order of time, so that their index grows at one end."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime


def new_id() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of milliseconds since 1970 in UTC, the rest random."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def first_id(moment: datetime) -> uuid.UUID:
    """A UUID that sorts before every version 7 one made from this moment on."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
