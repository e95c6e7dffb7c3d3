"""Connections to the Redis of a queue that give up early: redis-py's defaults would try for seconds. And which errors
are those of a Redis that is away."""

from __future__ import annotations

import re

import django_rq
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    ExecAbortError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

# Any of these says where Redis is.
PLACES = ("URL", "HOST", "UNIX_SOCKET_PATH", "SENTINELS", "USE_REDIS_CACHE")

UNREADABLE = "its URL cannot be read: it is redis://…, and / ? # @ in its password are written as %2F %3F %23 %40"

# A Redis that answers and refuses: it is a replica or misses its own, its memory is full or its disk broken, a script
# keeps it. All of that is mended elsewhere, or passes. Where redis-py has no class for it, the first word tells.
REFUSALS = (ReadOnlyError, OutOfMemoryError, ClusterDownError, ExecAbortError)
REFUSAL = re.compile(r"(^|: )(NOREPLICAS|MISCONF|BUSY|UNBLOCKED) ")


def is_away(error: RedisError) -> bool:
    """Whether it says that Redis cannot be worked with at the moment: it does not answer, or it refuses. Anything else
    is a mistake in what it was asked."""
    return isinstance(error, (ConnectionError, TimeoutError, *REFUSALS)) or (
        isinstance(error, ResponseError) and REFUSAL.search(str(error)) is not None
    )


def in_words(error: Exception) -> str:
    """What a Redis does that is away, by the error that says so."""
    refuses = isinstance(error, (ResponseError, AuthenticationError))
    return f"Redis {'refuses' if refuses else 'does not answer'} ({error})"


def fill_in(queue: str) -> None:
    """Complete the entry of ``RQ_QUEUES``: where it does not say, Redis is DB 0 on localhost, without a password."""
    entry = getattr(settings, "RQ_QUEUES", {}).get(queue)
    if isinstance(entry, dict) and ("HOST" in entry or not any(place in entry for place in PLACES)):
        for key, value in {"HOST": "localhost", "PORT": 6379, "DB": 0}.items():
            entry.setdefault(key, value)


def impatient(queue: str, seconds: float) -> Redis:
    """A connection of its own, as ``RQ_QUEUES`` says, that waits ``seconds`` at the most to connect and for each
    answer. Raises whatever an unusable setting provokes."""
    try:
        connection: Redis = django_rq.get_connection(queue)
    except ValueError:
        # Not in its own words: of a URL whose password has a slash in it, they have what stands before that.
        raise ValueError(UNREADABLE) from None
    if "USE_REDIS_CACHE" not in settings.RQ_QUEUES[queue]:  # that one is the cache's own, with its own timeouts
        for one in (connection, *sentinels(connection)):
            one.connection_pool.connection_kwargs.update(
                socket_connect_timeout=seconds, socket_timeout=seconds, retry=Retry(NoBackoff(), 0)
            )
    return connection


def sentinels(connection: Redis) -> list[Redis]:
    """The Sentinels that are asked where this connection leads, if any are."""
    manager = getattr(connection.connection_pool, "sentinel_manager", None)
    return list(manager.sentinels) if manager else []
