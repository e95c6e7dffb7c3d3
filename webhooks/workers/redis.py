"""Redis: connections that give up early, errors that mean an outage, and the state of Redis for the status page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import django_rq
from django.conf import settings
from django.utils import timezone
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
from rq import Queue
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import decode_redis_hash, utcparse
from rq.worker import WorkerStatus
from rq.worker_registration import get_keys

from webhooks.conf import conf

# The keys of an entry of RQ_QUEUES that locate Redis.
LOCATIONS = ("URL", "HOST", "UNIX_SOCKET_PATH", "SENTINELS", "USE_REDIS_CACHE")

INVALID_URL = "its URL cannot be read: it is redis://…, and / ? # @ in its password are written as %2F %3F %23 %40"

# Errors of a Redis that answers but refuses: a replica, a primary without its replicas, no memory, a broken disk, or a
# script that runs. They pass, or an operator mends Redis. redis-py has no class for some; the first word names them.
REFUSALS = (ReadOnlyError, OutOfMemoryError, ClusterDownError, ExecAbortError)
REFUSAL = re.compile(r"(^|: )(NOREPLICAS|MISCONF|BUSY|UNBLOCKED) ")


def complete_queue_settings(queue: str) -> None:
    """Fill in an entry of ``RQ_QUEUES`` that does not locate Redis: database 0 on localhost, without a password."""
    entry = getattr(settings, "RQ_QUEUES", {}).get(queue)
    if isinstance(entry, dict) and ("HOST" in entry or not any(key in entry for key in LOCATIONS)):
        for key, value in {"HOST": "localhost", "PORT": 6379, "DB": 0}.items():
            entry.setdefault(key, value)


def connect_with_timeout(queue: str, seconds: float) -> Redis:
    """A new connection to the Redis of a queue in ``RQ_QUEUES``. It waits ``seconds`` to connect, and for each answer.

    redis-py would retry for seconds by default. Raises various exceptions if the setting is unusable.
    """
    try:
        connection: Redis = django_rq.get_connection(queue)
    except ValueError:
        # redis-py's message would quote a part of a password that contains a slash.
        raise ValueError(INVALID_URL) from None
    if "USE_REDIS_CACHE" not in settings.RQ_QUEUES[queue]:  # the cache owns that connection and its timeouts
        for one in (connection, *sentinels(connection)):
            one.connection_pool.connection_kwargs.update(
                socket_connect_timeout=seconds, socket_timeout=seconds, retry=Retry(NoBackoff(), 0)
            )
    return connection


def sentinels(connection: Redis) -> list[Redis]:
    """The Sentinels that say where this connection leads, if it uses any."""
    manager = getattr(connection.connection_pool, "sentinel_manager", None)
    return list(manager.sentinels) if manager else []


def is_unavailable(error: RedisError) -> bool:
    """Whether Redis does not answer, or refuses commands for now. Any other error is a mistake in a command."""
    return isinstance(error, (ConnectionError, TimeoutError, *REFUSALS)) or (
        isinstance(error, ResponseError) and REFUSAL.search(str(error)) is not None
    )


def describe_outage(error: Exception) -> str:
    refuses = isinstance(error, (ResponseError, AuthenticationError))
    return f"Redis {'refuses' if refuses else 'does not answer'} ({error})"


def connection_error() -> str:
    """Why Redis cannot be used, or ""."""
    try:
        connect_with_timeout(conf.queue, conf.redis_timeout).ping()
    except Exception as error:  # RQ_QUEUES may hold anything, and the system check must report that
        return str(error) or type(error).__name__
    return ""


# The status page

# Seconds that the page waits for Redis to connect, and for each answer.
TIMEOUT = 0.5

# The page shows this many workers.
MAX_WORKERS = 200

# A worker counts as silent after these seconds without a heartbeat. The shipped class sends one every ten seconds. An
# idle stock worker sends one every 405, and Redis forgets it after 480.
SILENT_SHIPPED, SILENT_STOCK = 60, 470

# Only the shipped worker class sets this field of its hash in Redis.
CLASS_FIELD = "worker_class"


@dataclass(frozen=True)
class Worker:
    """An rq worker as it registered itself."""

    name: str
    queues: tuple[str, ...] = ()
    is_shipped: bool = False
    state: str = ""
    born: datetime | None = None
    last_heartbeat: datetime | None = None
    silence: float = 0.0
    """Seconds since the last heartbeat."""
    host: str = ""
    pid: str = ""
    job: str = ""
    """The function that it runs, without arguments: those may be secret."""

    @property
    def is_silent(self) -> bool:
        """Whether a heartbeat is overdue: the worker hangs or was killed."""
        return self.silence > (SILENT_SHIPPED if self.is_shipped else SILENT_STOCK)

    @property
    def is_suspended(self) -> bool:
        """Whether it waits for ``rq resume``. A worker of the shipped class that ran before ``rq suspend`` does not."""
        return self.state == WorkerStatus.SUSPENDED


@dataclass(frozen=True)
class Backend:
    """The state of Redis and of the rq workers that use it."""

    queue: str
    address: str = ""
    error: str = ""
    """Why Redis could not be read, or ""."""
    wake_ups: int = 0
    """The length of the queue."""
    workers: tuple[Worker, ...] = ()
    is_suspended: bool = False
    """Whether ``rq suspend`` stopped the workers."""

    @property
    def serving(self) -> list[Worker]:
        """The live workers that listen to the queue."""
        listening = [worker for worker in self.workers if self.queue in worker.queues]
        return [worker for worker in listening if not worker.is_silent and not worker.is_suspended]


def read_backend() -> Backend:
    """Read the state of Redis within about a second. Never raises: ``error`` says what went wrong."""
    try:
        connection = connect_with_timeout(conf.queue, TIMEOUT)
    except Exception as error:  # RQ_QUEUES may hold anything, and the page must report that
        if conf.queue not in getattr(settings, "RQ_QUEUES", {}):
            return Backend(conf.queue, error=f"the setting RQ_QUEUES has no queue {conf.queue!r}")
        problem = f"the setting RQ_QUEUES[{conf.queue!r}] is not usable: {type(error).__name__}: {error}"
        return Backend(conf.queue, error=problem)
    known = connection.connection_pool.connection_kwargs
    place = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    address = f"{place}, database {known.get('db') or 0}"  # django-rq gives None if the URL names no database
    try:
        length = Queue(conf.queue, connection=connection).count
        is_suspended = bool(connection.exists(WORKERS_SUSPENDED))
        return Backend(conf.queue, address, "", length, _workers(connection), is_suspended)
    except (RedisError, OSError, ValueError) as error:  # ValueError: another program wrote something unreadable there
        return Backend(conf.queue, address, str(error) or type(error).__name__)


def _workers(connection: Redis) -> tuple[Worker, ...]:
    keys = sorted(get_keys(connection=connection))[:MAX_WORKERS]
    hashes = _pipeline(connection, "hgetall", keys)
    found = [(key, decode_redis_hash(raw, decode_values=True)) for key, raw in zip(keys, hashes, strict=True) if raw]
    ids = [values["current_job"] for _, values in found if values.get("current_job")]
    descriptions = _pipeline(connection, "hget", [Job.key_for(job_id) for job_id in ids], "description")
    jobs = {
        job_id: (raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw or "")).partition("(")[0]
        for job_id, raw in zip(ids, descriptions, strict=True)
    }
    return tuple(_worker(key, values, jobs) for key, values in found if not values.get("death"))


def _pipeline(connection: Redis, command: str, keys: Iterable[Any], *arguments: str) -> list[Any]:
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            getattr(pipe, command)(key, *arguments)
        return list(pipe.execute())


def _worker(key: str, values: dict[str, str], jobs: dict[str, str]) -> Worker:
    job_id = values.get("current_job", "")
    heartbeat = _host_time(values.get("last_heartbeat"))
    return Worker(
        name=key.rpartition(":worker:")[2],
        queues=tuple(name for name in values.get("queues", "").split(",") if name),
        is_shipped=bool(values.get(CLASS_FIELD)),
        state=values.get("state", "?"),
        born=_host_time(values.get("birth")),
        last_heartbeat=heartbeat,
        silence=(timezone.now() - heartbeat).total_seconds() if heartbeat else 0.0,
        host=values.get("hostname", ""),
        pid=values.get("pid", ""),
        job=jobs.get(job_id) or job_id,
    )


def _host_time(text: str | None) -> datetime | None:
    """Parse a time of rq, and make it naive if ``USE_TZ`` is off."""
    moment = utcparse(text) if text else None
    return timezone.make_naive(moment) if moment and not settings.USE_TZ else moment
