"""The shipped worker class: an rq worker that also delivers by itself.

Between its jobs it looks for Events and Deliveries, so that it needs no wake-up, no scheduler and no second
daemon. It takes wake-ups without running them and keeps its connections, and it goes on delivering while Redis is
away. Jobs of others run as on rq's own worker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.db import Error, connections
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.worker import WorkerStatus

from webhooks import jobs
from webhooks.conf import conf
from webhooks.delivery.drain import Drain
from webhooks.logs import logger_of
from webhooks.rq_report import CLASS_FIELD

# Seconds that requests under way have to end after SIGTERM; supervisord's stopwaitsecs must be longer.
WARM_SECONDS = 12

# Seconds between two signs of life, between two tries of a Redis that is away, and until it counts as away.
HEARTBEAT_SECONDS = 10
REDIS_RETRY_SECONDS = 2
REDIS_SECONDS = 5

# Seconds for which a wake-up is waited for while requests are under way, whose ends are not seen meanwhile.
BUSY_POLL = 0.015

logger = logger_of(__name__)

REDIS_AWAY = (RedisConnectionError, RedisTimeoutError)


class WebhookWorker(Worker):
    """Set it in ``RQ["WORKER_CLASS"]``, or by ``rqworker --worker-class webhooks.workers.WebhookWorker``. It
    delivers if it listens to the queue of the setting ``QUEUE``."""

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        connection: Redis = kwargs["connection"]
        # redis-py would go on trying for seconds, which the deliveries have better use for.
        patience = {"retry": Retry(NoBackoff(), 0), "socket_connect_timeout": 1, "socket_timeout": REDIS_SECONDS}
        connection.connection_pool.connection_kwargs.update(patience)
        self._grace = WARM_SECONDS
        self._is_delivering = False
        self._wait_for(connection, [getattr(queue, "name", queue) for queue in queues])
        super().__init__(queues, **kwargs)
        self._drain = Drain(self.name)
        self._next_beat = 0.0
        self._redis_since = 0.0  # when Redis is next to be tried; 0 while it answers

    def _wait_for(self, connection: Redis, queues: Sequence[str]) -> None:
        """rq asks Redis for its own address when a worker is made, and would end where Redis is away: deliver without
        it until it is there."""
        self._drain = Drain(f"process {os.getpid()}")
        asked: list[int] = []
        if problem := _unreachable(connection):
            logger.warning("Redis does not answer (%s): delivering without it, and waiting for it", problem)
            with self._listening_to_signals(asked):
                while not asked and _unreachable(connection):
                    self._deliver(queues)
                    time.sleep(0 if self._drain.is_under_way else conf.idle_poll)
        self._end_drain(self._grace)
        if asked:
            raise SystemExit(0)

    @contextmanager
    def _listening_to_signals(self, asked: list[int]) -> Iterator[None]:
        """Note those that ask for a stop, as rq does once the worker is made: unheard, they would end it at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            asked.append(number)
            self._drain.stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def connection_timeout(self) -> int:
        return REDIS_SECONDS

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register with Redis; until it answers, deliver without it."""
        while not self._stop_requested:
            try:
                super().bootstrap(*args, **kwargs)
            except REDIS_AWAY as error:
                self._redis_failed(error)
                self._deliver(self.queue_names())
                time.sleep(REDIS_RETRY_SECONDS)
            else:
                self._redis_answered()
                return

    def register_birth(self) -> None:
        super().register_birth()
        # Tells the status page that this worker needs no waking.
        self.connection.hset(self.key, CLASS_FIELD, f"{type(self).__module__}.{type(self).__qualname__}")

    def check_for_suspension(self, burst: bool) -> None:
        try:
            super().check_for_suspension(burst)
        except REDIS_AWAY as error:
            self._redis_failed(error)

    def run_maintenance_tasks(self) -> None:
        try:
            super().run_maintenance_tasks()
        except REDIS_AWAY as error:
            self._redis_failed(error)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Deliver until there is a job. ``timeout`` None is rq's burst mode: give up when all is done."""
        busy_at = time.monotonic()
        while not self._stop_requested:
            self._deliver(self.queue_names())
            if self._drain.is_under_way:
                busy_at = time.monotonic()
            is_burst = timeout is None
            found = self._dequeue(wait=0 if is_burst else BUSY_POLL if self._drain.is_under_way else conf.idle_poll)
            if found is None:
                is_done = is_burst and not self._drain.is_under_way
                if is_done or (max_idle_time and time.monotonic() - busy_at > max_idle_time):
                    return None
            elif found[0].func_name != jobs.DRAIN:
                return found
        raise StopRequested

    def execute_job(self, job: Job, queue: Queue) -> None:
        # What is under way could not be recorded while this process waits for the child, and the child must not
        # share its database connection.
        self._end_drain(WARM_SECONDS)
        self._drain = Drain(self.name)
        connections.close_all()
        super().execute_job(job, queue)

    def heartbeat(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().heartbeat(*args, **kwargs)
        except REDIS_AWAY as error:
            self._redis_failed(error)

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
        if self._is_delivering:
            self._stop_requested = True  # an exception here would tear a transaction apart
        else:
            super()._shutdown()

    def _deliver(self, queues: Sequence[str]) -> None:
        if not conf.enabled or conf.queue not in queues:
            return
        self._is_delivering = True
        try:
            self._drain.run(conf.slice, patient=False)
        except Error as error:
            logger.warning("The database does not answer, trying again: %s", error)
            self._start_over()
        except Exception:
            logger.exception("The deliveries met an error that nobody foresaw, trying again")
            self._start_over()
        finally:
            self._is_delivering = False

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

    def _dequeue(self, wait: float) -> tuple[Job, Queue] | None:
        """The next job, which this waits for, for so many seconds."""
        if time.monotonic() < self._redis_since:
            time.sleep(wait)
            return None
        try:
            self._stay_in_touch()
            found = self.queue_class.dequeue_any(
                self._ordered_queues,
                wait or None,  # type: ignore[arg-type]  # Redis takes fractions
                connection=self.connection,
                job_class=self.job_class,
                serializer=self.serializer,
                death_penalty_class=self.death_penalty_class,
            )
            if found:
                self._took(*found)
        except DequeueTimeout:
            found = None
        except REDIS_AWAY as error:
            self._redis_failed(error)
            return None
        self._redis_answered()
        return found

    def _took(self, job: Job, queue: Queue) -> None:
        self.reorder_queues(reference_queue=queue)
        if job.func_name == jobs.DRAIN:
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

    def _redis_failed(self, error: Exception) -> None:
        if not self._redis_since:
            self.log.warning("Redis does not answer (%s): delivering without it", error)
        self._redis_since = time.monotonic() + REDIS_RETRY_SECONDS
        self._next_beat = 0.0

    def _redis_answered(self) -> None:
        if self._redis_since:
            self.log.warning("Redis answers again")
        self._redis_since = 0.0


def _unreachable(connection: Redis) -> str:
    """Why it does not answer; nothing if it does."""
    try:
        connection.ping()
    except REDIS_AWAY as error:
        return str(error)
    return ""
