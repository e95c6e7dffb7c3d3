"""An rq worker that outlives a Redis that is away, and that no signal interrupts in the midst of something."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks.workers import redis

# Seconds between two tries of a Redis that is away, and until one that does not answer counts as away.
REDIS_RETRY_SECONDS = 2
REDIS_SECONDS = 5


class PatientWorker(Worker):
    """It looks at ``_stop_requested`` wherever it waits, and ends at a ``StopRequested`` of its own."""

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        connection: Redis = kwargs["connection"]
        # redis-py would go on trying for seconds, which the deliveries have better use for.
        patience = {"retry": Retry(NoBackoff(), 0), "socket_connect_timeout": 1, "socket_timeout": REDIS_SECONDS}
        connection.connection_pool.connection_kwargs.update(patience)
        super().__init__(queues, **kwargs)
        self._horse_end: tuple[Any, ...] | None = None  # what the system said of it
        self._redis_since = 0.0  # when Redis is next to be tried; 0 while it answers

    @property
    def connection_timeout(self) -> int:
        return REDIS_SECONDS

    def _set_ip_address(self, connection: Redis) -> None:
        """rq asks Redis for it when a worker is made, and would end where Redis is away."""
        try:
            super()._set_ip_address(connection)
        except RedisError as error:
            if not redis.is_away(error):
                raise
            self.ip_address = "unknown"

    def check_for_suspension(self, burst: bool) -> None:
        with self._redis_may_be_away():
            super().check_for_suspension(burst)

    def run_maintenance_tasks(self) -> None:
        with self._redis_may_be_away():
            super().run_maintenance_tasks()

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        with self._redis_may_be_away():
            super().heartbeat(*args, **kwargs)

    def maintain_heartbeats(self, *args: Any) -> None:
        with self._redis_may_be_away():
            super().maintain_heartbeats(*args)

    def set_current_job_working_time(self, *args: Any, **kwargs: Any) -> None:
        """rq 2 tells Redis of it while it waits for a job's process, and would leave that to itself."""
        with self._redis_may_be_away():
            super().set_current_job_working_time(*args, **kwargs)  # type: ignore[misc]

    def execute_job(self, *args: Any) -> None:
        with self._redis_may_be_away():
            super().execute_job(*args)
        self.execution = None  # where it could not begin, the next job would be taken for it

    def teardown(self) -> None:
        with self._redis_may_be_away():
            super().teardown()

    def _shutdown(self) -> None:
        """No exception, as rq raises it: it would tear a transaction apart, or lose a job that has just been taken."""
        self._stop_requested = True
        if self.get_state() == WorkerStatus.BUSY:
            with self._redis_may_be_away():
                super()._shutdown()

    def _has_horse_ended(self) -> bool:
        try:
            end = os.wait4(self.horse_pid, os.WNOHANG)
        except ChildProcessError:
            return True
        self._horse_end = end if end[0] else None
        return self._horse_end is not None

    def wait_for_horse(self) -> tuple[Any, ...]:
        end, self._horse_end = self._horse_end, None  # the system tells it once
        return end or super().wait_for_horse()

    def _give_back(self, job: Job, queue: Queue) -> None:
        """Put a job that has not begun to where it was taken from."""
        with self._redis_may_be_away(), self.connection.pipeline() as pipe:
            pipe.lrem(queue.intermediate_queue_key, 1, job.id)
            queue.push_job_id(job.id, pipeline=pipe, at_front=True)
            pipe.execute()

    @contextmanager
    def _redis_may_be_away(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            if not redis.is_away(error):
                raise
            self._redis_failed(error)

    def _redis_failed(self, error: RedisError) -> None:
        if not self._redis_since:
            self.log.warning("%s: delivering without it", redis.in_words(error))
        self._redis_since = time.monotonic() + REDIS_RETRY_SECONDS

    def _redis_answered(self) -> None:
        if self._redis_since:
            self.log.warning("Redis answers again")
        self._redis_since = 0.0
