"""The shipped worker class: an rq worker that also delivers by itself.

Between its jobs it looks for Events and Deliveries, so that it needs no wake-up, no scheduler and no second
daemon. It takes wake-ups without running them and keeps its connections, and it goes on delivering while Redis is
away. Jobs of others run as on rq's own worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
from webhooks.delivery.worker import Drain
from webhooks.logs import get_logger
from webhooks.workers import jobs
from webhooks.workers.rq_worker import REDIS_RETRY_SECONDS, PatientWorker
from webhooks.workers.status import CLASS_FIELD

# Seconds that requests under way have to end after SIGTERM; supervisord's stopwaitsecs must be longer.
WARM_SECONDS = 12

# Seconds between two signs of life.
HEARTBEAT_SECONDS = 10

# Seconds for which a wake-up is waited for while requests are under way, whose ends are not seen meanwhile.
BUSY_POLL = 0.015

# Seconds after which whatever waits looks whether the worker is to stop.
STOP_SECONDS = 1

# Seconds that requests under way have to end before a job of somebody else runs: most do, and the fewer threads are
# busy when its process is forked, the better. Those that take longer go on beside it.
HAND_OVER_SECONDS = 1

logger = get_logger(__name__)


class WebhookWorker(PatientWorker):
    """Set it in ``RQ["WORKER_CLASS"]``, or by ``rqworker --worker-class webhooks.workers.WebhookWorker``. It
    delivers if it listens to the queue of the setting ``QUEUE``."""

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        self._grace = WARM_SECONDS
        super().__init__(queues, **kwargs)
        self._drain = Drain(self.name)
        self._next_beat = 0.0
        self._is_registered = False

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register with Redis; until that is done, deliver without it."""
        self._install_signal_handlers()
        while not self._stop_requested and not self._is_registered:
            with self._redis_may_be_away():
                self._register(*args, **kwargs)
            if not self._is_registered:
                self._deliver_for(REDIS_RETRY_SECONDS)

    def _register(self, *args: Any, **kwargs: Any) -> None:
        if self._redis_since:
            self._forget_first_try()
        super().bootstrap(*args, **kwargs)
        self._redis_answered()
        self._is_registered = True

    def _forget_first_try(self) -> None:
        self._set_ip_address(self.connection)
        self.connection.delete(self.key)  # it may have succeeded and not been answered

    def register_birth(self) -> None:
        super().register_birth()
        # Tells the status page that this worker needs no waking.
        self.connection.hset(self.key, CLASS_FIELD, f"{type(self).__module__}.{type(self).__qualname__}")

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Deliver until there is a job. ``timeout`` None is rq's burst mode: give up when all is done."""
        busy_at = time.monotonic()
        while not self._stop_requested:
            self._deliver()
            if self._drain.is_under_way:
                busy_at = time.monotonic()
            is_burst = timeout is None
            found = self._wait_for_job(0 if is_burst else BUSY_POLL if self._drain.is_under_way else conf.idle_poll)
            if found is None:
                is_done = is_burst and not self._drain.is_under_way
                if is_done or (max_idle_time and time.monotonic() - busy_at > max_idle_time):
                    return None
            elif not _is_wake_up(found[0]):
                return found
        raise StopRequested

    def execute_job(self, job: Job, queue: Queue) -> None:
        self._undeterred(lambda: self._drain.pause(HAND_OVER_SECONDS))
        if self._stop_requested:
            self._give_back(job, queue)
            raise StopRequested
        connections.close_all()  # the child must not share them
        super().execute_job(job, queue)

    def monitor_work_horse(self, job: Job, *args: Any) -> None:
        """Wait for the child that runs the job, and go on with what is under way meanwhile.

        Waiting for that first would hold up the job as long as the slowest receiver takes. Cutting it off would send it
        again, and never to its end where jobs come often. Nothing is claimed meanwhile: what this process takes, it
        must be able to renew and record, and rq's own waiting, which begins when nothing is under way, does not let it.
        """
        next_beat = time.monotonic() + self.job_monitoring_interval
        while self._drain.is_under_way and not self._has_horse_ended():
            self._undeterred(self._drain.tend)
            if time.monotonic() > next_beat:
                self.maintain_heartbeats(job, *args[1:])
                next_beat = time.monotonic() + self.job_monitoring_interval
        super().monitor_work_horse(job, *args)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        try:
            super().request_force_stop(signum, frame)
        except SystemExit:
            self._grace = 0  # what is under way comes back when its lease ends
            raise

    def teardown(self) -> None:
        self._end_drain(self._grace)
        super().teardown()

    def _shutdown(self) -> None:
        self._drain.stop()
        super()._shutdown()

    def _deliver(self) -> None:
        if conf.enabled and conf.queue in self.queue_names():
            self._undeterred(lambda: self._drain.run(conf.slice, patient=False))

    def _deliver_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stop_requested and (left := until - time.monotonic()) > 0:
            self._deliver()
            time.sleep(BUSY_POLL if self._drain.is_under_way else min(left, conf.idle_poll, STOP_SECONDS))

    def _undeterred(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Error as error:
            logger.warning("The database cannot be used, trying again: %s", db.describe_error(error))
            self._start_over()
        except Exception:
            logger.exception("The deliveries met an error that nobody foresaw, trying again")
            self._start_over()

    def _start_over(self) -> None:
        """Before the next try after an error: in a moment, and over new connections."""
        connections.close_all()
        time.sleep(1)

    def _end_drain(self, grace: float) -> None:
        """Finish what is under way, in so many seconds; an error there, such as a database that is away, must not end
        the worker."""
        try:
            self._drain.close(grace)
        except Exception as error:
            trace = None if isinstance(error, Error) else error
            logger.warning("What was under way could not be recorded and will be sent again: %s", error, exc_info=trace)
            connections.close_all()

    def _wait_for_job(self, seconds: float) -> tuple[Job, Queue] | None:
        """The next job, waited for as many seconds; meanwhile it looks whether the worker is to stop."""
        while not (found := self._dequeue(min(seconds, STOP_SECONDS))) and not self._stop_requested:
            if (seconds := seconds - STOP_SECONDS) <= 0:
                break
        return found

    def _dequeue(self, wait: float) -> tuple[Job, Queue] | None:
        if time.monotonic() < self._redis_since:
            time.sleep(wait)
            return None
        found = None
        with self._redis_may_be_away():
            self._stay_in_touch()
            found = self._next_job(wait)
            self._redis_answered()
        return found

    def _next_job(self, wait: float) -> tuple[Job, Queue] | None:
        try:
            found = self.queue_class.dequeue_any(
                self._ordered_queues,
                wait or None,  # type: ignore[arg-type]  # Redis takes fractions
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
        except DequeueTimeout:
            return None
        if found:
            self._took(*found)
        return found

    def _took(self, job: Job, queue: Queue) -> None:
        self.reorder_queues(reference_queue=queue)
        if _is_wake_up(job):
            # No more than a hint, and not worth the bookkeeping of a job: each of its steps would wait for a Redis
            # that is away.
            jobs.swallow(job, queue)
        else:
            job.redis_server_version = self.get_redis_server_version()
            self.log.info("%s: %s (%s)", queue.name, job.description, job.id)

    def _stay_in_touch(self) -> None:
        """Tell Redis that this worker is alive, also one that has forgotten everything meanwhile."""
        if time.monotonic() < self._next_beat:
            return
        if not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()
        self.set_state(WorkerStatus.IDLE)
        super().heartbeat()
        self._next_beat = time.monotonic() + HEARTBEAT_SECONDS
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()

    def _redis_failed(self, error: RedisError) -> None:
        super()._redis_failed(error)
        self._next_beat = 0.0  # the first thing when it answers again


def _is_wake_up(job: Job) -> bool:
    try:
        return bool(job.func_name == jobs.DRAIN)
    except DeserializationError:
        return False  # of code that is not here, say: rq fails it, and tells why
