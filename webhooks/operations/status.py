"""The status of the site: its alarms and counts, for the status page, the REST API and ``webhooks_status``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from webhooks.conf import conf
from webhooks.models import State
from webhooks.operations.alarms import Alarm, Level, Problem, find_alarms, with_surroundings
from webhooks.operations.counts import EACH_CAP, TOTAL_CAP
from webhooks.operations.overview import Overview, read_overview
from webhooks.workers.status import Backend, read_backend


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
        return [alarm for alarm in self.alarms if alarm.level in (Level.ERROR, Level.WARNING)]

    def figures(self) -> dict[str, Any]:
        """As plain values for JSON. Counts stop at ``TOTAL_CAP``."""

        def capped(count: int) -> int:
            return min(count, TOTAL_CAP)

        overview = self.overview
        return {
            "level": self.level,
            "as_of": self.as_of,
            "alarms": [_figures(alarm) for alarm in self.alarms if alarm.problem != Problem.NONE],
            "deliveries": {state.value: capped(overview.counts[state]) for state in State},
            "undispatched_events": capped(overview.undispatched),
            "failed_events": capped(overview.failed_events),
            "workers": len(self.backend.serving),
            "dead_rows": overview.vacuum.dead if overview.vacuum.tables else None,
        }


def _figures(alarm: Alarm) -> dict[str, Any]:
    cap = TOTAL_CAP if alarm.webhook_id is None else EACH_CAP
    return {
        "level": alarm.level,
        "problem": alarm.problem,
        "text": alarm.text,
        "remedy": alarm.remedy,
        "command": alarm.command,
        "webhook": alarm.webhook_id,
        "since": alarm.since,
        "waiting": min(alarm.waiting, cap),
        "next_probe_at": alarm.probe_at,
        "around": list(alarm.around),
        "consequences": [_figures(one) for one in alarm.consequences],
    }


def read_status(user: Any) -> Status:
    """Read the status as far as the user may see it."""
    now, overview, backend = timezone.now(), read_overview(user), read_backend()
    alarms = with_surroundings(find_alarms(overview, backend, conf.enabled, now), backend)
    return Status(now, alarms, overview, backend)
