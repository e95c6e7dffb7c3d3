"""An rq worker that survives outages of Redis, and that no signal interrupts in the middle of a step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks.workers.redis import describe_outage, is_unavailable

# Seconds between two tries of an unavailable Redis, and until a Redis that does not answer counts as unavailable.
REDIS_RETRY_SECONDS = 2
REDIS_TIMEOUT = 5


def _surviving_outages(name: str) -> Callable[..., None]:
    """The method ``name`` of rq's Worker; it only logs if Redis is unavailable."""

    def method(self: ResilientWorker, *args: Any, **kwargs: Any) -> None:
        with self.surviving_outages():
            getattr(super(ResilientWorker, self), name)(*args, **kwargs)

    return method


class ResilientWorker(Worker):
    """Checks ``_stop_requested`` wherever it waits, and raises ``StopRequested`` where it is safe to stop."""

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        connection: Redis = kwargs["connection"]
        # Without these, redis-py retries for seconds, and the deliveries wait.
        timeouts = {"retry": Retry(NoBackoff(), 0), "socket_connect_timeout": 1, "socket_timeout": REDIS_TIMEOUT}
        connection.connection_pool.connection_kwargs.update(timeouts)
        super().__init__(queues, **kwargs)
        self._horse_exit: tuple[Any, ...] | None = None  # what wait4 returned for the work horse
        self._retry_redis_at = 0.0  # monotonic time of the next try; 0 while Redis answers

    @property
    def connection_timeout(self) -> int:
        return REDIS_TIMEOUT

    check_for_suspension = _surviving_outages("check_for_suspension")
    run_maintenance_tasks = _surviving_outages("run_maintenance_tasks")
    heartbeat = _surviving_outages("heartbeat")
    maintain_heartbeats = _surviving_outages("maintain_heartbeats")
    set_current_job_working_time = _surviving_outages("set_current_job_working_time")  # rq 2
    teardown = _surviving_outages("teardown")

    def _set_ip_address(self, connection: Redis) -> None:
        """rq asks Redis for the address in ``__init__``."""
        try:
            super()._set_ip_address(connection)
        except RedisError as error:
            if not is_unavailable(error):
                raise
            self.ip_address = "unknown"

    def execute_job(self, *args: Any) -> None:
        with self.surviving_outages():
            super().execute_job(*args)
        self.execution = None  # if the job could not start, rq would take the next job for this execution

    def _shutdown(self) -> None:
        """Raise nothing, unlike rq: an exception here could break a transaction or lose a job that was just taken."""
        self._stop_requested = True
        if self.get_state() == WorkerStatus.BUSY:
            with self.surviving_outages():
                super()._shutdown()

    def _has_horse_ended(self) -> bool:
        try:
            result = os.wait4(self.horse_pid, os.WNOHANG)
        except ChildProcessError:
            return True
        self._horse_exit = result if result[0] else None
        return self._horse_exit is not None

    def wait_for_horse(self) -> tuple[Any, ...]:
        result, self._horse_exit = self._horse_exit, None  # wait4 returns it only once
        return result or super().wait_for_horse()

    def _requeue(self, job: Job, queue: Queue) -> None:
        """Put a job that has not started back to the front of its queue."""
        with self.surviving_outages(), self.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            queue.push_job_id(job.id, pipeline=pipe, at_front=True)
            pipe.execute()

    @contextmanager
    def surviving_outages(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            if not is_unavailable(error):
                raise
            self._redis_failed(error)

    def _redis_failed(self, error: RedisError) -> None:
        if not self._retry_redis_at:
            self.log.warning("%s: delivering without it", describe_outage(error))
        self._retry_redis_at = time.monotonic() + REDIS_RETRY_SECONDS

    def _redis_answered(self) -> None:
        if self._retry_redis_at:
            self.log.warning("Redis answers again")
        self._retry_redis_at = 0.0
