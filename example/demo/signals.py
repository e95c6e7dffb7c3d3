"""Stop the demo on Ctrl-C, on SIGTERM, and when its terminal closes.

The handler raises nothing, because Python drops exceptions in finalizers, and migrations run many of them.
"""

import signal
import sys
from contextlib import suppress
from types import FrameType

_received: list[int] = []


def listen() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # keep nohup working
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    _received.append(number)


def exit_if_received() -> None:
    """Raise SystemExit after a signal. All steps and loops of the demo call this."""
    if _received:
        _say("\nStopping ...")
        sys.exit(128 + _received[0])


def say_stopped() -> None:
    """The last line after a signal."""
    if _received:
        _say("Stopped. The demo's data was deleted.")


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(text, flush=True)
