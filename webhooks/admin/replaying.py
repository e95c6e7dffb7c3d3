"""Replay: failed events, sent with the data of today; and those that were cut."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest

from webhooks import retries
from webhooks.admin.display import count_of
from webhooks.models import Event

# So many are replayed by one request: each is serialized anew.
MOST = 1000

# So many that could not be replayed are told one by one.
MOST_TOLD = 5


def replay(request: HttpRequest, chosen: QuerySet[Event]) -> None:
    """Make new events for those that failed, oldest first, and tell the user what came of each."""
    failed = chosen.filter(error__gt="").order_by("pk")
    replayed = retries.replay(failed[:MOST], request.user)
    made = [one for one in replayed if one.event]
    if made:
        verb = "is" if len(made) == 1 else "are"
        messages.success(request, f"{count_of(len(made), 'event')} {verb} replayed.")
    problems = [one for one in replayed if not one.event]
    for one in problems[:MOST_TOLD]:
        name = one.failed.object_repr or f"{one.failed.object_type} {one.failed.object_id}"
        messages.error(request, f"Nothing is sent for “{name}”: {one.problem}.")
    if len(problems) > MOST_TOLD:
        messages.error(request, f"Nothing is sent for {count_of(len(problems) - MOST_TOLD, 'more event')} either.")
    if not replayed:
        messages.warning(request, "Nothing to do: none of these failed.")
    if failed.count() > MOST:
        messages.warning(request, "There were too many for one request: do it again for the rest.")
