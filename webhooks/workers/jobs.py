"""Wake-ups: the RQ job that tells a worker there is something to do. It carries no data.

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
from webhooks.delivery.worker import Drain, has_more
from webhooks.logs import get_logger
from webhooks.workers.redis import impatient, in_words, sentinels

logger = get_logger(__name__)

DRAIN = "webhooks.workers.jobs.drain"

# A wake-up that is lost with its worker keeps others away for this many seconds at the most.
FLAG_SECONDS = 5

# A drain on the stock worker may outlast its slice by the longest timeout of a webhook, twice.
JOB_SECONDS = 600


class Outage:
    """Remembers that Redis failed, so that saves leave it alone for a while and one warning is logged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._is_out = False

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._until

    def began(self, error: Exception) -> None:
        with self._lock:
            self._until = time.monotonic() + conf.redis_pause
            is_new, self._is_out = not self._is_out, True
        if is_new:
            logger.warning(
                "%s. Events are recorded all the same; they go out when a worker looks for them, which the stock rq "
                "worker does only when it is woken.", in_words(error),
            )  # fmt: skip

    def ended(self) -> None:
        if self._is_out:
            self._is_out = False
            logger.warning("Redis answers again.")


outage = Outage()


def wake_up() -> None:
    """Wake a worker, unless a wake-up waits already. Never raises, and never waits for a Redis that is away."""
    if not outage.is_over:
        return
    try:
        _in_time(lambda: _push(_queue(conf.queue)))
    except (RedisError, OSError) as error:
        outage.began(error)
    except Exception:
        # A process that gets no thread any more, for one: it would fail the commit that it hangs on.
        logger.exception("No worker could be woken. The shipped worker class finds Events all the same")
    else:
        outage.ended()


def wake_up_if_due() -> None:
    """Wake a worker when there is something to do for it."""
    if has_more():
        wake_up()


def unreachable() -> str:
    """Why Redis cannot be reached, or nothing."""
    try:
        _queue(conf.queue).connection.ping()
    except Exception as error:
        # Whatever a host wrote into RQ_QUEUES: the check that tells of it must not fail on it.
        return str(error) or type(error).__name__
    return ""


def _in_time(work: Callable[[], None]) -> None:
    """Run it within what a save may lose. Raises whatever it raises, and TimeoutError.

    Redis keeps to its timeouts by itself; what may take longer is the resolver of its host's name, which cannot be
    interrupted, so another thread waits for that."""
    if not _has_name(_queue(conf.queue).connection):
        work()
        return
    ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    threading.Thread(target=_report, args=(work, ends), name="webhooks-wake-up", daemon=True).start()
    try:
        error = ends.get(timeout=2 * conf.redis_timeout)
    except queue.Empty:
        raise TimeoutError("the name of its host takes too long to resolve") from None
    if error:
        raise error


def _report(work: Callable[[], None], ends: queue.SimpleQueue[Exception | None]) -> None:
    try:
        work()
    except Exception as error:
        ends.put(error)
    else:
        ends.put(None)


def _has_name(connection: Redis) -> bool:
    if sentinels(connection):
        return True  # and one after the other may have to be asked
    host = connection.connection_pool.connection_kwargs.get("host", "localhost")
    return host != "localhost" and not host.replace(".", "").isdecimal() and ":" not in host


def _push(rq_queue: Queue) -> None:
    if not rq_queue.is_async:
        rq_queue.enqueue_call(DRAIN)
        return
    if rq_queue.connection.exists(_flag(rq_queue.name)):
        return  # a burst of changes ends here, each with one round trip: making a job costs more than that
    with rq_queue.connection.pipeline() as pipe:  # only gathers what rq would send
        rq_queue.enqueue_call(DRAIN, timeout=JOB_SECONDS, result_ttl=0, failure_ttl=3600, pipeline=pipe)
        words = [word for command, _ in pipe.command_stack for word in (len(command), *command)]
    _push_script(rq_queue.name)(keys=[_flag(rq_queue.name)], args=[FLAG_SECONDS, *words])


# The flag is looked at again and set in one step with the push: a flag without a job would keep everybody asleep. No
# transaction of Redis can decide that, and watching the flag takes three more round trips, while a save waits for
# each. So rq's commands come along as words, each command with their number before it.
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


def clear_flag() -> None:
    """From now on a change pushes another wake-up: called before a worker looks for work, never after."""
    try:
        _queue(conf.queue).connection.delete(_flag(conf.queue))
    except (RedisError, OSError) as error:
        outage.began(error)  # it expires by itself


def swallow(job: Job, queue: Queue) -> None:
    """Drop a wake-up without running it, for a worker that looks for work by itself; the next change pushes another."""
    with job.connection.pipeline() as pipe:
        pipe.delete(_flag(queue.name), job.key)
        # Where rq keeps what a worker has taken from its only queue and not begun yet.
        pipe.lrem(queue.intermediate_queue_key, 1, job.id)
        pipe.execute()


def _flag(queue: str) -> str:
    return f"webhooks:wake-up:{queue}"


@functools.cache
def _queue(name: str) -> Queue:
    found: Queue = django_rq.get_queue(name, commit_mode="auto", connection=impatient(name, conf.redis_timeout))
    return found


def _forget_connections(setting: str, **kwargs: Any) -> None:
    if setting in ("RQ_QUEUES", "WEBHOOKS"):
        _queue.cache_clear()
        _push_script.cache_clear()


setting_changed.connect(_forget_connections)


def drain() -> None:
    """Deliver what is due, for a slice. This is the job that a wake-up runs on the stock worker."""
    if not conf.enabled:
        return
    clear_flag()
    job = get_current_job()
    work = Drain(str(job.worker_name) if job and job.worker_name else "")
    try:
        work.run(conf.slice)
        work.finish()
    finally:
        work.close(grace=0)
    wake_up_if_due()
