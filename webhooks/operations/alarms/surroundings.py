"""What else happened around the time that a problem began: who changed the webhook, which worker started or stopped,
and which settings were new.

Two queries for any number of alarms. They need the admin's history, so a host without the admin sees no changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.utils.translation import gettext as _

from webhooks.models import Worker as Lease
from webhooks.operations import history
from webhooks.operations.alarms.alarm import Alarm, Problem
from webhooks.operations.wording import clock_time
from webhooks.workers.status import Backend

# Something counts if it happened this long before the problem began, or just after: clocks differ a little.
BEFORE, AFTER = timedelta(minutes=15), timedelta(seconds=10)

# At most this many things are named for one problem.
MOST = 3

OF_WORKERS = (Problem.NO_WORKER, Problem.NO_WORKER_OF_QUEUE, Problem.FAULT, Problem.SILENT_WORKER)


@dataclass(frozen=True)
class Happening:
    """Something that happened, to one webhook or to the workers."""

    at: datetime
    text: str
    webhook_id: int | None = None


def with_surroundings(alarms: Sequence[Alarm], backend: Backend) -> list[Alarm]:
    """The alarms, each with what happened around the time that it began."""
    if not any(alarm.since for alarm in alarms):
        return list(alarms)
    webhooks = {alarm.webhook_id for alarm in alarms if alarm.webhook_id and alarm.since}
    happened = sorted([*_changes(webhooks), *_workers(backend)], key=lambda one: one.at)
    return [replace(alarm, around=_around(alarm, happened)) for alarm in alarms]


def _around(alarm: Alarm, happened: Iterable[Happening]) -> tuple[str, ...]:
    if not alarm.since:
        return ()
    first, last = alarm.since - BEFORE, alarm.since + AFTER
    near = [one for one in happened if first <= one.at <= last and _concerns(alarm, one)]
    return tuple(f"{clock_time(one.at)} {one.text}" for one in near[-MOST:])


def _concerns(alarm: Alarm, one: Happening) -> bool:
    """A deploy restarts the workers, with other settings: that may be why a receiver refuses them."""
    if one.webhook_id is None:
        return alarm.problem in OF_WORKERS or bool(alarm.error_kind)
    return alarm.webhook_id == one.webhook_id


def _changes(webhooks: set[int]) -> Iterator[Happening]:
    for entry in history.newest_of_webhooks(webhooks):
        text = _("%(user)s added the webhook.") if entry.is_addition() else _("%(user)s: %(change)s")
        text %= {"user": entry.user, "change": entry.get_change_message()}
        yield Happening(entry.action_time, text, int(entry.object_id))


def _workers(backend: Backend) -> Iterator[Happening]:
    for worker in backend.workers:
        if worker.started_at:
            text = _("Worker %(name)s started.")
            if worker.changed_settings:
                text = _("Worker %(name)s started with other settings than the one before: %(settings)s.")
            shown = {"name": worker.label, "settings": ", ".join(worker.changed_settings)}
            yield Happening(worker.started_at, text % shown)
    stopped: Any = Lease.objects.expired().order_by("-lease_until").values_list("name", "lease_until")
    for name, lease_until in stopped[:MOST]:
        if name:
            yield Happening(lease_until, _("Worker %(name)s stopped, or lost the database.") % {"name": name})
