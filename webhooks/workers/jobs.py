"""Wake-ups: the RQ job that makes a worker look for work. It carries no data.

The path of ``drain`` is stored in Redis with every queued job: do not rename it.
"""

from __future__ import annotations

import functools
import math
import time
import uuid
from collections.abc import Callable
from typing import Any

import django
import django_rq
from django.core.signals import setting_changed
from django.db import Error, connections
from django.dispatch import receiver
from django_rq.jobs import get_job_class
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job

from webhooks import hooks
from webhooks.ground.conf import conf
from webhooks.ground.db import is_postgresql
from webhooks.ground.errors import Outage, describe_error, get_logger, reraise_job_timeout
from webhooks.models import Event
from webhooks.workers.network.loop import call_in_thread
from webhooks.workers.redis import Backoff, connect_with_timeout, looks_up_names
from webhooks.workers.runner import DeliveryRunner, has_more

logger = get_logger(__name__)

DRAIN = "webhooks.workers.jobs.drain"

# The channel of LISTEN and NOTIFY, for workers without rq. The same for all, as the tables are.
CHANNEL = "rq_webhooks"

# Ids of wake-ups begin with this, so that a worker need not ask Redis what the job is.
ID_PREFIX = "webhooks-wake-up-"

# A wake-up that is lost with its worker prevents others for at most this many seconds.
FLAG_SECONDS = 5

# If changes follow each other within this time (seconds), a wake-up is probably queued already.
BURST_SECONDS = 0.05

# A drain on the stock worker may last longer than its slice by twice the longest timeout of a webhook. Without Redis,
# it begins no slice in the second half.
JOB_SECONDS = 600

# Seconds without another try of Redis after it failed: saves skip it meanwhile.
PAUSE = 5.0

# A drain that could do nothing rests for so many seconds, if something is due: another session may have locked it.
SECONDS_BETWEEN_LOOKS = 1.0

backoff = Backoff(
    logger,
    "Events are recorded all the same. They go out when a worker looks for them; the stock rq worker only does so "
    "after a wake-up",
)

# Outages of what else wakes workers: LISTEN and NOTIFY, and the backend of Django's tasks.
_notifications, _tasks = Outage(logger), Outage(logger)

# The time of the last change in this process, by queue.
_changed: dict[str, float] = {}


def wake_up(**_signal: object) -> bool:
    """Wake a worker, unless a wake-up is queued already. Returns whether one is queued now. Does not wait for an
    unavailable Redis, and raises nothing but the time limit of a job. The setting ``WAKE_UP`` says how."""
    if waker := WAKERS.get(conf.wake_up):
        return waker()
    if backoff.is_active:
        return False
    try:
        rq_queue = _queue(conf.queue)
        if looks_up_names(rq_queue.connection):
            call_in_thread(lambda: _push(rq_queue), 2 * conf.redis_timeout)
        else:
            _push(rq_queue)
    except TimeoutError:
        backoff.failed(TimeoutError("the name of its host takes too long to resolve"), PAUSE)
    except (RedisError, OSError) as error:
        backoff.failed(error, PAUSE)
    except Exception as error:
        reraise_job_timeout(error)
        # For example, the process cannot start a thread. The commit that calls this must go on.
        logger.exception("No worker could be woken. Workers of the shipped class find the events by themselves")
    else:
        backoff.succeeded()
        return True
    return False


def wake_up_if_due() -> None:
    """Wake a worker if there is work."""
    if has_more():
        wake_up()


def _push(rq_queue: Queue) -> None:
    if not rq_queue.is_async:
        rq_queue.enqueue_call(DRAIN)
        return
    connection, flag = rq_queue.connection, _flag(rq_queue.name)
    if _is_in_burst(rq_queue.name) and connection.exists(flag):
        return  # cheaper than to make a job
    with connection.pipeline() as pipe:  # collects the commands of rq without sending them
        job_id = f"{ID_PREFIX}{uuid.uuid4()}"
        rq_queue.enqueue_call(DRAIN, timeout=JOB_SECONDS, result_ttl=0, failure_ttl=3600, job_id=job_id, pipeline=pipe)
        words = [word for command, _ in pipe.command_stack for word in (len(command), *command)]
    connection.register_script(PUSH)(keys=[flag], args=[FLAG_SECONDS, *words])


def _is_in_burst(queue: str) -> bool:
    """Whether the last change was a moment ago. Notes the time of this one."""
    now = time.monotonic()
    before, _changed[queue] = _changed.get(queue, -math.inf), now
    return now - before < BURST_SECONDS


# Sets the flag and runs the commands of rq in one atomic step: a flag without a job would stop all wake-ups. A Redis
# transaction cannot decide on the flag, and WATCH would delay a save by three more round trips. Before each command
# comes its number of words.
PUSH = """
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then return 0 end
local at = 2
while ARGV[at] do
    redis.call(unpack(ARGV, at + 1, at + ARGV[at]))
    at = at + ARGV[at] + 1
end
return 1
"""


@functools.cache
def _queue(name: str) -> Queue:
    connection = connect_with_timeout(name, conf.redis_timeout)
    found: Queue = django_rq.get_queue(name, commit_mode="auto", connection=connection)
    return found


def _flag(name: str) -> str:
    return f"webhooks:wake-up:{name}"


@receiver(setting_changed)
def _forget_connections(setting: str, **kwargs: Any) -> None:
    if setting in ("RQ_QUEUES", "WEBHOOKS"):
        _queue.cache_clear()


def clear_flag() -> None:
    """Let the next change push a wake-up. A worker calls this before it looks for work, never after."""
    try:
        _queue(conf.queue).connection.delete(_flag(conf.queue))
    except (RedisError, OSError) as error:
        backoff.failed(error, PAUSE)  # the flag expires anyway


def is_wake_up(job_id: str) -> bool:
    return job_id.startswith(ID_PREFIX)


@functools.cache
def unless_wake_up(job_class: type[Job]) -> type[Job]:
    """A job class that fetches jobs from Redis, except for wake-ups: they have no data, and the worker drops them."""

    class DequeuedJob(job_class):  # type: ignore[misc, valid-type]
        @classmethod
        def fetch(cls, id: str, connection: Redis, *args: Any, **kwargs: Any) -> Job:
            if is_wake_up(id):
                return job_class(id, connection=connection)
            return job_class.fetch(id, connection, *args, **kwargs)

    return DequeuedJob


def job_class_problem() -> str:
    """Why jobs of the class in ``RQ["JOB_CLASS"]`` run no wake-up; empty if they do. A class for other kinds of jobs
    may refuse it."""
    try:
        get_job_class().create(DRAIN, connection=Redis()).func  # noqa: B018 # connects to nothing
    except Exception as error:
        return describe_error(error)
    return ""


def drop_wake_up(job: Job, queue: Queue) -> None:
    """Drop a wake-up without running it, for a worker that looks for work itself. The next change pushes another."""
    with job.connection.pipeline() as pipe:
        pipe.delete(_flag(queue.name), job.key)
        # rq keeps here what a worker has taken from its only queue and not started.
        pipe.lrem(queue.intermediate_queue_key, 1, job.id)
        pipe.execute()


# Workers without rq. A wake-up is a hint, so none of these raises anything but the time limit of a job.


def notify() -> bool:
    """Notify the workers of ``manage.py webhooks_worker``. Returns whether they are woken. On SQLite they look by
    themselves."""
    using = Event.objects.db
    if not is_postgresql(using):
        return True
    try:
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])
    except Error as error:
        _notifications.failed("No worker could be notified: %s. Workers look by themselves", error)
        return False
    _notifications.succeeded("Workers can be notified again")
    return True


def enqueue_task() -> bool:
    """Let a worker of Django's tasks run ``drain``."""
    try:
        drain_as_task.enqueue()
    except Exception as error:
        reraise_job_timeout(error)
        _tasks.failed("No task could be enqueued, so no worker is woken: %s", describe_error(error))
        return False
    _tasks.succeeded("Tasks can be enqueued again")
    return True


# How workers are woken, if not by a job of rq.
WAKERS: dict[str, Callable[[], bool]] = {"database": notify, "tasks": enqueue_task}


def drain() -> None:
    """Send the due deliveries, for one slice. A wake-up runs this job on the stock worker.

    Another wake-up goes on with the rest, so that jobs of other queues have their turn. Without Redis there is
    none, so this job goes on itself.
    """
    if not conf.enabled:
        return
    if conf.wake_up == "rq":
        clear_flag()
    end = time.monotonic() + JOB_SECONDS / 2
    while True:
        has_worked = _drain_slice()
        if not has_more():
            return
        if not has_worked:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if wake_up() or time.monotonic() > end:
            return


def _drain_slice() -> bool:
    """Send for one slice. Returns whether there was something to do."""
    runner = DeliveryRunner()
    try:
        runner.run(conf.slice)
        runner.finish()
    finally:
        try:
            runner.close(grace=0)
        finally:  # the database may be away
            hooks.end_job()
    return bool(runner.attempted) or not runner.is_idle


if django.VERSION >= (6,):
    from django.tasks import task

    @task()
    def drain_as_task() -> None:
        """``drain``, as a task of Django."""
        drain()
