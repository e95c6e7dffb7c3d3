"""Times the same work under several conditions, in turn, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from typing import Any

from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete, pre_save

from scripts.benchmark.errors import NotMeasured

Work = Callable[[], None]

# Prepares, gives the work that is timed, and tidies up.
Condition = Callable[[], AbstractContextManager[Work]]


def medians(rounds: int, *conditions: Condition) -> list[float]:
    """Seconds that the work takes under each condition: the median of so many rounds, in which each comes first in
    its turn."""
    taken: list[list[float]] = [[] for _ in conditions]
    for number in range(rounds):
        for place in range(len(conditions)):
            which = (place + number) % len(conditions)
            taken[which].append(_timed(conditions[which]))
    return [median(times) for times in taken]


def _timed(condition: Condition) -> float:
    with condition() as work:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


SIGNALS = (pre_save, post_save, pre_delete, post_delete, m2m_changed)


@contextmanager
def without_webhooks() -> Iterator[None]:
    """The app's signal receivers are not connected in this block; those of the project are."""
    connected = {signal: list(signal.receivers or []) for signal in SIGNALS}
    others = {signal: [one for one in those if not _is_the_apps(one)] for signal, those in connected.items()}
    if others == connected:
        raise NotMeasured("the app has connected no receivers, so there is nothing to compare with")
    _set(others)
    try:
        yield
    finally:
        _set(connected)


def _is_the_apps(receiver: Any) -> bool:
    # Django keeps it under its dispatch_uid, which the app gives to each.
    uid = receiver[0][0]
    return isinstance(uid, str) and uid.startswith("webhooks.")


def _set(receivers: dict[Any, list[Any]]) -> None:
    for signal, those in receivers.items():
        with signal.lock:
            signal.receivers = those
            signal.sender_receivers_cache.clear()
