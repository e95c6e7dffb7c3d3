"""scripts/demo"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from demo import run, showcase
from demo.errors import DemoError, Stopped
from demo.roundtrip import RoundTrip
from demo.startup import started

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WEB_PORTS = range(8000, 8050)
TAIL_LINES = 40


def main() -> int:
    once = arguments().once
    listen_to_signals()
    try:
        with run.directory() as directory:
            check_once(directory) if once else stay_up(directory)
    except DemoError as error:
        explain(error)
        return 1
    except Stopped as stopped:
        return 128 + stopped.number
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        forget_output()  # the terminal, or the program that read the output, is gone
        return 128 + signal.SIGHUP
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Start the example site with Valkey, a webhook worker and a receiver, change an object, "
        "show the webhook that arrives, and stay up until Ctrl-C.",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="check the round trip instead (create, update, delete, a receiver that fails twice) and end: "
        "0 when all is right, else 1",
    )
    return parser.parse_args()


def listen_to_signals() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
            signal.signal(number, stop)


def stop(number: int, frame: FrameType | None) -> None:
    # Once is enough: a second Ctrl-C must not interrupt the stopping of what was started.
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    with suppress(OSError):  # the terminal may be gone
        print("\nStopping ...", flush=True)
    raise Stopped(number)


def forget_output() -> None:
    """Without this, Python would complain at its end that the rest of the output cannot be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def check_once(directory: Path) -> None:
    with started(directory, range(0)) as (here, _):
        RoundTrip(here).run()
    print("The round trip works.", flush=True)


def stay_up(directory: Path) -> None:
    with started(directory, WEB_PORTS) as (here, supervisord):
        showcase.show(here)
        showcase.print_addresses(here)
        try:
            showcase.follow(here, supervisord)
        except Stopped:
            return


def explain(error: DemoError) -> None:
    print(f"\nThe demo failed: {error}", file=sys.stderr)
    if error.log is not None and error.log.exists():
        lines = error.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        print(f"\nThe end of {os.path.relpath(error.log, run.ROOT)}:\n", *lines, sep="\n", file=sys.stderr)
        print("\nThe other logs are beside it, until the next demo starts.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
