"""What the status page reads from Redis: the length of the queue, and the rq workers as they registered themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import decode_redis_hash, utcparse
from rq.worker import WorkerStatus
from rq.worker_registration import get_keys

from webhooks.ground.conf import conf
from webhooks.ground.db import to_db_time
from webhooks.ground.error_kinds import KINDS
from webhooks.ground.registry.framework import framework
from webhooks.models import Worker as Lease
from webhooks.workers.breaker import Fault
from webhooks.workers.network.attempt import Refused
from webhooks.workers.network.loop import call_in_thread
from webhooks.workers.redis import connect_with_timeout, looks_up_names, queue_problem, sentinels

# Seconds that the page waits for Redis to connect, and for each answer.
TIMEOUT = 0.5

# The page shows this many workers.
MAX_WORKERS = 200

# A worker counts as silent after these seconds without a heartbeat. The shipped class sends one every ten seconds. An
# idle stock worker sends one every 405, and Redis forgets it after 480.
SILENT_SHIPPED, SILENT_STOCK = 60, 470

# Only the shipped worker class sets these fields of its hash in Redis.
CLASS_FIELD, FAULTS_FIELD = "worker_class", "webhook_faults"

# The class of workers without rq.
DATABASE_WORKER = "webhooks.workers.database.DatabaseWorker"

# It also reports the seconds that the clock of its machine is ahead of the database's, and its attempts a minute.
CLOCK_FIELD, RATE_FIELD = "clock_offset", "webhook_rate"

# The names of the settings in which it differs from the worker that started before it. Each worker leaves hashes of its
# settings under the key.
SETTINGS_FIELD, SETTINGS_KEY = "webhook_settings", "webhooks:settings:%s"


def faults_as_json(faults: Sequence[Fault]) -> str:
    """The text of ``FAULTS_FIELD``."""
    return json.dumps([[fault.kind, fault.text, fault.since.timestamp()] for fault in faults])


def _read_faults(stored: str) -> tuple[Fault, ...]:
    try:
        return tuple(
            Fault(KINDS[kind], gettext(str(text)), to_db_time(datetime.fromtimestamp(since, UTC)))
            for kind, text, since in json.loads(stored or "[]")
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # another program or version wrote it
        return ()


def changed_settings(connection: Redis) -> list[str]:
    """The settings in which this worker differs from the one that started before it. Leaves hashes for the next one.

    Empty if there was no such worker, or Redis has lost its hashes.
    """
    values = {name: setting.__get__(conf, type(conf)) for name, setting in conf.by_key.items()}
    values["SECRET_KEY"] = (settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS)
    # Short hashes, which ``SECRET_KEY`` keys: they show no value.
    hashes = {name: salted_hmac(__name__, repr(value), algorithm="sha256") for name, value in values.items()}
    now = {name: one.hexdigest()[:8] for name, one in hashes.items()}
    before: Any = connection.getset(SETTINGS_KEY % conf.queue, json.dumps(now))
    try:
        old = dict(json.loads(before or "{}"))
    except (ValueError, TypeError):  # another program wrote it
        return []
    changed = sorted(name for name in old.keys() & now.keys() if old[name] != now[name])
    return ["SECRET_KEY"] if "SECRET_KEY" in changed else changed  # with another key, every hash differs


@dataclass(frozen=True)
class RegisteredWorker:
    """An rq worker as it registered itself."""

    name: str
    queues: tuple[str, ...] = ()
    worker_class: str = ""
    """The path of its class. Empty for a stock worker, which does not say."""
    state: str = ""
    started_at: datetime | None = None
    last_heartbeat: datetime | None = None
    silence: float = 0.0
    """Seconds since the last heartbeat."""
    clock_offset: float = 0.0
    """Seconds that its machine's clock is ahead of the database's. ``last_heartbeat`` is corrected by it."""
    per_minute: float | None = None
    """Its attempts a minute since the heartbeat before. None: a stock worker does not say."""
    host: str = ""
    pid: str = ""
    faults: tuple[Fault, ...] = ()
    """The faults of our own that it meets."""
    job: str = ""
    """The function that it runs, without arguments: those may be secret."""
    changed_settings: tuple[str, ...] = ()
    """The settings that differed from those of the worker before when it started."""

    @property
    def is_shipped(self) -> bool:
        """Whether its class is the shipped one, or inherits it."""
        return bool(self.worker_class)

    @property
    def class_name(self) -> str:
        return self.worker_class.rpartition(".")[2]

    @property
    def label(self) -> str:
        """Its machine and process, "web1:10803", or its name."""
        return f"{self.host}:{self.pid}" if self.host else self.name

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
    workers: tuple[RegisteredWorker, ...] = ()
    is_suspended: bool = False
    """Whether ``rq suspend`` stopped the workers."""
    waker: str = "rq"
    """The setting ``WAKE_UP``."""

    @property
    def start_command(self) -> str:
        """What starts a worker. Empty if the app cannot know: Django's tasks have several kinds."""
        queues = " ".join(framework().queues_of_worker(self.queue))
        commands = {"rq": f"python manage.py rqworker {queues}", "database": "python manage.py webhooks_worker"}
        return commands.get(self.waker, "")

    @property
    def faults(self) -> list[Fault]:
        """The faults of our own that live workers meet, each text once, since the earliest time."""
        latest_first = sorted(
            (fault for one in self.serving for fault in one.faults), key=lambda fault: -fault.since.timestamp()
        )
        return list({fault.text: fault for fault in latest_first}.values())

    @property
    def serving(self) -> list[RegisteredWorker]:
        """The live workers that listen to the queue."""
        listening = [worker for worker in self.workers if self.queue in worker.queues]
        return [worker for worker in listening if not worker.is_silent and not worker.is_suspended]


def read_backend(seconds: float = TIMEOUT) -> Backend:
    """Read the state of Redis, or the workers that need no Redis. Raises nothing but django.db.Error: ``error`` says
    what went wrong with Redis, such as no answer within ``seconds``."""
    if conf.wake_up != "rq":
        return Backend(conf.queue, workers=tuple(map(_reporting, Lease.objects.reporting())), waker=conf.wake_up)
    try:
        connection = connect_with_timeout(conf.queue, seconds)
    except Exception as error:  # RQ_QUEUES may hold anything, and the page must report that
        problem = gettext("the setting RQ_QUEUES[%(queue)r] is not usable: %(error)s") % {
            "queue": conf.queue,
            "error": queue_problem(conf.queue) or f"{type(error).__name__}: {error}",
        }
        return Backend(conf.queue, error=problem)
    pool: Any = connection.connection_pool
    known = pool.connection_kwargs
    place = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
    if sentinels(connection):
        place = f"{pool.service_name} (Sentinel)"
    # django-rq gives None if the URL names no database
    address = gettext("%(place)s, database %(number)s") % {"place": place, "number": known.get("db") or 0}
    try:
        if looks_up_names(connection):
            # The commands below use its connection.
            call_in_thread(connection.ping, seconds * (2 + len(sentinels(connection))))
        length = Queue(conf.queue, connection=connection).count
        is_suspended = bool(connection.exists(WORKERS_SUSPENDED))
        return Backend(conf.queue, address, "", length, _workers(connection), is_suspended)
    except TimeoutError:
        return Backend(conf.queue, address, gettext("the name of its host takes too long to resolve"))
    except (RedisError, Refused, OSError, ValueError, OverflowError) as error:  # another program may write anything
        return Backend(conf.queue, address, str(error) or type(error).__name__)


def _reporting(lease: Lease) -> RegisteredWorker:
    """A worker without rq, as it reports itself."""
    report = lease.report or {}
    offset = float(report.get("clock_offset", 0))
    heartbeat = to_db_time(datetime.fromtimestamp(float(report.get("at", 0)) - offset, UTC))
    host, _colon, pid = lease.name.rpartition(":")
    return RegisteredWorker(
        name=lease.name,
        queues=(conf.queue,),
        worker_class=DATABASE_WORKER,
        state=WorkerStatus.IDLE,
        started_at=lease.started_at,
        last_heartbeat=heartbeat,
        silence=(timezone.now() - heartbeat).total_seconds(),
        clock_offset=offset,
        per_minute=float(report.get("per_minute", 0)),
        host=host,
        pid=pid,
        faults=_read_faults(report.get("faults", "")),
    )


def _workers(connection: Redis) -> tuple[RegisteredWorker, ...]:
    keys = sorted(get_keys(connection=connection))[:MAX_WORKERS]
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)
        hashes = [decode_redis_hash(raw, decode_values=True) for raw in pipe.execute()]
        for values in hashes:
            pipe.hget(Job.key_for(values.get("current_job", "")), "description")
        descriptions = pipe.execute()
    found = zip(keys, hashes, descriptions, strict=True)
    return tuple(_worker(*one) for one in found if one[1] and not one[1].get("death"))


def _worker(key: str, values: dict[str, str], description: bytes | None) -> RegisteredWorker:
    offset = float(values.get(CLOCK_FIELD, 0))
    birth, heartbeat = _moment(values.get("birth"), offset), _moment(values.get("last_heartbeat"), offset)
    return RegisteredWorker(
        name=key.rpartition(":worker:")[2],
        queues=tuple(name for name in values.get("queues", "").split(",") if name),
        worker_class=values.get(CLASS_FIELD, ""),
        state=values.get("state", "?"),
        started_at=birth,
        last_heartbeat=heartbeat,
        silence=(timezone.now() - heartbeat).total_seconds() if heartbeat else 0.0,
        clock_offset=offset,
        per_minute=float(values[RATE_FIELD]) if RATE_FIELD in values else None,
        host=values.get("hostname", ""),
        pid=values.get("pid", ""),
        faults=_read_faults(values.get(FAULTS_FIELD, "")),
        job=(description or b"").decode("utf-8", "replace").partition("(")[0],
        changed_settings=tuple(name for name in values.get(SETTINGS_FIELD, "").split(",") if name),
    )


def _moment(stored: str | None, offset: float) -> datetime | None:
    """A moment by the clock of a worker's machine that is ``offset`` seconds ahead."""
    if not stored:
        return None
    return to_db_time(utcparse(stored) - timedelta(seconds=offset))
