"""Outages of Redis: connections that give up early, the errors that mean an outage, and an rq worker that goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django_rq
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    InvalidResponse,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry
from rq import Worker

from webhooks.ground.conf import conf
from webhooks.ground.errors import Outage, get_logger, why_failed
from webhooks.ground.security.url_policy import address_of

logger = get_logger(__name__)

# For a worker: seconds between two tries of an unavailable Redis, and until one that does not answer is unavailable.
REDIS_RETRY_SECONDS = 2
REDIS_TIMEOUT = 5

# The keys of an entry of RQ_QUEUES that locate Redis.
LOCATIONS = ("URL", "HOST", "UNIX_SOCKET_PATH", "SENTINELS", "USE_REDIS_CACHE")

INVALID_URL = "its URL cannot be read: it is redis://…, and / ? # @ in its password are written as %2F %3F %23 %40"


def complete_queue_settings(queue: str) -> None:
    """Fill in an entry of ``RQ_QUEUES`` that does not locate Redis: database 0 on localhost, without a password. With a
    socket and no database, it is database 0 as well."""
    if queue_problem(queue):
        return  # a check reports it
    entry = settings.RQ_QUEUES[queue]
    if "HOST" in entry or not any(key in entry for key in LOCATIONS):
        for key, value in {"HOST": "localhost", "PORT": 6379, "DB": 0}.items():
            entry.setdefault(key, value)
    elif "UNIX_SOCKET_PATH" in entry:
        entry.setdefault("DB", 0)  # django-rq raises KeyError without one


def queue_problem(queue: str) -> str:
    """Why ``RQ_QUEUES`` does not define this queue, as the beginning of a sentence; empty if it does."""
    queues = getattr(settings, "RQ_QUEUES", {})
    if not isinstance(queues, dict):
        return "RQ_QUEUES is no dictionary"
    if queue not in queues:
        return f'RQ_QUEUES has no queue "{queue}"'
    return "" if isinstance(queues[queue], dict) else f'RQ_QUEUES["{queue}"] is no dictionary'


def connect_with_timeout(queue: str, seconds: float) -> Redis:
    """A new connection to the Redis of a queue in ``RQ_QUEUES``. It waits ``seconds`` to connect, and for each answer.

    Raises various exceptions if the setting is unusable.
    """
    try:
        connection: Redis = django_rq.get_connection(queue)
    except ValueError:
        # redis-py's message would quote a part of a password that contains a slash.
        raise ValueError(INVALID_URL) from None
    if "USE_REDIS_CACHE" not in settings.RQ_QUEUES[queue]:  # the cache owns that connection and its timeouts
        for one in (connection, *sentinels(connection)):
            set_timeouts(one, seconds, seconds)
    return connection


def set_timeouts(connection: Redis, connect: float, answer: float) -> None:
    """Make a connection wait these seconds to connect, and for each answer. By default it retries for seconds."""
    connection.connection_pool.connection_kwargs.update(
        socket_connect_timeout=connect, socket_timeout=answer, retry=Retry(NoBackoff(), 0)
    )


def sentinels(connection: Redis) -> list[Redis]:
    """The Sentinels that say where this connection leads, if it uses any."""
    manager = getattr(connection.connection_pool, "sentinel_manager", None)
    return list(manager.sentinels) if manager else []


def looks_up_names(connection: Redis) -> bool:
    """Whether a new connection asks a name server or Sentinels. Nothing interrupts the lookup of a name, and several
    Sentinels may each have to time out."""
    host = connection.connection_pool.connection_kwargs.get("host", "localhost")
    return bool(sentinels(connection)) or not (host == "localhost" or address_of(host))


def is_unavailable(error: RedisError) -> bool:
    """Whether Redis does not answer, or refuses a command: a replica, no memory, a broken disk, a rule of its ACL.
    Or another program answers in its place, such as a load balancer with an error page.

    These pass, or an operator mends Redis. Other errors come from redis-py itself.
    """
    return isinstance(error, ConnectionError | TimeoutError | ResponseError | InvalidResponse)


class Backoff:
    """Leaves Redis alone for some seconds after it failed. Logs one warning for each outage, and one at its end."""

    def __init__(self, logger: logging.Logger, consequence: str) -> None:
        self._outage, self._consequence = Outage(logger), consequence
        self._until = 0.0

    @property
    def is_active(self) -> bool:
        return time.monotonic() < self._until

    @property
    def has_failed(self) -> bool:
        """Whether an outage has not ended."""
        return self._outage.has_failed

    def failed(self, error: Exception, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        verb = "refuses" if isinstance(error, (ResponseError, AuthenticationError)) else "does not answer"
        self._outage.failed("Redis %s (%s). %s.", verb, error, self._consequence)

    def succeeded(self) -> None:
        if self.has_failed:
            self._until = 0.0
            self._outage.succeeded("Redis answers again.")


def _surviving_outages(name: str) -> Callable[..., None]:
    """The method ``name`` of rq's Worker; it only logs if Redis is unavailable."""

    def method(self: LastingWorker, *args: Any, **kwargs: Any) -> None:
        with self.surviving_outages():
            getattr(super(LastingWorker, self), name)(*args, **kwargs)

    return method


class LastingWorker(Worker):
    """Logs an outage of Redis where rq would raise an exception and end."""

    _next_heartbeat = 0.0

    def __init__(self, queues: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("prepare_for_work", True):  # not if rq lists workers for another process, with its connection
            set_timeouts(kwargs["connection"], 1, REDIS_TIMEOUT)  # deliveries wait meanwhile
        self._backoff = Backoff(logger, "The worker delivers without it")
        super().__init__(queues, *args, **kwargs)

    @property
    def connection_timeout(self) -> int:
        return REDIS_TIMEOUT

    check_for_suspension = _surviving_outages("check_for_suspension")
    run_maintenance_tasks = _surviving_outages("run_maintenance_tasks")
    heartbeat = _surviving_outages("heartbeat")
    maintain_heartbeats = _surviving_outages("maintain_heartbeats")
    set_current_job_working_time = _surviving_outages("set_current_job_working_time")  # rq 2

    @contextmanager
    def surviving_outages(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            if not is_unavailable(error):
                raise
            self._backoff.failed(error, REDIS_RETRY_SECONDS)
            self._next_heartbeat = 0.0  # send one as soon as Redis answers again

    def _set_ip_address(self, connection: Redis) -> None:
        """rq asks Redis for the address in ``__init__``."""
        self.ip_address = "unknown"
        with self.surviving_outages():
            super()._set_ip_address(connection)


def connection_error() -> str:
    """Why Redis cannot be used, or ""."""
    # RQ_QUEUES may hold anything, and the system check must report that.
    return why_failed(lambda: connect_with_timeout(conf.queue, conf.redis_timeout).ping(), Exception)
