"""What Redis and rq say about themselves, for the status page: plain values, and never an exception."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import decode_redis_hash, utcparse
from rq.worker import WorkerStatus
from rq.worker_registration import get_keys

from webhooks.conf import conf
from webhooks.workers.redis import impatient

# Seconds that a page may wait for Redis, for the connection and for each answer.
TIMEOUT = 0.5

# More workers than this are not shown.
MOST_WORKERS = 200

# Seconds without a sign of life after which a worker is silent. The shipped one gives one every ten seconds;
# an idle stock worker every 405, and Redis forgets it after 480.
SILENT_SHIPPED, SILENT_STOCK = 60, 470

# The field of an rq worker's hash in Redis by which the shipped class tells that it is it.
CLASS_FIELD = "worker_class"


@dataclass(frozen=True)
class Worker:
    """An rq worker as it registered itself. ``queues`` are names; ``job`` describes what it runs, or is empty;
    ``silence`` is the time since its last sign of life, in seconds."""

    name: str
    queues: tuple[str, ...] = ()
    is_shipped: bool = False
    state: str = ""
    born: datetime | None = None
    last_heartbeat: datetime | None = None
    silence: float = 0.0
    host: str = ""
    pid: str = ""
    job: str = ""

    @property
    def is_silent(self) -> bool:
        """Whether it should have been heard of since: it hangs, or it was killed."""
        return self.silence > (SILENT_SHIPPED if self.is_shipped else SILENT_STOCK)

    @property
    def is_suspended(self) -> bool:
        """Whether it waits for ``rq resume``. One of the shipped class that ran before goes on."""
        return self.state == WorkerStatus.SUSPENDED


@dataclass(frozen=True)
class Backend:
    """``error`` says in words why Redis could not be asked; ``wake_ups`` is the length of the queue; ``is_suspended``
    whether somebody has suspended the workers of this Redis."""

    queue: str
    address: str = ""
    error: str = ""
    wake_ups: int = 0
    workers: tuple[Worker, ...] = ()
    is_suspended: bool = False

    @property
    def serving(self) -> list[Worker]:
        """The workers that are alive and serve the queue of the wake-ups."""
        listening = [worker for worker in self.workers if self.queue in worker.queues]
        return [worker for worker in listening if not worker.is_silent and not worker.is_suspended]


def read() -> Backend:
    """Ask Redis. Takes about a second at the most, and says what went wrong in ``error``."""
    try:
        connection = impatient(conf.queue, TIMEOUT)
    except Exception as error:
        # Whatever a host wrote into RQ_QUEUES: the page that tells of it must not fail on it.
        return Backend(conf.queue, error=_misconfigured(error))
    try:
        queue = Queue(conf.queue, connection=connection)
        is_suspended = bool(connection.exists(WORKERS_SUSPENDED))
        return Backend(conf.queue, _address(connection), "", queue.count, _workers(connection), is_suspended)
    except (RedisError, OSError, ValueError) as error:  # ValueError: what somebody else wrote there cannot be read
        return Backend(conf.queue, _address(connection), str(error) or type(error).__name__)


def _misconfigured(error: Exception) -> str:
    if conf.queue not in getattr(settings, "RQ_QUEUES", {}):
        return f"the setting RQ_QUEUES has no queue {conf.queue!r}"
    return f"the setting RQ_QUEUES[{conf.queue!r}] is not usable: {type(error).__name__}: {error}"


def _address(connection: Redis) -> str:
    """Where Redis is, without user and password."""
    known = connection.connection_pool.connection_kwargs
    place = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    return f"{place}, database {known.get('db') or 0}"  # django-rq passes None where a URL names no database


def _workers(connection: Redis) -> tuple[Worker, ...]:
    keys = sorted(get_keys(connection=connection))[:MOST_WORKERS]
    hashes = _all_at_once(connection, "hgetall", keys)
    found = [(key, decode_redis_hash(raw, decode_values=True)) for key, raw in zip(keys, hashes, strict=True) if raw]
    jobs = _jobs(connection, [values["current_job"] for _, values in found if values.get("current_job")])
    return tuple(_worker(key, values, jobs) for key, values in found if not values.get("death"))


def _jobs(connection: Redis, ids: list[str]) -> dict[str, str]:
    """What the jobs with these ids are, without the arguments of their calls: those are not ours to show."""
    described = _all_at_once(connection, "hget", [Job.key_for(job_id) for job_id in ids], "description")
    return {
        job_id: (raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw or "")).partition("(")[0]
        for job_id, raw in zip(ids, described, strict=True)
    }


def _all_at_once(connection: Redis, command: str, keys: Iterable[Any], *arguments: str) -> list[Any]:
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            getattr(pipe, command)(key, *arguments)
        return list(pipe.execute())


def _worker(key: str, values: dict[str, str], jobs: dict[str, str]) -> Worker:
    job_id = values.get("current_job", "")
    heard_of = _moment(values.get("last_heartbeat"))
    return Worker(
        name=key.rpartition(":worker:")[2],
        queues=tuple(name for name in values.get("queues", "").split(",") if name),
        is_shipped=bool(values.get(CLASS_FIELD)),
        state=values.get("state", "?"),
        born=_moment(values.get("birth")),
        last_heartbeat=heard_of,
        silence=(timezone.now() - heard_of).total_seconds() if heard_of else 0.0,
        host=values.get("hostname", ""),
        pid=values.get("pid", ""),
        job=jobs.get(job_id) or job_id,
    )


def _moment(text: str | None) -> datetime | None:
    """The time in a worker's hash, as the project's other times are: aware or not, as USE_TZ says."""
    if not text:
        return None
    moment = utcparse(text)
    return moment if settings.USE_TZ else timezone.make_naive(moment)
