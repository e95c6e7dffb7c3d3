"""Why the demo ends early."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class DemoError(Exception):
    """Something is not as it should be; ``log`` is the file that may tell why."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class PortTaken(DemoError):
    """Somebody else took a port between its choice and its use: try again with others."""


class Stopped(BaseException):
    """A signal told the demo to end; like KeyboardInterrupt, no ``except Exception`` swallows it."""

    def __init__(self, number: int) -> None:
        self.number = number


def wait_for(check: Callable[[], T | None], seconds: float, what: str, log: Path | None = None) -> T:
    """The first result of ``check`` that is not None. Raises DemoError when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise DemoError(f"{what} did not happen within {seconds:g} s", log)
        time.sleep(0.05)
