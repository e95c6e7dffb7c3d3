"""The shipped worker class: an rq worker that also delivers by itself.

Between its jobs it looks for Events and Deliveries, so that it needs no wake-up, no scheduler and no second
daemon; it runs wake-ups without a fork and keeps its connections. Jobs of others run as on rq's own worker.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import DatabaseError, connections
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, SimpleWorker, Worker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks import jobs
from webhooks.conf import conf
from webhooks.drain import Drain

# Seconds that in-flight requests have to finish after SIGTERM; supervisord's stopwaitsecs must be longer.
WARM_SECONDS = 12

HEARTBEAT_SECONDS = 10


class WebhookWorker(Worker):
    """Set it in ``RQ["WORKER_CLASS"]``, or by ``rqworker --worker-class webhooks.workers.WebhookWorker``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drain = Drain(self.name)
        self._is_delivering = False
        self._beat = 0.0
        self._redis_is_away = False

    @property
    def dequeue_timeout(self) -> int:
        # Also bounds how long a read from a Redis that went silent may take.
        return 5

    def work(self, *args: Any, **kwargs: Any) -> bool:
        with jobs.worker_drains():
            return super().work(*args, **kwargs)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Deliver until a job of somebody else comes. ``timeout`` None is rq's burst mode: stop when all is done."""
        idle_since = time.monotonic()
        self._stay_in_touch(WorkerStatus.IDLE)
        while not self._stop_requested:
            self._deliver()
            if not self._drain.is_idle:
                idle_since = time.monotonic()
            found = self._dequeue(wait=timeout is not None and self._drain.is_idle)
            if found:
                return found
            is_done = timeout is None and self._drain.is_idle
            if is_done or (max_idle_time and time.monotonic() - idle_since > max_idle_time):
                return None
        raise StopRequested

    def execute_job(self, job: Job, queue: Queue) -> None:
        if job.func_name == jobs.DRAIN:
            SimpleWorker.execute_job(self, job, queue)  # type: ignore[arg-type]
            return
        # Its requests cannot be recorded while this process waits for the child, which must not share its
        # database connection either.
        self._drain.close(grace=WARM_SECONDS)
        self._drain = Drain(self.name)
        connections.close_all()
        super().execute_job(job, queue)

    def teardown(self) -> None:
        self._drain.close(grace=WARM_SECONDS)
        super().teardown()

    def _shutdown(self) -> None:
        self._drain.stop()
        if self._is_delivering:
            self._stop_requested = True  # an exception here would tear a transaction apart
        else:
            super()._shutdown()

    def _deliver(self) -> None:
        if not conf.enabled:
            return
        self._is_delivering = True
        try:
            self._drain.run(conf.slice)
        except DatabaseError as error:
            self.log.warning("Worker %s: the database does not answer (%s), trying again", self.name, error)
            connections.close_all()
            time.sleep(1)
        finally:
            self._is_delivering = False

    def _dequeue(self, wait: bool) -> tuple[Job, Queue] | None:
        try:
            self._stay_in_touch()
            found = self.queue_class.dequeue_any(
                self._ordered_queues,
                conf.idle_poll if wait else None,  # type: ignore[arg-type]  # Redis takes fractions
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except DequeueTimeout:
            found = None
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._note_redis(error)
            time.sleep(conf.idle_poll)
            return None
        self._note_redis(None)
        return self._took(*found) if found else None

    def _took(self, job: Job, queue: Queue) -> tuple[Job, Queue]:
        self.reorder_queues(reference_queue=queue)
        job.redis_server_version = self.get_redis_server_version()
        if job.func_name == jobs.DRAIN:
            jobs.clear_flag()
            self._deliver()
        else:
            self.log.info("%s: %s (%s)", queue.name, job.description, job.id)
        return job, queue

    def _stay_in_touch(self, state: WorkerStatus | None = None) -> None:
        if state:
            self.set_state(state)
        if time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            self.heartbeat()
            self._beat = time.monotonic()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()

    def _note_redis(self, error: Exception | None) -> None:
        if error and not self._redis_is_away:
            self.log.warning("Worker %s: Redis does not answer (%s); delivering without it", self.name, error)
        self._redis_is_away = error is not None
