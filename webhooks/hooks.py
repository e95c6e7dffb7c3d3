"""Hooks: named places where the code of a host, or a module of ours, is called. ``docs/hooks.md`` has examples.

A host lists subclasses of ``Hooks`` in ``WEBHOOKS["HOOKS"]``. Each overrides the methods that it needs. A method that
no listed class overrides costs nothing: no query, no thread.

``payload_context``, ``trace_context`` and ``request_prepared`` change stored or sent data, so the app waits for
them. All others are notifications. ``announce`` queues them after the commit, and one thread of the process calls them
in order: a slow one delays no save and no delivery. A notification comes at most once. It is lost if its process is
killed first.

If a hook raises, the log has a line with its name, and nothing else happens.
"""

from __future__ import annotations

import atexit
import inspect
import json
import math
import os
import threading
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any, NamedTuple

from django.db import connections
from django.utils.module_loading import import_string

from webhooks.ground.conf import conf
from webhooks.ground.db import on_commit
from webhooks.ground.errors import about, get_logger, reraise_job_timeout, why_failed

logger = get_logger(__name__)

# Notifications that wait in one process. More are dropped.
MOST_WAITING = 10_000

# Seconds after which the log names a slow notification, and after which a new thread takes the place of its thread.
# So many threads may be stuck. Then notifications wait for one of them.
SLOW_SECONDS, STUCK_SECONDS, MOST_STUCK = 5.0, 60.0, 4

# Seconds between two lines of the log about dropped notifications, and that a process that ends waits for the others.
DROPS_LOGGED_EVERY, FLUSH_SECONDS = 60.0, 5.0

# Seconds between two lines of the log about one hook that fails.
FAILURES_LOGGED_EVERY = 60.0


class Veto(Exception):
    """Raise it in ``request_prepared``: the request is not sent, and the delivery fails with this reason."""


@dataclass(frozen=True)
class CapturedChange:
    """A change that becomes an event, with the data as the serializer wrote them."""

    action: str
    object_type: str
    """The label of the model, such as "dcim.site". Empty for a custom event without an object."""
    object_id: str
    object_name: str
    username: str
    request_id: str
    data_json: str = field(repr=False)

    @cached_property
    def data(self) -> Any:
        """The data of the payload."""
        return json.loads(self.data_json or "null")


@dataclass
class PreparedRequest:
    """A request before it gets its credentials."""

    webhook_id: int
    webhook_name: str
    message_id: str
    """The header ``webhook-id``: the id of the delivery."""
    method: str
    url: str
    headers: dict[str, str]
    """Set some, or change some. They are stored with the attempt. Secret headers of the webhook are not among them."""
    body: bytes = field(repr=False)
    is_test: bool
    """Whether a user tries the webhook: no change caused it."""
    trace: str = ""
    """What ``trace_context`` returned for the change."""
    sends_trace: bool = False
    """Whether the webhook sends its trace context to the receiver."""
    is_first: bool = True
    """Whether no attempt of the delivery failed before, and no user sends it again."""
    number: int = 1
    """1 for the first attempt of the delivery, as in ``FinishedAttempt``."""


@dataclass(frozen=True)
class RecordedEvent:
    """An event that was committed."""

    id: int
    """The ``sequence`` of the payload."""
    action: str
    object_type: str
    object_id: str
    object_name: str
    username: str
    request_id: str
    timestamp: datetime
    webhook_ids: Sequence[int]
    error: str
    """Why nothing is sent of it. Empty if it is sent."""


@dataclass(frozen=True)
class FinishedAttempt:
    """An attempt that was recorded."""

    delivery_id: str
    event_id: int
    webhook_id: int
    webhook_name: str
    number: int
    """1 for the first attempt of the delivery."""
    started_at: datetime
    duration_ms: int
    status: int | None
    """The HTTP status. None without an answer."""
    error_kind: str
    """A value of ``ErrorKind``. Empty for a success."""
    reason: str
    """Why it failed. The receiver may have written some of it."""
    worker: str

    @property
    def succeeded(self) -> bool:
        return not self.error_kind


@dataclass(frozen=True)
class WebhookChange:
    """A webhook that was paused, resumed or disabled."""

    id: int
    name: str
    username: str = ""
    """The user who did it. Empty: a worker did."""
    disabled_reason: str = ""
    """A value of ``DisabledReason`` if a worker disabled it."""
    last_failure: str = ""
    error_kind: str = ""
    receiver: str = ""
    """Scheme, host and port."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done, failed or was cancelled. The counts are numbers of rows."""

    id: int
    kind: str
    state: str
    done: int
    failed: int
    skipped: int
    requested_by: str
    problem: str


@dataclass(frozen=True)
class NoticedProblem:
    """An alarm of the status page."""

    problem: str
    """Its name, a value of ``insight.alarms.Problem``."""
    level: str
    """ "error" or "warning"."""
    text: str
    remedy: str
    webhook_id: int | None
    since: str
    """When it began, in ISO 8601; when a worker noticed it, if that is not known."""
    key: str = ""
    """Stays the same from look to look, and if the same problem comes again."""


class Hooks:
    """The base class. Override what you need; one instance serves all threads of a process."""

    mails_problems = False
    """Whether it notifies the operators of disabled webhooks. Then the app sends no e-mail about them."""

    def payload_context(self, change: CapturedChange) -> Mapping[str, Any] | None:
        """Return keys for ``context`` in the payload. Called in the transaction of the change, so be quick."""

    def trace_context(self, change: CapturedChange) -> str | None:
        """Return the trace context of a change, up to 100 characters. It is stored with the event, and
        ``request_prepared`` gets it. Called in the transaction of the change, so be quick."""

    def request_prepared(self, request: PreparedRequest) -> None:
        """Set headers of a request, or raise ``Veto``. Called in a thread that makes requests, under a time limit."""

    def event_recorded(self, event: RecordedEvent) -> None:
        """An event was committed: of a change, a custom event or a replay."""

    def attempt_finished(self, attempt: FinishedAttempt) -> None:
        """An attempt was recorded, a success or a failure."""

    def delivery_failed(self, attempt: FinishedAttempt) -> None:
        """A delivery was given up after this attempt. A user can retry it."""

    def webhook_paused(self, webhook: WebhookChange) -> None:
        """A user or a worker paused a webhook."""

    def webhook_resumed(self, webhook: WebhookChange) -> None:
        """A webhook gets its deliveries again: it recovered, or a user resumed or enabled it."""

    def webhook_disabled(self, webhook: WebhookChange) -> None:
        """A user or a worker disabled a webhook."""

    def job_ends(self, seconds: float) -> None:
        """The process of a job may end now, without exit handlers: write what waits, within ``seconds``."""

    def run_finished(self, run: FinishedRun) -> None:
        """A run is done, failed, or a user cancelled it."""

    def problem_began(self, problem: NoticedProblem) -> None:
        """A worker noticed a new alarm. It looks every 30 seconds."""

    def problem_ended(self, problem: NoticedProblem) -> None:
        """An alarm that ``problem_began`` announced is over."""

    def problems_seen(self, problems: Sequence[NoticedProblem]) -> None:
        """A worker looked for alarms. These have begun and are not over."""


# If a class overrides one of these, the workers look for problems.
OF_PROBLEMS = ("problem_began", "problem_ended", "problems_seen")


class Hook(NamedTuple):
    """One method of a listed class."""

    name: str
    """Its path, for the log."""
    method: Callable[[Any], Any]

    def call(self, value: Any) -> Any:
        """Returns what the hook returns, or None after an exception. Raises Veto for a request, and the time limit of a
        job."""
        try:
            return self.method(value)
        # sys.exit(), and a cancelled task of asyncio, would end the thread of others, too
        except (Exception, SystemExit, CancelledError) as error:
            if isinstance(error, Veto) and isinstance(value, PreparedRequest):
                raise
            reraise_job_timeout(error)
            _log_failure(self.name, value)


_failures: dict[str, tuple[float, int]] = {}
"""By the name of a hook, when the log had its last failure, and how many followed."""


def _log_failure(name: str, value: Any) -> None:
    """Log the exception of a hook, but not each of a thousand in a second."""
    logged_at, count = _failures.get(name, (-math.inf, 0))
    if time.monotonic() - logged_at < FAILURES_LOGGED_EVERY:
        _failures[name] = logged_at, count + 1
        return
    _failures[name] = time.monotonic(), 0
    also = f", and {count} times since the last line about it" if count else ""
    logger.exception("The hook %s failed%s", name, also, extra=_about(value))


def _about(value: Any) -> dict[str, Any]:
    """What the log says of the value that a hook gets."""
    match value:
        case PreparedRequest():
            return about(webhook=value.webhook_name, delivery=value.message_id)
        case RecordedEvent():
            return about(event=value.id)
        case FinishedAttempt():
            kind, delivery, event = value.error_kind, value.delivery_id, value.event_id
            return about(webhook=value.webhook_name, delivery=delivery, event=event, kind=kind)
        case WebhookChange():
            return about(webhook=value.name, kind=value.error_kind)
    return {}


def load(path: str) -> dict[str, Hook]:
    """The methods that this class overrides, by their names. Raises what the import and the class raise, and TypeError
    for anything but a subclass of ``Hooks``, and for an asynchronous method: nothing would await it."""
    listed = import_string(path)
    if not (isinstance(listed, type) and issubclass(listed, Hooks)):
        raise TypeError("it must be a subclass of webhooks.hooks.Hooks")
    hooks = listed()
    methods = {name: getattr(hooks, name) for name, member in vars(Hooks).items() if inspect.isfunction(member)}
    overridden = {
        name: method for name, method in methods.items() if getattr(method, "__func__", None) is not vars(Hooks)[name]
    }
    if is_async := [name for name, method in overridden.items() if inspect.iscoroutinefunction(method)]:
        raise TypeError(f"its method {is_async[0]} must not be asynchronous")
    return {name: Hook(f"{path}.{name}", method) for name, method in overridden.items()}


_loaded: dict[Sequence[str], dict[str, list[Hook]]] = {}
"""The hooks of each value of the setting so far."""

own: dict[str, list[Hook]] = {}
"""The hooks of the app itself, by name. They come first. ``apps`` fills it."""


def _overridden(paths: Sequence[str]) -> dict[str, list[Hook]]:
    """The methods that these classes override, by their names."""
    by_place: dict[str, list[Hook]] = {}
    for path in dict.fromkeys(paths):  # one that is listed twice is called once
        try:
            for name, hook in load(path).items():
                by_place.setdefault(name, []).append(hook)
        except Exception:
            logger.exception('WEBHOOKS["HOOKS"]: %s cannot be used', path)
    return by_place


def listed(name: str) -> Sequence[Hook]:
    """The hooks of this name, in the order of the setting."""
    paths = tuple(conf.hooks)
    if paths not in _loaded:
        _loaded.setdefault(paths, _overridden(paths))  # if several threads load them at once, all use the same
    return _loaded[paths].get(name, ())


def import_listed() -> None:
    """Import the listed classes, so that their modules can register events. ``listed`` logs what fails."""
    for path in conf.hooks:
        why_failed(partial(import_string, path), Exception)


def mails_problems() -> bool:
    """Whether a listed class notifies the operators of disabled webhooks."""
    listed("webhook_disabled")  # loads all
    calls = [hook.method for hooks in _loaded[tuple(conf.hooks)].values() for hook in hooks]
    return any(getattr(getattr(method, "__self__", None), "mails_problems", False) for method in calls)


def announce(name: str, using: str, values: Callable[[], Iterable[Any]]) -> None:
    """Call the hooks of this name with each of these values, once the open transaction on ``using`` is committed.

    Asks for the values at once, if there is such a hook.
    """
    if hooks := (*own.get(name, ()), *listed(name)):
        calls = [(hook.name, partial(hook.call, value)) for value in values() for hook in hooks]
        on_commit(partial(call_in_background, calls), using)


def call_in_background(calls: Iterable[tuple[str, Callable[[], object]]]) -> None:
    """Make these calls in the thread for notifications, each with a name for the log."""
    _notifier.add(calls)


def end_job() -> None:
    """Wait for the notifications of a job, and call the hooks ``job_ends``: its process may end with ``os._exit()``."""
    flush()
    for hook in listed("job_ends"):
        hook.call(FLUSH_SECONDS)


def flush(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait up to ``seconds`` for the notifications of this process. Returns whether all of them were made.

    For jobs and scripts that end with ``os._exit()``, and for tests. Others wait at their exit anyway.
    """
    return _notifier.flush(seconds)


class Notifier:
    """Makes calls in one thread, in their order. The thread starts with the first call."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._news = threading.Condition()  # guards the other attributes
        self._thread: threading.Thread | None = None
        self._stuck: list[threading.Thread] = []
        self._timer: threading.Timer | None = None
        """Looks whether a call is stuck, while others wait."""
        self._call, self._began = "", 0.0
        """The call that is being made. Empty if there is none."""
        self._dropped, self._logged = 0, float("-inf")

    def add(self, calls: Iterable[tuple[str, Callable[[], object]]]) -> None:
        with self._news:
            for call in calls:
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(call)
                else:
                    self._dropped += 1
            self._go_on()

    def _go_on(self) -> None:
        """See to what waits. The caller has the lock."""
        self._leave_stuck()
        self._log_dropped()
        if not self._waiting:
            return
        try:
            if not (self._thread and self._thread.is_alive()):
                thread = threading.Thread(target=self._work, name="webhooks-hooks", daemon=True)
                thread.start()
                self._thread, self._call = thread, ""
            if self._timer is None:
                left = self._began + STUCK_SECONDS - time.monotonic() if self._call else 0
                timer = threading.Timer(left if left > 0 else STUCK_SECONDS, self._look_again)
                timer.daemon = True
                timer.start()
                self._timer = timer
        except RuntimeError as error:  # the system has no more threads, or the process ends
            logger.warning("The thread for hooks cannot be started: %s", error)
        self._news.notify_all()

    def _look_again(self) -> None:
        """Let nothing wait behind a call that is stuck, although no other notification comes."""
        with self._news:
            self._timer = None
            self._go_on()

    def flush(self, seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: not (self._waiting or self._call), seconds)

    def _leave_stuck(self) -> None:
        """Give up waiting for a call that takes too long. Nothing can end its thread."""
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        is_stuck = self._call and time.monotonic() - self._began >= STUCK_SECONDS
        if is_stuck and self._thread and len(self._stuck) < MOST_STUCK:
            logger.error(
                "The hook %s did not return within %d s. Other hooks go on without it", self._call, STUCK_SECONDS
            )
            self._stuck.append(self._thread)
            self._thread = None

    def _log_dropped(self) -> None:
        if self._dropped and time.monotonic() - self._logged > DROPS_LOGGED_EVERY:
            logger.error("%d notifications of hooks were dropped: too many wait behind %s", self._dropped, self._call)
            self._dropped, self._logged = 0, time.monotonic()

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._thread is not me)
                if self._thread is not me:
                    return
                (self._call, call), self._began = self._waiting.popleft(), time.monotonic()
                name, began = self._call, self._began
            try:
                call()
            except Exception:
                logger.exception("The hook %s failed", name)
            if (took := time.monotonic() - began) > SLOW_SECONDS:
                logger.warning("The hook %s took %.0f s, and other hooks waited for it", name, took)
            if not self._waiting or self._thread is not me:
                connections.close_all()  # of this thread: a hook may have used the database
            with self._news:
                if self._thread is not me:
                    return
                self._call = ""
                self._news.notify_all()


_notifier = Notifier()


def _begin_anew() -> None:
    """A child process has no thread, and the notifications of its parent are not its own."""
    global _notifier
    _notifier = Notifier()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(flush)
