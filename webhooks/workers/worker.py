"""The shipped worker class: an rq worker that also delivers without being woken.

Between its jobs it looks for events and deliveries in the database, so it needs no scheduler and no second daemon. It
drops wake-ups instead of running them, keeps its connections, and delivers while Redis is unavailable. Other jobs run
as on rq's own worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from rq import Queue
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks import hooks
from webhooks.ground.conf import conf
from webhooks.workers import jobs
from webhooks.workers.breaker import Fault
from webhooks.workers.redis import LastingWorker
from webhooks.workers.slices import (
    BUSY_POLL,
    HEARTBEAT_SECONDS,
    WARM_SECONDS,
    Slices,
    close_connections,
    collect_garbage_seldom,
)
from webhooks.workers.status import (
    CLASS_FIELD,
    CLOCK_FIELD,
    FAULTS_FIELD,
    RATE_FIELD,
    SETTINGS_FIELD,
    changed_settings,
    faults_as_json,
)

# A burst ends if the worker has had nothing to do for so many seconds, although something is due: another worker or an
# open transaction holds it, or keeps an outcome from being recorded.
BURST_PATIENCE = 30

# Seconds after which every wait checks whether the worker is to stop.
STOP_SECONDS = 1

# Without Redis, no wake-up comes. A worker that has just had something to do then looks again after so many seconds.
NEXT_LOOK = 0.1

# Seconds for requests to end before a job of the host starts. Most do, and a fork is safer with fewer busy threads.
# Slower requests continue while the job runs.
HAND_OVER_SECONDS = 1


class WebhookWorker(LastingWorker):
    """Set it in ``RQ["WORKER_CLASS"]``, or by ``rqworker --worker-class webhooks.workers.WebhookWorker``. It delivers
    if it listens to the queue of the setting ``QUEUE``.

    No signal interrupts it in the middle of a step: it checks ``_stop_requested`` wherever it waits, and raises
    ``StopRequested`` where it is safe to stop.
    """

    _grace: float = WARM_SECONDS
    _reported_faults: Sequence[Fault] = []
    _horse_exit: tuple[Any, ...] | None = None  # what wait4 returned for the work horse

    def __init__(self, queues: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(queues, *args, **kwargs)
        self._slices = Slices()
        self._runner = self._slices.runner

    # Start

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register with Redis. Until that succeeds, deliver without Redis."""
        self._install_signal_handlers()  # rq's _install_signal_handlers: its bootstrap() calls it first, too
        collect_garbage_seldom()
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
            attempted = self._runner.attempted
            has_worked = self._deliver(is_woken=found is not None) and not self._runner.is_only_recording
            if has_worked or self._runner.attempted > attempted:
                busy_at = time.monotonic()
            idle = time.monotonic() - busy_at
            is_polling = self._runner.is_busy or (is_burst and self._has_more())
            look = conf.idle_poll
            if self._backoff.has_failed and idle < look:
                look = min(look, NEXT_LOOK)
            found = self._wait_for_job(BUSY_POLL if is_polling else 0 if is_burst else look)
            if found is None:
                is_over = is_burst and (idle >= BURST_PATIENCE or not is_polling)
                if is_over or (max_idle_time and idle > max_idle_time):
                    return None
            elif not jobs.is_wake_up(found[0].id):
                return found
        raise StopRequested

    def _delivers(self) -> bool:
        return bool(conf.enabled and conf.queue in self.queue_names())

    def _deliver(self, is_woken: bool = False) -> bool:
        """Deliver for one slice. Returns whether the worker had something to do, or has requests in flight."""
        if not self._delivers():
            return self._runner.is_busy
        has_worked = self._slices.deliver(is_woken)
        self._report_faults()
        return has_worked

    def _has_more(self) -> bool:
        """Whether something is due now that this worker can send. Not if the database is away."""
        found = []
        with self._slices.surviving_errors():
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
                # rq's _ordered_queues: ``queues`` lacks the order of round-robin workers.
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
        rate = self._slices.per_minute()
        report: dict[Any, Any] = {CLOCK_FIELD: f"{self._runner.clock_offset:.1f}", RATE_FIELD: f"{rate:.1f}"}
        self.connection.hset(self.key, mapping=report)
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()

    # Other jobs

    def perform_job(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return super().perform_job(*args, **kwargs)
        finally:
            hooks.end_job()

    def execute_job(self, job: Job, queue: Queue) -> None:
        with self._slices.surviving_errors():
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
            with self._slices.surviving_errors():
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
        self._slices.close(self._grace)
        with self.surviving_outages():
            super().teardown()
