"""End what takes too long in the main thread of a worker: the project's code may hang in a step of a run."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
