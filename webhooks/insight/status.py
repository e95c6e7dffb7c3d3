"""The status of the site: its alarms and counts, for the status page, the REST API and ``webhooks_status``.

Each alarm names what else happened around the time that it began: who changed the webhook, which worker started or
stopped, and which settings were new. Without the admin's history, nothing is known of changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import Error
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from webhooks.ground.conf import conf
from webhooks.ground.db import elapsed
from webhooks.ground.db.session import statement_limit
from webhooks.ground.errors import describe_error
from webhooks.insight import history
from webhooks.insight.alarms import Alarm, Level, Problem, find_alarms
from webhooks.insight.counts import TOTAL_CAP
from webhooks.insight.overview import Overview, read_for_alarms, read_overview
from webhooks.insight.wording import clock_time
from webhooks.models import State
from webhooks.models import Worker as Lease
from webhooks.workers.status import Backend, read_backend

# Something counts if it happened this long before the problem began, or just after: clocks differ a little.
BEFORE, AFTER = timedelta(minutes=15), timedelta(seconds=10)

# At most this many things are named for one problem.
MAX_NAMED = 3

# Seconds that the index of the admin shows the same alarms, and the users for whom a process keeps some.
LATEST_SECONDS, MAX_READERS = 5.0, 100

# Seconds that PostgreSQL may take for one statement of pages that have other content, too.
STATEMENT_SECONDS = 2

OF_WORKERS = (Problem.NO_WORKER, Problem.NO_WORKER_OF_QUEUE, Problem.FAULT, Problem.SILENT_WORKER)


@dataclass(frozen=True)
class Status:
    """The status at one moment, as far as one user may see it. ``alarms`` has the causes, the worst first."""

    as_of: datetime
    alarms: list[Alarm]
    overview: Overview
    backend: Backend

    @property
    def level(self) -> Level:
        """The worst level: an error, a warning, or else good. A note is no problem."""
        worst = self.alarms[0].level
        return worst if worst in (Level.ERROR, Level.WARNING) else Level.GOOD

    @property
    def problems(self) -> list[Alarm]:
        """The errors and warnings."""
        return problems_of(self.alarms)

    def figures(self) -> dict[str, Any]:
        """As plain values for JSON. Counts stop at ``TOTAL_CAP``."""
        overview, capped = self.overview, partial(min, TOTAL_CAP)
        return {
            "level": self.level,
            "as_of": self.as_of,
            "alarms": [alarm.figures() for alarm in self.alarms if alarm.problem != Problem.NONE],
            "deliveries": {state.value: capped(overview.counts[state]) for state in State},
            "undispatched_events": capped(overview.undispatched),
            "failed_events": capped(overview.failed_events),
            "workers": len(self.backend.serving),
        }


def read_status(user: Any) -> Status:
    """Read the status as far as the user may see it."""
    now, overview, backend = timezone.now(), read_overview(user), read_backend()
    alarms = _keep(user, find_alarms(overview, backend, conf.enabled, now))
    return Status(now, with_surroundings(alarms, backend), overview, backend)


# The alarms that this process found last, and when, by user and language: they are texts.
_latest: dict[Any, tuple[float, list[Alarm]]] = {}


def _key(user: Any) -> Any:
    return getattr(user, "pk", user), get_language()


def _keep(user: Any, alarms: list[Alarm]) -> list[Alarm]:
    if len(_latest) >= MAX_READERS:
        _latest.clear()
    _latest[_key(user)] = elapsed(), alarms
    return alarms


def latest_problems(user: Any, statement_seconds: float | None = None) -> list[Alarm]:
    """The errors and warnings of ``read_status``, up to ``LATEST_SECONDS`` old: for pages that people open often.

    It reads no more than the alarms need: about ten queries by indexes, and Redis. ``statement_seconds`` limits each
    query, see ``statement_limit``."""
    found_at, alarms = _latest.get(_key(user), (-math.inf, []))
    if elapsed() - found_at >= LATEST_SECONDS:
        with statement_limit(Lease.objects.db, statement_seconds) if statement_seconds else nullcontext():
            overview = read_for_alarms(user)
        backend = read_backend()
        alarms = _keep(user, find_alarms(overview, backend, conf.enabled, timezone.now()))
    return problems_of(alarms)


def problems_to_show(user: Any) -> list[Alarm]:
    """As ``latest_problems``, for pages that have other content, too. If the database refuses, that is the problem."""
    try:
        return latest_problems(user, STATEMENT_SECONDS)
    except Error as error:
        text = _("The status of webhooks cannot be read: %(error)s") % {"error": describe_error(error)}
        return [Alarm(Problem.NONE, text, level=Level.ERROR)]


def problems_of(alarms: Iterable[Alarm]) -> list[Alarm]:
    """The errors and warnings. A note is no problem."""
    return [alarm for alarm in alarms if alarm.level in (Level.ERROR, Level.WARNING)]


# What else happened


@dataclass(frozen=True)
class Happening:
    """Something that happened, to one webhook or to the workers."""

    at: datetime
    text: str
    webhook_id: int | None = None
    noted_after: timedelta = timedelta(0)
    """At most this long before ``at`` it happened."""


def with_surroundings(alarms: Sequence[Alarm], backend: Backend) -> list[Alarm]:
    """The alarms, each with what happened around the time that it began. Two queries for any number of alarms."""
    if not any(alarm.since for alarm in alarms):
        return list(alarms)
    webhooks = {alarm.webhook_id for alarm in alarms if alarm.webhook_id and alarm.since}
    happened = sorted([*_changes(webhooks), *_workers(backend)], key=lambda happening: happening.at)
    return [replace(alarm, around=_around(alarm, happened)) for alarm in alarms]


def _around(alarm: Alarm, happened: Iterable[Happening]) -> tuple[str, ...]:
    if not alarm.since:
        return ()
    first, last = alarm.since - BEFORE, alarm.since + AFTER
    near = [
        happening
        for happening in happened
        if first <= happening.at <= last + happening.noted_after and _concerns(alarm, happening)
    ]
    return tuple(f"{clock_time(happening.at)} {happening.text}" for happening in near[-MAX_NAMED:])


def _concerns(alarm: Alarm, happening: Happening) -> bool:
    """A deploy restarts the workers, with other settings: that may be why a receiver refuses them."""
    if happening.webhook_id is None:
        return alarm.problem in OF_WORKERS or bool(alarm.error_kind)
    return alarm.webhook_id == happening.webhook_id


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
    for name, lease_until in stopped[:MAX_NAMED]:
        if name:
            # The lease of a killed worker ends by itself.
            text = _("Worker %(name)s stopped, or lost the database.") % {"name": name}
            yield Happening(lease_until, text, noted_after=timedelta(seconds=conf.lease))
