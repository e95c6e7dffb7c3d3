"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Deadlines are given for a machine that does nothing else. They are there to end a test that waits in vain, so they
# are stretched: other tests run at the same time, and the machine may stall.
PATIENCE = 4


class OverTime(BaseException):
    """A test has taken longer than its limit.

    Hypothesis would catch an ordinary failure, and call the example unreliable that it had interrupted.
    """


def until(condition: Callable[[], T], seconds: float, what: str | Callable[[], str], every: float = 0.05) -> T:
    """Wait until ``condition`` gives something true, and return it. Raises AssertionError after ``seconds``,
    stretched."""
    deadline = time.monotonic() + (seconds := seconds * PATIENCE)
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what() if callable(what) else what}")
        time.sleep(every)
    return result


def until_there(path: Path) -> None:
    """Wait until a file is there: a job whose end a test decides."""
    until(path.exists, 60, str(path))
