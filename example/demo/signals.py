"""End the demo on Ctrl-C, on SIGTERM, and when its terminal closes.

The handler does not raise: Python drops what a handler raises within a finalizer, and migrations run many.
"""

import signal
import sys
from contextlib import suppress
from types import FrameType

_received: list[int] = []


def listen() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, _remember)


def _remember(number: int, frame: FrameType | None) -> None:
    _received.append(number)


def exit_if_received() -> None:
    """Raise SystemExit if a signal came. Each step of the demo and each turn of its loops calls this."""
    if _received:
        with suppress(OSError):  # the terminal may be gone
            print("\nStopping ...", flush=True)
        sys.exit(128 + _received[0])
