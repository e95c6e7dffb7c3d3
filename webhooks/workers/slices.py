"""What every worker does with its time: deliver for one slice after the other, and survive errors in between."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error, connections

from webhooks.ground.conf import conf
from webhooks.ground.errors import describe_error, get_logger
from webhooks.workers.runner import DeliveryRunner

# Seconds for requests to end after SIGTERM; supervisord's stopwaitsecs must be longer.
WARM_SECONDS = 12

# Seconds between two heartbeats.
HEARTBEAT_SECONDS = 10

# Seconds to wait for a wake-up while requests are being sent: their ends are noticed only afterwards.
BUSY_POLL = 0.015

# Seconds between two lines of the log about one outage of the database: the first time, and the most. It has ended if
# nothing failed for OVER_SECONDS.
FIRST_PAUSE, LONGEST_PAUSE = 10, 600
OVER_SECONDS = 3

# The garbage collector looks at new objects when there are so many. Most of a delivery's are gone by then.
NEW_OBJECTS = 20_000

logger = get_logger(__name__)


def collect_garbage_seldom() -> None:
    """Let the garbage collector look at new objects less often, and never at what is loaded so far, such as the code of
    the host. Call it at the start."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


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


class Slices:
    """The deliveries of one worker process. It goes on after errors: the database may be away."""

    def __init__(self) -> None:
        self.runner = DeliveryRunner()
        self._errors = ErrorLog()
        self._counted = (time.monotonic(), 0)

    def deliver(self, is_woken: bool = False) -> bool:
        """Deliver for one slice. Returns whether there was something to do, or requests are in flight."""
        has_worked = False
        with self.surviving_errors():
            self.runner.run(conf.slice, wait=False, is_woken=is_woken)
            has_worked = not self.runner.is_idle
            self._errors.succeeded()
        if not self.runner.can_send:
            raise SystemExit("The worker ends because its thread that sends has ended")
        return has_worked or self.runner.is_busy

    def per_minute(self) -> float:
        """The attempts a minute since the last call."""
        (since, before), self._counted = self._counted, (time.monotonic(), self.runner.attempted)
        return 60 * (self._counted[1] - before) / max(self._counted[0] - since, 1)

    @contextmanager
    def surviving_errors(self) -> Iterator[None]:
        """Log an error, and wait a second before the next try, with new database connections."""
        try:
            yield
        except Exception as error:
            self._errors.failed(error)
            close_connections()
            time.sleep(1)

    def close(self, grace: float) -> None:
        """Give requests in flight ``grace`` seconds to end, and record them. Raises nothing."""
        try:
            self.runner.close(grace)
        except Exception as error:  # for example the database is unavailable; the worker must end all the same
            trace = None if isinstance(error, Error) else error
            logger.warning("Open requests could not be recorded and will be sent again: %s", error, exc_info=trace)
            close_connections()
