"""Prepare this process for simulations, and run the command: ``scripts/simulate --help``."""

import logging
import os
import sys
from pathlib import Path

import django

from tests.simulation import options, planted

MEMORY = "/dev/shm"  # a file system in memory, if there is one


def main() -> None:
    given = options.parsed()
    if "PYTHONHASHSEED" not in os.environ:  # the order of sets of texts must repeat, too
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment())
    if given.planted:
        sys.exit(planted.find_all(given))
    if given.plant:
        planted.plant(given.plant)
    django.setup()
    logging.disable()  # a simulation provokes all that the app warns of
    from tests.simulation.command import run

    sys.exit(run(given))


def environment() -> dict[str, str]:
    """Such as all processes of the simulation have it."""
    memory = {"TMPDIR": MEMORY} if Path(MEMORY).is_dir() else {}
    fixed = {"PYTHONHASHSEED": "0", "DJANGO_SETTINGS_MODULE": "tests.settings"}
    return {**os.environ, **fixed, **memory}


if __name__ == "__main__":
    main()
