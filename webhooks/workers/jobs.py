"""Wake-ups: the RQ job that makes a worker look for work. It carries no data.

The path of ``drain`` is stored in Redis with every queued job: do not rename it.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import django_rq
from django.core.signals import setting_changed
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import RedisError
from rq import Queue, get_current_job
from rq.job import Job

from webhooks.conf import conf
from webhooks.delivery.worker import DeliveryRunner, has_more
from webhooks.logs import get_logger
from webhooks.workers.redis import connect_with_timeout, describe_outage, sentinels

logger = get_logger(__name__)

DRAIN = "webhooks.workers.jobs.drain"

# A wake-up that is lost with its worker prevents others for at most this many seconds.
FLAG_SECONDS = 5

# A drain on the stock worker may last longer than its slice by twice the longest timeout of a webhook.
JOB_SECONDS = 600


class RedisBackoff:
    """Makes saves skip Redis for ``REDIS_PAUSE`` after it failed, and logs one warning for each outage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._has_failed = False

    @property
    def is_active(self) -> bool:
        return time.monotonic() < self._until

    def failed(self, error: Exception) -> None:
        with self._lock:
            self._until = time.monotonic() + conf.redis_pause
            is_new, self._has_failed = not self._has_failed, True
        if is_new:
            logger.warning(
                "%s. Events are recorded all the same. They go out when a worker looks for them; the stock rq worker "
                "only does so after a wake-up.", describe_outage(error),
            )  # fmt: skip

    def succeeded(self) -> None:
        if self._has_failed:
            self._has_failed = False
            logger.warning("Redis answers again.")


backoff = RedisBackoff()


def wake_up() -> None:
    """Wake a worker, unless a wake-up is queued already. Never raises, and does not wait for an unavailable Redis."""
    if backoff.is_active:
        return
    try:
        _run_with_timeout(lambda: _push(_queue(conf.queue)))
    except (RedisError, OSError) as error:
        backoff.failed(error)
    except Exception:
        # For example, the process cannot start a thread. The commit that calls this must go on.
        logger.exception("No worker could be woken. Workers of the shipped class find the events by themselves")
    else:
        backoff.succeeded()


def wake_up_if_due() -> None:
    """Wake a worker if there is work."""
    if has_more():
        wake_up()


def _run_with_timeout(push: Callable[[], None]) -> None:
    """Call ``push``. Raises its exceptions, and TimeoutError.

    The connection has its own timeouts. But the lookup of a host name cannot be interrupted, so a thread waits for it.
    """
    if not _needs_lookup(_queue(conf.queue).connection):
        push()
        return
    results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            push()
        except Exception as error:
            results.put(error)
        else:
            results.put(None)

    threading.Thread(target=run, name="webhooks-wake-up", daemon=True).start()
    try:
        error = results.get(timeout=2 * conf.redis_timeout)
    except queue.Empty:
        raise TimeoutError("the name of its host takes too long to resolve") from None
    if error:
        raise error


def _needs_lookup(connection: Redis) -> bool:
    """Whether the host is a name. True for Sentinels too: several of them may have to time out."""
    host = connection.connection_pool.connection_kwargs.get("host", "localhost")
    is_name = host != "localhost" and not host.replace(".", "").isdecimal() and ":" not in host
    return is_name or bool(sentinels(connection))


def _push(rq_queue: Queue) -> None:
    if not rq_queue.is_async:
        rq_queue.enqueue_call(DRAIN)
        return
    if rq_queue.connection.exists(_flag(rq_queue.name)):
        return  # after the first of many changes, this is one round trip, and cheaper than to make a job
    with rq_queue.connection.pipeline() as pipe:  # collects the commands of rq without sending them
        rq_queue.enqueue_call(DRAIN, timeout=JOB_SECONDS, result_ttl=0, failure_ttl=3600, pipeline=pipe)
        words = [word for command, _ in pipe.command_stack for word in (len(command), *command)]
    _push_script(rq_queue.name)(keys=[_flag(rq_queue.name)], args=[FLAG_SECONDS, *words])


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
def _push_script(name: str) -> Script:
    return _queue(name).connection.register_script(PUSH)


@functools.cache
def _queue(name: str) -> Queue:
    connection = connect_with_timeout(name, conf.redis_timeout)
    found: Queue = django_rq.get_queue(name, commit_mode="auto", connection=connection)
    return found


def _flag(name: str) -> str:
    return f"webhooks:wake-up:{name}"


def _forget_connections(setting: str, **kwargs: Any) -> None:
    if setting in ("RQ_QUEUES", "WEBHOOKS"):
        _queue.cache_clear()
        _push_script.cache_clear()


setting_changed.connect(_forget_connections)


def clear_flag() -> None:
    """Let the next change push a wake-up. A worker calls this before it looks for work, never after."""
    try:
        _queue(conf.queue).connection.delete(_flag(conf.queue))
    except (RedisError, OSError) as error:
        backoff.failed(error)  # the flag expires anyway


def drop_wakeup(job: Job, queue: Queue) -> None:
    """Drop a wake-up without running it, for a worker that looks for work itself. The next change pushes another."""
    with job.connection.pipeline() as pipe:
        pipe.delete(_flag(queue.name), job.key)
        # rq keeps here what a worker has taken from its only queue and not started.
        pipe.lrem(queue.intermediate_queue_key, 1, job.id)
        pipe.execute()


def drain() -> None:
    """Deliver what is due, for one slice. A wake-up runs this job on the stock worker."""
    if not conf.enabled:
        return
    clear_flag()
    job = get_current_job()
    runner = DeliveryRunner(str(job.worker_name) if job and job.worker_name else "")
    try:
        runner.run(conf.slice)
        runner.finish()
    finally:
        runner.close(grace=0)
    wake_up_if_due()
