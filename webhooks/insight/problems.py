"""Notice alarms that begin or end, for the hooks ``problem_began``, ``problem_ended`` and ``problems_seen``.

The last alarms are in the row of the sweep: all workers share them, and Redis may lose its data. An alarm that follows
from another one is noticed silently: with no route to the network, a hundred webhooks fail. If its cause ends and it
goes on, it begins then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.utils import timezone

from webhooks import hooks
from webhooks.conf import conf
from webhooks.db import atomically, to_utc
from webhooks.hooks import NoticedProblem
from webhooks.insight.alarms import Alarm, find_alarms
from webhooks.insight.alarms.causes import MAX_ALARMS
from webhooks.insight.overview import read_for_alarms
from webhooks.insight.status import problems_of
from webhooks.models import Sweep
from webhooks.permissions import Operator
from webhooks.workers.status import read_backend

# Seconds between two looks of all workers together. Sweeps that look for old rows are 30 s apart.
LOOK_EVERY = 25

Known = dict[str, dict[str, Any]]
"""Problems by a key that stays the same from look to look. ``is_announced`` is True after ``problem_began``."""


def look(**kwargs: Any) -> None:
    """Compare the alarms with those of the last look of any worker, and call the hooks after the commit."""
    using = Sweep.objects.db
    if not Sweep.begin_look(LOOK_EVERY):
        return
    alarms = find_alarms(read_for_alarms(Operator("a worker")), read_backend(), conf.enabled, timezone.now())

    def compare() -> None:
        row = Sweep.objects.select_for_update().get(pk=1)
        now = _known(problems_of(alarms), row.problems)
        if len(alarms) >= MAX_ALARMS:
            now = row.problems | now  # others may still be there
        announced = [key for key, one in now.items() if one["is_announced"]]
        hooks.announce("problems_seen", using, lambda: [tuple(_noticed(now[key]) for key in announced)])
        if now == row.problems:
            return
        began = [key for key in announced if not _is_announced(row.problems, key)]
        ended = [key for key, one in row.problems.items() if one["is_announced"] and key not in now]
        hooks.announce("problem_began", using, lambda: [_noticed(now[key]) for key in began])
        hooks.announce("problem_ended", using, lambda: [_noticed(row.problems[key]) for key in ended])
        Sweep.objects.filter(pk=1).update(problems=now)

    atomically(compare, using)


def _known(alarms: Iterable[Alarm], before: Known) -> Known:
    """These alarms and what follows from them. Those known from before keep their texts and times."""
    found: Known = {}
    for root in alarms:
        for alarm in (root, *problems_of(root.consequences)):
            key = f"{alarm.problem}:{alarm.webhook_id or ''}:{alarm.error_kind}"
            since = to_utc(alarm.since or timezone.now()).isoformat()
            new = NoticedProblem(alarm.problem, alarm.level, alarm.text, alarm.remedy, alarm.webhook_id, since, key)
            one = before.get(key) or asdict(new)
            is_announced = alarm is root or _is_announced(before, key) or _is_announced(found, key)
            found[key] = one | {"is_announced": is_announced}
    return found


def _is_announced(known: Known, key: str) -> bool:
    return key in known and known[key]["is_announced"]


def _noticed(stored: dict[str, Any]) -> NoticedProblem:
    return NoticedProblem(**{name: value for name, value in stored.items() if name != "is_announced"})
