"""What processes do: workers of both kinds, web processes that change objects, and admins."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from django.db import DatabaseError, connections, transaction

from tests.simulation.redis import Redis
from tests.simulation.world import Process, Task, World
from tests.testapp.models import Label
from webhooks.ground.conf import conf
from webhooks.workers import jobs
from webhooks.workers.slices import Slices

# Seconds between two looks at requests that hang. The real worker looks more often: each look costs steps.
BUSY_POLL = 0.3

# Seconds after which a supervisor or a scheduler runs the job of the stock worker, although nothing wakes it.
STOCK_EVERY = 20.0


def ship_worker(process: Process, redis: Redis) -> None:
    """The loop of the shipped worker."""
    slices, is_woken = Slices(), True
    while True:
        has_more = slices.deliver(is_woken)
        is_woken = redis.wait(BUSY_POLL if has_more else conf.idle_poll)


def stock_worker(process: Process, redis: Redis) -> None:
    """Runs the job of each wake-up."""
    while True:
        redis.wait(STOCK_EVERY)
        try:
            jobs.drain()
        except DatabaseError:
            connections.close_all()  # rq runs each job in a child


class WebProcess:
    """Serves one request after the other, and goes on after errors."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._requests: deque[Callable[[], object]] = deque()
        self._idle: Task | None = None

    def run(self) -> None:
        while True:
            if self._requests:
                request(self._requests.popleft(), self._world)
            else:
                self._idle = self._world.current
                self._world.sleep(3600)
                self._idle = None

    def serve(self, work: Callable[[], object]) -> None:
        """Serve a request after those that came before. It survives the process: its client tries again."""
        self._requests.append(work)
        if self._idle:
            self._world.wake(self._idle)


def request(work: Callable[[], object], world: World) -> None:
    """Do what one request does, with connections of its own end."""
    try:
        work()
    except DatabaseError as error:
        world.log(f"the request fails: {error}")
        connections.close_all()
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()


class Undo(Exception):
    """Rolls a savepoint or a transaction back."""


def save(pk: int, name: str, is_new: bool = False) -> None:
    Label(pk=pk, name=name).save(force_insert=is_new, force_update=not is_new)


def undone(pk: int, name: str) -> None:
    """A change that a savepoint takes back."""
    try:
        with transaction.atomic():
            save(pk, name)
            raise Undo
    except Undo:
        pass
