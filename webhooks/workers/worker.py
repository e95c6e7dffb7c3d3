"""The shipped worker class: an rq worker that also delivers without being woken.

Between its jobs it looks for events and deliveries in the database, so it needs no scheduler and no second daemon. It
drops wake-ups instead of running them, keeps its connections, and delivers while Redis is unavailable. Other jobs run
as on rq's own worker.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from django.db import Error, connections
from rq import Queue
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks import hooks
from webhooks.conf import conf
from webhooks.delivery.breaker import Fault
from webhooks.delivery.runner import DeliveryRunner
from webhooks.errors import describe_error, get_logger
from webhooks.workers import jobs
from webhooks.workers.redis import LastingWorker
from webhooks.workers.status import (
    CLASS_FIELD,
    CLOCK_FIELD,
    FAULTS_FIELD,
    RATE_FIELD,
    SETTINGS_FIELD,
    changed_settings,
    faults_as_json,
)

# Seconds for requests to end after SIGTERM; supervisord's stopwaitsecs must be longer.
WARM_SECONDS = 12

# Seconds between two heartbeats.
HEARTBEAT_SECONDS = 10

# Seconds to wait for a job while requests are being sent: their ends are noticed only afterwards.
BUSY_POLL = 0.015

# A burst ends if the worker has had nothing to do for so many seconds, although something is due: another worker or an
# open transaction holds it.
BURST_PATIENCE = 30
# Seconds between two lines of the log about one outage of the database: the first time, and the most. It has ended if
# nothing failed for OVER_SECONDS.
FIRST_PAUSE, LONGEST_PAUSE = 10, 600
OVER_SECONDS = 3

# Seconds after which every wait checks whether the worker is to stop.
STOP_SECONDS = 1

# The garbage collector looks at new objects when there are so many. Most of a delivery's are gone by then.
NEW_OBJECTS = 20_000

# Seconds for requests to end before a job of the host starts. Most do, and a fork is safer with fewer busy threads.
# Slower requests continue while the job runs.
HAND_OVER_SECONDS = 1

logger = get_logger(__name__)


def close_connections() -> None:
    """Close all database connections, and Django's pools of them. A pool would lend the old ones again, to a child
    process too."""
    connections.close_all()
    for connection in connections.all(initialized_only=True):
        if close_pool := getattr(connection, "close_pool", None):
            close_pool()


class ErrorLog:
    """Logs errors that keep a worker from delivering: the first one, then one after growing pauses, then the end.

    The worker tries again every second, and an outage of hours would fill the log. Another kind of error is logged at
    once. A failure within ``OVER_SECONDS`` after the last one belongs to the same outage.
    """

    def __init__(self) -> None:
        self._kind: type[Exception] | None = None
        self._began = self._failed = self._next = self._pause = 0.0

    def failed(self, error: Exception) -> None:
        now = self._failed = time.monotonic()
        if self._kind is None:
            self._began = now
        if self._kind is not type(error):
            self._kind, self._pause = type(error), FIRST_PAUSE
        elif now < self._next:
            return
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._next = now + self._pause
        since = f" since {now - self._began:.0f} s" if now > self._began else ""
        if isinstance(error, Error):
            logger.warning("The database cannot be used%s, trying again: %s", since, describe_error(error))
        else:
            logger.error("Delivering met an unexpected error%s, trying again", since, exc_info=error)

    def succeeded(self) -> None:
        if self._kind is not None and time.monotonic() - self._failed > OVER_SECONDS:
            lasted = self._failed - self._began
            if issubclass(self._kind, Error):
                logger.warning("The database can be used again, after errors for %.0f s", lasted)
            else:
                logger.warning("Delivering works again, after errors for %.0f s", lasted)
            self._kind = None


class WebhookWorker(LastingWorker):
    """Set it in ``RQ["WORKER_CLASS"]``, or by ``rqworker --worker-class webhooks.workers.WebhookWorker``. It delivers
    if it listens to the queue of the setting ``QUEUE``.

    No signal interrupts it in the middle of a step: it checks ``_stop_requested`` wherever it waits, and raises
    ``StopRequested`` where it is safe to stop.
    """

    _grace: float = WARM_SECONDS
    _reported_faults: Sequence[Fault] = []
    _horse_exit: tuple[Any, ...] | None = None  # what wait4 returned for the work horse

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        super().__init__(queues, **kwargs)
        self._runner = DeliveryRunner()
        self._errors = ErrorLog()
        self._counted = (time.monotonic(), 0)

    # Start

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register with Redis. Until that succeeds, deliver without Redis."""
        self._install_signal_handlers()
        gc.freeze()  # the code of the host stays: no collection need look at it again
        gc.set_threshold(NEW_OBJECTS)
        is_registered = False
        while not (is_registered or self._stop_requested):
            if self._backoff.is_active:
                self._deliver()
                time.sleep(BUSY_POLL if self._runner.is_busy else min(conf.idle_poll, STOP_SECONDS))
                continue
            with self.surviving_outages():
                if self._backoff.has_failed:
                    self._set_ip_address(self.connection)
                    self.connection.delete(self.key)  # the first try may have written it and got no answer
                super().bootstrap(*args, **kwargs)
                self._backoff.succeeded()
                is_registered = True

    def register_birth(self) -> None:
        super().register_birth()
        # The status page sees by the class that the worker needs no wake-ups.
        report: dict[Any, Any] = {CLASS_FIELD: f"{type(self).__module__}.{type(self).__qualname__}"}
        if conf.queue in self.queue_names():
            report[SETTINGS_FIELD] = ",".join(changed_settings(self.connection))
        self.connection.hset(self.key, mapping=report)
        self._reported_faults = []

    # Between jobs

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Deliver until there is a job. ``timeout`` is None in rq's burst mode: then return once nothing is due."""
        is_burst = timeout is None
        busy_at = time.monotonic()
        found = None
        while not self._stop_requested:
            if self._deliver(is_woken=found is not None):
                busy_at = time.monotonic()
            idle = time.monotonic() - busy_at
            has_more = is_burst and idle < BURST_PATIENCE and self._has_more()
            is_polling = has_more or self._runner.is_busy
            found = self._wait_for_job(BUSY_POLL if is_polling else 0 if is_burst else conf.idle_poll)
            if found is None:
                if (is_burst and not is_polling) or (max_idle_time and idle > max_idle_time):
                    return None
            elif not jobs.is_wake_up(found[0].id):
                return found
        raise StopRequested

    def _delivers(self) -> bool:
        return bool(conf.enabled and conf.queue in self.queue_names())

    def _deliver(self, is_woken: bool = False) -> bool:
        """Deliver for one slice. Returns whether the worker had something to do, or has requests in flight."""
        has_worked = False
        if self._delivers():
            with self._surviving_errors():
                self._runner.run(conf.slice, wait=False, is_woken=is_woken)
                has_worked = not self._runner.is_idle
                self._errors.succeeded()
            if not self._runner.can_send:
                raise SystemExit("The worker ends because its thread that sends has ended")
            self._report_faults()
        return has_worked or self._runner.is_busy

    def _has_more(self) -> bool:
        """Whether something is due now that this worker can send. Not if the database is away."""
        found = []
        with self._surviving_errors():
            found.append(self._delivers() and self._runner.has_more())
        return any(found)

    def _report_faults(self) -> None:
        """Show the status page the faults that this worker meets."""
        faults = self._runner.faults
        if faults == self._reported_faults or self._backoff.is_active:
            return
        with self.surviving_outages():
            self.connection.hset(self.key, FAULTS_FIELD, faults_as_json(faults))
            self._reported_faults = faults

    @contextmanager
    def _surviving_errors(self) -> Iterator[None]:
        """Log an error, and wait a second before the next try, with new database connections."""
        try:
            yield
        except Exception as error:
            self._errors.failed(error)
            close_connections()
            time.sleep(1)

    def _wait_for_job(self, seconds: float) -> tuple[Job, Queue] | None:
        """The next job. Waits ``seconds`` for it, and returns early if the worker is to stop."""
        while not (found := self._dequeue(min(seconds, STOP_SECONDS))) and not self._stop_requested:
            if (seconds := seconds - STOP_SECONDS) <= 0:
                break
        return found

    def _dequeue(self, wait: float) -> tuple[Job, Queue] | None:
        """The next job within ``wait`` seconds. A wake-up is dropped before it is returned."""
        if self._backoff.is_active:
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
                    job_class=jobs.unless_wake_up(self.job_class),
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            if found:
                job, queue = found
                self.reorder_queues(reference_queue=queue)
                if jobs.is_wake_up(job.id):
                    # The bookkeeping of a job takes many steps, and each would wait for an unavailable Redis.
                    jobs.drop_wake_up(job, queue)
                else:
                    job.redis_server_version = self.get_redis_server_version()
                    self.log.info("%s: %s (%s)", queue.name, job.description, job.id)
            self._backoff.succeeded()
        return found

    def _send_heartbeat(self) -> None:
        """Send a heartbeat if it is due. Register again if Redis has lost its data."""
        if time.monotonic() < self._next_heartbeat:
            return
        if not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()
        self.set_state(WorkerStatus.IDLE)
        super().heartbeat()
        (since, before), self._counted = self._counted, (time.monotonic(), self._runner.attempted)
        per_minute = 60 * (self._counted[1] - before) / max(self._counted[0] - since, 1)
        report: dict[Any, Any] = {CLOCK_FIELD: f"{self._runner.clock_offset:.1f}", RATE_FIELD: f"{per_minute:.1f}"}
        self.connection.hset(self.key, mapping=report)
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()

    # Other jobs

    def perform_job(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().perform_job(*args, **kwargs)
        finally:
            hooks.flush()  # its process ends with os._exit

    def execute_job(self, job: Job, queue: Queue) -> None:
        with self._surviving_errors():
            self._runner.pause(HAND_OVER_SECONDS)
        if self._stop_requested:
            with self.surviving_outages(), self.connection.pipeline() as pipe:  # back to the front of its queue
                pipe.lrem(queue.intermediate_queue_key, 1, job.id)
                queue.push_job_id(job.id, pipeline=pipe, at_front=True)
                pipe.execute()
            raise StopRequested
        close_connections()  # the child process must not share them
        with self.surviving_outages():
            super().execute_job(job, queue)
        self.execution = None  # if the job could not start, rq would take the next job for this execution

    def monitor_work_horse(self, job: Job, *args: Any) -> None:
        """Wait for the child process that runs the job, and record the requests that end meanwhile.

        To wait for the requests first would delay the job by the slowest receiver. To cut them off would repeat them,
        and they would never end if jobs come often. Nothing new is claimed: rq's own wait follows once no request is
        left, and cannot renew leases.
        """
        next_heartbeat = time.monotonic() + self.job_monitoring_interval
        while self._runner.is_busy and not self._has_horse_ended():
            with self._surviving_errors():
                self._runner.poll()
            if time.monotonic() > next_heartbeat:
                self.maintain_heartbeats(job, *args[1:])
                next_heartbeat = time.monotonic() + self.job_monitoring_interval
        super().monitor_work_horse(job, *args)

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

    # The end

    def _shutdown(self) -> None:
        """Raise nothing, unlike rq: an exception here could break a transaction or lose a job that was just taken."""
        self._runner.stop()
        self._stop_requested = True
        if self.get_state() == WorkerStatus.BUSY:
            with self.surviving_outages():
                super()._shutdown()

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
            close_connections()
        with self.surviving_outages():
            super().teardown()
