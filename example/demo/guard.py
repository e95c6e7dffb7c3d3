"""Stops supervisord when the demo's own process is gone, however it went: nothing must stay behind."""

from __future__ import annotations

import fcntl
import os
import signal

from demo import run


def main() -> None:
    supervisord = os.getppid()
    wait_for_the_end_of_the_demo()
    if os.getppid() == supervisord:
        os.kill(supervisord, signal.SIGTERM)
    signal.pause()


def wait_for_the_end_of_the_demo() -> None:
    """The demo holds its lock until it ends; the system takes it from one that was killed."""
    try:
        with run.current().lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return  # it has removed its directory already


if __name__ == "__main__":
    main()
