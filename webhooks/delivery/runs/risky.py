"""Find an event that ends or stalls the workers which take it, and limit the time of risky steps.

A risky step judges events, or calls the project's code. If it fails with its worker, it is rolled back, and another
worker takes it again. So a worker notes a risky step before it begins, in a transaction apart. If the lease of that
worker ends and the note is still there, the step was lost. The events of a lost step are then tried one at a time, and
the third loss of one of them is its end.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any

from django.db import Error, connections

from webhooks.delivery.runs.kinds import Key
from webhooks.ground.db import atomically, in_block
from webhooks.ground.errors import get_logger
from webhooks.models import Run, Worker

logger = get_logger(__name__)

# Losses that an event may have. The next one is its end.
LOSSES_ALLOWED = 2


@dataclass(frozen=True)
class Note:
    """What a worker tries, or what was lost before. A run stores it as a dictionary."""

    token: str = ""
    """The worker that is in the step. Empty: none."""
    first: int = 0
    """The first event of the step. 0: there was no step since the last one that ended well."""
    until: int = 0
    """The last event of the step, or the last one that was in a lost step."""
    losses: int = 0
    """How many steps that began with ``first`` were lost. If any was, a step takes one event."""

    @classmethod
    def of(cls, run: Run) -> Note:
        return cls(**run.note)

    def begin(self, token: str, keys: Sequence[Key]) -> Note:
        """The note of a step that begins with the first of these rows."""
        first = keys[0].event_id
        losses = self.lost().losses
        if self.first and self.first != first:
            losses = min(losses, 1)  # the one that was tried alone is gone
        if first > self.until:
            losses = 0
        return Note(token, first, self.until if losses else keys[-1].event_id, losses)

    def lost(self) -> Note:
        """The note after its step was lost, if there was one."""
        return replace(self, token="", losses=self.losses + 1) if self.token else self  # nosec B106

    def ended(self, until: int) -> Note:
        """The note after the step went well, up to this event."""
        return Note(until=self.until, losses=1) if self.losses and until < self.until else Note()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) if self != Note() else {}

    def is_of_other(self, token: uuid.UUID) -> bool:
        """Whether another worker is in the step. If its lease has ended, it is until the sweep has taken its deliveries
        back: the sweep sees by the note that they did not end the worker."""
        is_other = bool(self.token) and self.token != token.hex
        return is_other and Worker.objects.filter(token=uuid.UUID(self.token)).exists()


class Stalled(BaseException):
    """A step took too long. Not an Exception: the project's code must not handle it."""


@contextmanager
def time_limit(seconds: float, last: float) -> Iterator[None]:
    """Raise Stalled after ``seconds``. After ``last`` seconds, end the process, and print where it hangs.

    A signal interrupts Python code and waits. It interrupts no C code that keeps the interpreter to itself, so a
    thread of the C library is the last resort. Both need the main thread, which all workers use. An earlier timer of
    the host goes on: with the stock worker, it is the time limit of the job.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if not is_over:
            raise Stalled

    began = time.monotonic()
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left < seconds:
        yield  # the limit of the job comes first
        return
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        faulthandler.dump_traceback_later(last, exit=True, file=2)  # stderr
        yield
    finally:
        is_over = True
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)), interval)


@contextmanager
def counting_loss(pk: int, token: str) -> Iterator[list[bool]]:
    """Count a step as lost that ends with an error of the process or of the database, or that stalls. A worker that is
    killed cannot do it itself. Yields a list, which is not empty after a step that stalled."""
    stalled = list[bool]()
    try:
        yield stalled
    except Stalled:
        logger.warning("A step of run %d took too long, and was rolled back", pk)
        stalled.append(True)
        for connection in connections.all(initialized_only=True):
            if not in_block(connection.alias):
                connection.close()  # it may have been interrupted within a statement
        atomically(lambda: _lose(pk, token), Run.objects.db)
    except (Error, SystemExit, KeyboardInterrupt):
        with suppress(Error):  # else the note is found when the lease ends
            atomically(lambda: _lose(pk, token), Run.objects.db)
        raise


def _lose(pk: int, token: str) -> None:
    run = Run.objects.select_for_update().filter(pk=pk).first()
    if run and Note.of(run).token == token:
        run.save_step(note=Note.of(run).lost().as_dict())
