"""One alarm."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.utils.translation import gettext as _

from webhooks.insight.counts import EACH_CAP, TOTAL_CAP
from webhooks.insight.wording import clock_time, number, span


class Level(StrEnum):
    """How bad it is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    GOOD = "good"


class Problem(StrEnum):
    """The name of an alarm, for monitoring."""

    TURNED_OFF = "turned_off"
    REDIS = "redis"
    SUSPENDED = "suspended"
    NO_WORKER = "no_worker"
    NO_WORKER_OF_QUEUE = "no_worker_of_queue"
    STOCK_WORKERS = "stock_workers"
    SILENT_WORKER = "silent_worker"
    CLOCK = "clock"
    FAULT = "fault"
    UNDISPATCHED = "undispatched"
    OVERDUE = "overdue"
    NO_MODEL = "no_model"
    NOT_REGISTERED = "not_registered"
    SKIPS_ALL = "skips_all"
    BEING_DELETED = "being_deleted"
    NO_WEBHOOK = "no_webhook"
    ALL_DISABLED = "all_disabled"
    DISABLED = "disabled"
    UNREADABLE = "unreadable"
    PAUSED_BY_USER = "paused_by_user"
    PAUSED = "paused"
    FAILING = "failing"
    BLOCKED_LANES = "blocked_lanes"
    FAILED_DELIVERIES = "failed_deliveries"
    SUPERSEDED = "superseded"
    FAILED_EVENTS = "failed_events"
    RETENTION = "retention"
    NONE = "none"


@dataclass(frozen=True)
class Alarm:
    """A problem, and the way out."""

    problem: Problem
    text: str
    """What is wrong, in a sentence or two."""
    remedy: str = ""
    """What to do."""
    level: Level = Level.WARNING
    command: str = ""
    """What to type."""
    webhook_id: int | None = None
    """The webhook that it is about."""
    since: datetime | None = None
    waiting: int = 0
    """How many deliveries and changes wait because of it, up to a cap."""
    probe_at: datetime | None = None
    """The next probe of a paused webhook."""
    error_kind: str = ""
    receiver: str = ""
    """Scheme, host and port."""
    around: tuple[str, ...] = ()
    """What else happened around the time that it began."""
    consequences: tuple[Alarm, ...] = ()
    """The alarms that follow from it."""

    @property
    def _cap(self) -> int:
        """Where the count of what waits stops."""
        return TOTAL_CAP if self.webhook_id is None else EACH_CAP

    def facts(self, now: datetime) -> list[str]:
        """Since when, how many wait, and when the next probe is."""
        facts = []
        if self.since:
            facts.append(_("since %(time)s") % {"time": clock_time(self.since)})
        if self.waiting:
            facts.append(_("%(count)s not sent yet") % {"count": number(self.waiting, self._cap)})
        if self.probe_at and self.probe_at > now:
            facts.append(_("next probe in %(span)s") % {"span": span((self.probe_at - now).total_seconds())})
        elif self.probe_at and self.waiting:
            facts.append(_("the next probe is due"))
        elif self.probe_at:
            facts.append(_("the next delivery is the probe"))
        return facts

    def figures(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "level": self.level,
            "problem": self.problem,
            "text": self.text,
            "remedy": self.remedy,
            "command": self.command,
            "webhook": self.webhook_id,
            "since": self.since,
            "waiting": min(self.waiting, self._cap),
            "next_probe_at": self.probe_at,
            "around": list(self.around),
            "consequences": [consequence.figures() for consequence in self.consequences],
        }
