"""Connections to the Redis of a queue that give up early: redis-py's defaults would try for seconds."""

from __future__ import annotations

import django_rq
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# Any of these says where Redis is.
PLACES = ("URL", "HOST", "UNIX_SOCKET_PATH", "SENTINELS", "USE_REDIS_CACHE")


def fill_in(queue: str) -> None:
    """Complete the entry of ``RQ_QUEUES``: where it does not say, Redis is DB 0 on localhost, without a password."""
    entry = getattr(settings, "RQ_QUEUES", {}).get(queue)
    if isinstance(entry, dict) and ("HOST" in entry or not any(place in entry for place in PLACES)):
        for key, value in {"HOST": "localhost", "PORT": 6379, "DB": 0}.items():
            entry.setdefault(key, value)


def impatient(queue: str, seconds: float) -> Redis:
    """A connection of its own, as ``RQ_QUEUES`` says, that waits ``seconds`` at the most to connect and for each
    answer. Raises whatever an unusable setting provokes."""
    connection: Redis = django_rq.get_connection(queue)
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
