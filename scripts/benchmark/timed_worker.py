"""The shipped worker, which also writes how long its transactions take to the file in BENCH_TRANSACTIONS.

Each line has the name of the transaction, the time of its end (monotonic) and its seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from webhooks.delivery import claims, dispatch
from webhooks.workers import WebhookWorker, runner

PATH = f"{__name__}.TimedWorker"
VARIABLE = "BENCH_TRANSACTIONS"

# A dispatch claims its new deliveries in the same transaction.
TRANSACTIONS = {"claim": (dispatch, claims), "record": (runner,)}


class TimedWorker(WebhookWorker):
    """A worker class for ``rqworker --worker-class``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        log = open(os.environ[VARIABLE], "a", buffering=1)  # noqa: SIM115 # as long as the process lives
        for name, modules in TRANSACTIONS.items():
            for module in modules:
                module.atomically = _timed(name, module.atomically, log.write)  # type: ignore[attr-defined]


def _timed(name: str, run: Callable[..., Any], write: Callable[[str], object]) -> Callable[..., Any]:
    def atomically(work: Callable[[], Any], using: str) -> Any:
        started = time.monotonic()
        try:
            return run(work, using)
        finally:
            ended = time.monotonic()
            write(f"{name} {ended} {ended - started}\n")

    return atomically
