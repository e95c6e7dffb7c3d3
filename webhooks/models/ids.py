"""The ids of deliveries and skips. They begin with a time, so filters by time choose rows by their ids."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from datetime import datetime


def new_id() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, 5.7): 48 bits of milliseconds since 1970 in UTC, the rest random. Such ids sort by
    time, so their index grows at one end."""
    return _version_7(time.time_ns() // 1_000_000, os.urandom(10))


def delivery_id(moment: datetime, event: int, webhook: int) -> uuid.UUID:
    """The id of the delivery of an event, recorded at the aware ``moment``, to a webhook. It is always the
    same. If a crash of the database loses the delivery, the next one has the id that the receiver may know."""
    rest = hashlib.blake2b(b"%d:%d" % (event, webhook), digest_size=10).digest()
    return _version_7(int(moment.timestamp() * 1000), rest)


def _version_7(milliseconds: int, rest: bytes) -> uuid.UUID:
    value = milliseconds << 80 | int.from_bytes(rest, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


# The bits of an id's random part that its position has. A position fits into 63 bits for another hundred years.
_POSITION_BITS = 20


def position_of(pk: uuid.UUID) -> int:
    """The place of a version 7 UUID in the order of its time, as a number: its milliseconds, and 20 random bits. So
    two ids may have the same position."""
    return pk.int >> 80 << _POSITION_BITS | (pk.int >> 64 & 0xFFF) << 8 | pk.int >> 54 & 0xFF


def first_at(position: int) -> uuid.UUID:
    """The lowest version 7 UUID at this position or a later one."""
    milliseconds, rest = position >> _POSITION_BITS, position & (1 << _POSITION_BITS) - 1
    return uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | rest >> 8 << 64 | 0x2 << 62 | (rest & 0xFF) << 54)


def first_id(moment: datetime) -> uuid.UUID:
    """The lowest version 7 UUID from this moment on. None is older than 1970."""
    return id_at(max(0, int(moment.timestamp() * 1000)))


def id_at(milliseconds: int) -> uuid.UUID:
    """The same for milliseconds since 1970."""
    return uuid.UUID(int=milliseconds << 80)
