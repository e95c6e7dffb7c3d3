"""Receivers of requests, and a sender whose transport reaches them in place of HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from tests.simulation.world import Task, World
from webhooks.ground.error_kinds import ErrorKind, kind_of_status
from webhooks.ground.headers import REDELIVERY
from webhooks.ground.outcome import Outcome
from webhooks.workers.network.attempt import Request
from webhooks.workers.sender import Sender

QUICK = (0.002, 0.05)  # seconds until a healthy receiver answers


class Received(NamedTuple):
    """A request as its receiver saw it."""

    at: float
    webhook: str
    url: str
    message_id: str
    object_id: str
    state: str
    """The name of the object."""
    action: str
    sequence: int
    is_accepted: bool
    is_redelivery: bool
    worker: str


@dataclass
class Receiver:
    """What answers at one URL. ``behaviour`` is a key of ``BEHAVIOURS``."""

    webhook: str
    behaviour: str = "healthy"
    until: float = 0.0


class Answer(NamedTuple):
    """``status`` 0: none comes in time. ``is_accepted``: the receiver has done its work, whatever it answers."""

    status: int
    seconds: float
    is_accepted: bool
    retry_after: float | None = None
    kind: ErrorKind | None = None


def _healthy(world: World) -> Answer:
    return Answer(200, world.random.uniform(*QUICK), True)


def _one_of(*behaviours: str) -> Callable[[World], Answer]:
    return lambda world: BEHAVIOURS[world.random.choice(behaviours)](world)


BEHAVIOURS: dict[str, Callable[[World], Answer]] = {
    "healthy": _healthy,
    "slow": lambda world: Answer(200, world.random.uniform(0.5, 4), True),
    "hanging": lambda world: Answer(0, 0, world.random.random() < 0.5),
    "failing": lambda world: Answer(503, world.random.uniform(*QUICK), False),
    "busy": lambda world: Answer(429, world.random.uniform(*QUICK), False, world.random.choice((None, 2.0, 8.0))),
    "gone": lambda world: Answer(410, world.random.uniform(*QUICK), False),
    "cut": lambda world: Answer(0, world.random.uniform(*QUICK), True, kind=ErrorKind.CLOSED),
    "refusing": lambda world: Answer(0, world.random.uniform(*QUICK), False, kind=ErrorKind.REFUSED),
    "fickle": _one_of("healthy", "healthy", "failing", "cut"),
    "fast then hanging": _one_of("healthy", "healthy", "healthy", "hanging"),
}


class Receivers:
    """All receivers of a world, and what they saw."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.by_url: dict[str, Receiver] = {}
        self._by_webhook: dict[str, Receiver] = {}
        self.received: list[Received] = []

    def add(self, name: str) -> str:
        """The URL of a new receiver of the webhook with this name."""
        url = f"http://{name}.example/"
        self.by_url[url] = Receiver(name)
        self._by_webhook[name] = self.by_url[url]
        return url

    def move(self, old: str, new: str) -> None:
        """Let the receiver answer at another URL. What comes to the old one is kept, and breaks a promise."""
        self.by_url[new] = self.by_url[old]

    def behave(self, webhook: str, behaviour: str, until: float) -> None:
        receiver = self._by_webhook[webhook]
        receiver.behaviour, receiver.until = behaviour, until

    def heal(self) -> None:
        for receiver in self.by_url.values():
            receiver.behaviour = "healthy"

    def receive(self, request: Request) -> Answer:
        """Take a request at the moment when its first byte leaves."""
        receiver = self.by_url[request.url]
        if self._world.now > receiver.until:
            receiver.behaviour = "healthy"
        answer = BEHAVIOURS[receiver.behaviour](self._world)
        payload = json.loads(request.body)
        headers = {name.lower(): value for name, value in request.headers.items()}
        task = self._world.current
        one = Received(
            self._world.now,
            receiver.webhook,
            request.url,
            headers["webhook-id"],
            str(payload["data"].get("id", "")),
            payload["data"].get("name", ""),
            payload["event"],
            payload["sequence"],
            answer.is_accepted,
            REDELIVERY.lower() in headers,
            task.process.name if task else "",
        )
        self.received.append(one)
        self._world.log(f"sends {one.object_id}={one.state} to {one.url}: {receiver.behaviour}, {answer}")
        return answer


class SimulatedTransport:
    """In place of ``Transport``: the same members, for the task that sends."""

    def __init__(self, world: World, receivers: Receivers, now: Callable[[], datetime], task: Task) -> None:
        self._world, self._receivers, self._now, self._task = world, receivers, now, task
        self._ended: list[Callable[[], None]] = []

    def start(self, request: Request, done: Callable[[Outcome], None]) -> None:
        began, started_at = self._world.now, self._now()
        answer = self._receivers.receive(request)
        is_late = (not answer.status and not answer.kind) or answer.seconds > request.timeout
        seconds = request.timeout if is_late else answer.seconds
        self._world.at(began + seconds, partial(self._end, request, answer, is_late, started_at, seconds, done))

    def poll(self, seconds: float) -> None:
        if not self._ended:
            self._world.sleep(min(seconds, 3600.0))
        ended, self._ended = self._ended, []
        for end in ended:
            end()

    def wake(self) -> None:
        self._world.wake(self._task)

    def close(self) -> None:
        """Abandons what is in flight."""

    def _end(
        self, request: Request, answer: Answer, is_late: bool, started_at: datetime, seconds: float, done: Any
    ) -> None:
        outcome = Outcome(started_at, round(seconds * 1000), has_connected=True, request=request.stored())
        if is_late:
            outcome.kind, outcome.reason, outcome.timed_out = ErrorKind.ANSWER_TIMEOUT, "no answer in time", True
        elif answer.kind:
            outcome.kind, outcome.reason = answer.kind, answer.kind.english
        else:
            outcome.status = answer.status
            if answer.status != 200:
                outcome.kind, outcome.reason = kind_of_status(answer.status), f"HTTP {answer.status}"
                outcome.retry_after = answer.retry_after
        self._ended.append(partial(done, outcome))
        self.wake()


class _Condition:
    """In place of ``threading.Condition``: another task of the process may go on meanwhile."""

    def __init__(self, world: World, lock: threading.Lock) -> None:
        self._world, self._lock = world, lock
        self._waiting: list[Task] = []

    def wait_for(self, is_met: Callable[[], bool], seconds: float) -> bool:
        end = self._world.now + seconds
        task = self._world.current
        assert task is not None
        while not is_met() and self._world.now < end:
            self._waiting.append(task)
            self._lock.release()
            self._world.sleep(end - self._world.now)
            self._lock.acquire()
            self._waiting.remove(task)
        return is_met()

    def notify(self) -> None:
        for task in self._waiting:
            self._world.wake(task)


class _NoCore(AbstractContextManager[Any]):
    """In place of ``OneCore``."""

    def note(self, is_busy: bool) -> None:
        pass

    def free_this_thread(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class SimulatedSender(Sender[Any]):
    """The real sender, with a task for its thread and a transport to the receivers of the world."""

    world: World
    receivers: Receivers

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._has_news = _Condition(self.world, self._lock)  # type: ignore[assignment]
        self.core = _NoCore()  # type: ignore[assignment]

    def _start(self) -> None:
        if self._thread is None:
            task = self.world.current
            assert task is not None
            self._thread = threading.current_thread()  # alive, as its task is
            sending = self.world.spawn(task.process, self._work, f"{task.process.name}'s sender")
            self._transport = SimulatedTransport(self.world, self.receivers, self._now, sending)  # type: ignore[assignment]
