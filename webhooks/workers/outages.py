"""An rq worker that goes on while Redis is unavailable. The shipped worker class builds on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Worker

from webhooks.errors import get_logger
from webhooks.workers.redis import Backoff, is_unavailable, set_timeouts

# Seconds between two tries of an unavailable Redis, and until a Redis that does not answer counts as unavailable.
REDIS_RETRY_SECONDS = 2
REDIS_TIMEOUT = 5

logger = get_logger(__name__)


def _surviving_outages(name: str) -> Callable[..., None]:
    """The method ``name`` of rq's Worker; it only logs if Redis is unavailable."""

    def method(self: LastingWorker, *args: Any, **kwargs: Any) -> None:
        with self.surviving_outages():
            getattr(super(LastingWorker, self), name)(*args, **kwargs)

    return method


class LastingWorker(Worker):
    """Logs an outage of Redis where rq would raise an exception and end."""

    _next_heartbeat = 0.0

    def __init__(self, queues: Any, **kwargs: Any) -> None:
        set_timeouts(kwargs["connection"], 1, REDIS_TIMEOUT)  # deliveries wait meanwhile
        self._backoff = Backoff(logger, "The worker delivers without it")
        super().__init__(queues, **kwargs)

    @property
    def connection_timeout(self) -> int:
        return REDIS_TIMEOUT

    check_for_suspension = _surviving_outages("check_for_suspension")
    run_maintenance_tasks = _surviving_outages("run_maintenance_tasks")
    heartbeat = _surviving_outages("heartbeat")
    maintain_heartbeats = _surviving_outages("maintain_heartbeats")
    set_current_job_working_time = _surviving_outages("set_current_job_working_time")  # rq 2

    @contextmanager
    def surviving_outages(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            if not is_unavailable(error):
                raise
            self._backoff.failed(error, REDIS_RETRY_SECONDS)
            self._next_heartbeat = 0.0  # send one as soon as Redis answers again

    def _set_ip_address(self, connection: Redis) -> None:
        """rq asks Redis for the address in ``__init__``."""
        self.ip_address = "unknown"
        with self.surviving_outages():
            super()._set_ip_address(connection)
