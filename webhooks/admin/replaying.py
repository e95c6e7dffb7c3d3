"""Replay: failed events, sent with the data of today; and those that were cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest

from webhooks.admin import counting
from webhooks.admin.display import count_of
from webhooks.models import Event
from webhooks.models.event import EventQuerySet
from webhooks.operations import retries
from webhooks.operations.retries import Replayed

# So many are looked for, as many as a list counts; and so many replayed before the time is looked at and the history
# written.
MOST, CHUNK = counting.ALL, 10

# So many that could not be replayed are told one by one.
MOST_TOLD = 5


@dataclass
class Done:
    """What came of those that were tried, and how many were not: so many, or at least so many."""

    made: int = 0
    unsent: int = 0
    told: list[Replayed] = field(default_factory=list)
    left: int = 0
    are_more_left: bool = False

    def add(self, replayed: list[Replayed]) -> None:
        problems = [one for one in replayed if not one.event]
        self.made += len(replayed) - len(problems)
        self.unsent += len(problems)
        self.told += problems[: MOST_TOLD - len(self.told)]


def replay(request: HttpRequest, chosen: QuerySet[Event]) -> None:
    """Make new events for those that failed, oldest first, and tell the user what came of each."""
    for level, text in _in_words(_in_time(chosen, request.user)):
        messages.add_message(request, level, text)


def _in_time(chosen: QuerySet[Event], user: Any) -> Done:
    """A few at a time, each in a transaction of its own, until a request has taken long enough."""
    failed: EventQuerySet = chosen.failed().order_by("pk")  # type: ignore[attr-defined]
    ids = list(failed.values_list("pk", flat=True)[: MOST + 1])
    done, end = Done(), time.monotonic() + retries.REQUEST_SECONDS
    for start in range(0, min(len(ids), MOST), CHUNK):
        some = ids[start : min(start + CHUNK, MOST)]
        done.add(retries.replay(Event.objects.filter(pk__in=some).order_by("pk"), user))
        if time.monotonic() > end:
            break
    done.left, done.are_more_left = len(ids) - done.made - done.unsent, len(ids) > MOST
    return done


def _in_words(done: Done) -> Iterator[tuple[int, str]]:
    if done.made:
        yield messages.SUCCESS, f"{count_of(done.made, 'event')} {_are(done.made)} replayed."
    for one in done.told:
        name = one.failed.object_repr or f"{one.failed.object_type} {one.failed.object_id}"
        yield messages.ERROR, f"Nothing is sent for “{name}”: {one.problem}."
    if more := done.unsent - len(done.told):
        yield messages.ERROR, f"Nothing is sent for {count_of(more, 'more event')} either."
    if not done.made and not done.unsent:
        yield messages.WARNING, "Nothing to do: none of these failed."
    if done.left:
        left = f"{done.left:,} or more are left" if done.are_more_left else f"{done.left:,} {_are(done.left)} left"
        yield messages.WARNING, f"There were too many for one request, {left}: do it again for the rest."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
