"""The shipped worker class: an rq worker that also delivers without being woken.

Between its jobs it looks for events and deliveries in the database, so it needs no scheduler and no second daemon. It
drops wake-ups instead of running them, keeps its connections, and delivers while Redis is unavailable. Other jobs run
as on rq's own worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from django.db import Error, connections
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout, DeserializationError, StopRequested
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks import db
from webhooks.conf import conf
from webhooks.delivery.worker import DeliveryRunner
from webhooks.logs import get_logger
from webhooks.workers import jobs
from webhooks.workers.redis import CLASS_FIELD
from webhooks.workers.rq_worker import REDIS_RETRY_SECONDS, ResilientWorker

# Seconds for requests to end after SIGTERM; supervisord's stopwaitsecs must be longer.
WARM_SECONDS = 12

# Seconds between two heartbeats.
HEARTBEAT_SECONDS = 10

# Seconds to wait for a job while requests are being sent: their ends are noticed only afterwards.
BUSY_POLL = 0.015

# Seconds after which every wait checks whether the worker is to stop.
STOP_SECONDS = 1

# Seconds for requests to end before a job of the host starts. Most do, and a fork is safer with fewer busy threads.
# Slower requests continue while the job runs.
HAND_OVER_SECONDS = 1

logger = get_logger(__name__)


class WebhookWorker(ResilientWorker):
    """Set it in ``RQ["WORKER_CLASS"]``, or by ``rqworker --worker-class webhooks.workers.WebhookWorker``. It delivers
    if it listens to the queue of the setting ``QUEUE``."""

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        self._grace = WARM_SECONDS
        super().__init__(queues, **kwargs)
        self._runner = DeliveryRunner(self.name)
        self._next_heartbeat = 0.0
        self._is_registered = False

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register with Redis. Until that succeeds, deliver without Redis."""
        self._install_signal_handlers()
        while not self._stop_requested and not self._is_registered:
            with self.surviving_outages():
                if self._retry_redis_at:
                    self._set_ip_address(self.connection)
                    self.connection.delete(self.key)  # the first try may have written it and got no answer
                super().bootstrap(*args, **kwargs)
                self._redis_answered()
                self._is_registered = True
            until = time.monotonic() + REDIS_RETRY_SECONDS
            while not (self._is_registered or self._stop_requested) and (left := until - time.monotonic()) > 0:
                self._deliver()
                time.sleep(BUSY_POLL if self._runner.is_busy else min(left, conf.idle_poll, STOP_SECONDS))

    def register_birth(self) -> None:
        super().register_birth()
        # The status page sees by this field that the worker needs no wake-ups.
        self.connection.hset(self.key, CLASS_FIELD, f"{type(self).__module__}.{type(self).__qualname__}")

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Deliver until there is a job. ``timeout`` is None in rq's burst mode: then return once all work is done."""
        busy_at = time.monotonic()
        while not self._stop_requested:
            self._deliver()
            if self._runner.is_busy:
                busy_at = time.monotonic()
            is_burst = timeout is None
            found = self._wait_for_job(0 if is_burst else BUSY_POLL if self._runner.is_busy else conf.idle_poll)
            if found is None:
                is_done = is_burst and not self._runner.is_busy
                if is_done or (max_idle_time and time.monotonic() - busy_at > max_idle_time):
                    return None
            elif not _is_wake_up(found[0]):
                return found
        raise StopRequested

    def execute_job(self, job: Job, queue: Queue) -> None:
        self._survive_errors(lambda: self._runner.pause(HAND_OVER_SECONDS))
        if self._stop_requested:
            self._requeue(job, queue)
            raise StopRequested
        connections.close_all()  # the child process must not share them
        super().execute_job(job, queue)

    def monitor_work_horse(self, job: Job, *args: Any) -> None:
        """Wait for the child process that runs the job, and record the requests that end meanwhile.

        To wait for the requests first would delay the job by the slowest receiver. To cut them off would repeat them,
        and they would never end if jobs come often. Nothing new is claimed: rq's own wait follows once no request is
        left, and cannot renew leases.
        """
        next_heartbeat = time.monotonic() + self.job_monitoring_interval
        while self._runner.is_busy and not self._has_horse_ended():
            self._survive_errors(self._runner.poll)
            if time.monotonic() > next_heartbeat:
                self.maintain_heartbeats(job, *args[1:])
                next_heartbeat = time.monotonic() + self.job_monitoring_interval
        super().monitor_work_horse(job, *args)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        try:
            super().request_force_stop(signum, frame)
        except SystemExit:
            self._grace = 0  # other workers send these requests again when the leases expire
            raise

    def teardown(self) -> None:
        try:
            self._runner.close(self._grace)
        except Exception as error:  # for example the database is unavailable; the worker must end all the same
            trace = None if isinstance(error, Error) else error
            logger.warning("Open requests could not be recorded and will be sent again: %s", error, exc_info=trace)
            connections.close_all()
        super().teardown()

    def _shutdown(self) -> None:
        self._runner.stop()
        super()._shutdown()

    def _deliver(self) -> None:
        if conf.enabled and conf.queue in self.queue_names():
            self._survive_errors(lambda: self._runner.run(conf.slice, wait=False))

    def _survive_errors(self, work: Callable[[], None]) -> None:
        """Log an error of ``work``, and wait a second before the next try, with new database connections."""
        try:
            work()
        except Exception as error:
            if isinstance(error, Error):
                logger.warning("The database cannot be used, trying again: %s", db.describe_error(error))
            else:
                logger.exception("Delivering met an unexpected error, trying again")
            connections.close_all()
            time.sleep(1)

    def _wait_for_job(self, seconds: float) -> tuple[Job, Queue] | None:
        """The next job. Waits ``seconds`` for it, and returns early if the worker is to stop."""
        while not (found := self._dequeue(min(seconds, STOP_SECONDS))) and not self._stop_requested:
            if (seconds := seconds - STOP_SECONDS) <= 0:
                break
        return found

    def _dequeue(self, wait: float) -> tuple[Job, Queue] | None:
        """The next job within ``wait`` seconds. A wake-up is dropped before it is returned."""
        if time.monotonic() < self._retry_redis_at:
            time.sleep(wait)
            return None
        found = None
        with self.surviving_outages():
            self._send_heartbeat()
            with suppress(DequeueTimeout):
                found = self.queue_class.dequeue_any(
                    self._ordered_queues,
                    wait or None,  # type: ignore[arg-type]  # Redis takes fractions
                    connection=self.connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            if found:
                self._accept(*found)
            self._redis_answered()
        return found

    def _accept(self, job: Job, queue: Queue) -> None:
        self.reorder_queues(reference_queue=queue)
        if _is_wake_up(job):
            # The bookkeeping of a job takes many steps, and each of them would wait for an unavailable Redis.
            jobs.drop_wakeup(job, queue)
        else:
            job.redis_server_version = self.get_redis_server_version()
            self.log.info("%s: %s (%s)", queue.name, job.description, job.id)

    def _send_heartbeat(self) -> None:
        """Send a heartbeat if it is due. Register again if Redis has lost its data."""
        if time.monotonic() < self._next_heartbeat:
            return
        if not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()
        self.set_state(WorkerStatus.IDLE)
        super().heartbeat()
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()

    def _redis_failed(self, error: RedisError) -> None:
        super()._redis_failed(error)
        self._next_heartbeat = 0.0  # send one as soon as Redis answers again


def _is_wake_up(job: Job) -> bool:
    try:
        return bool(job.func_name == jobs.DRAIN)
    except DeserializationError:
        return False  # for example its code is missing: rq fails the job and logs why
