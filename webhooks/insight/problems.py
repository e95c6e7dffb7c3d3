"""Notice alarms that begin or end, for the hooks ``problem_began``, ``problem_ended`` and ``problems_seen``.

The last alarms are in the row of the sweep: all workers share them, and Redis may lose its data. An alarm that follows
from another one is noticed silently: with no route to the network, a hundred webhooks fail. If its cause ends and it
goes on, it begins then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from django.utils import timezone

from webhooks import hooks
from webhooks.ground.conf import conf
from webhooks.ground.db import atomically, to_utc
from webhooks.ground.db.session import statement_limit
from webhooks.hooks import NoticedProblem
from webhooks.insight.alarms import Alarm, find_alarms
from webhooks.insight.alarms.causes import MAX_ALARMS
from webhooks.insight.overview import read_for_alarms
from webhooks.insight.status import problems_of
from webhooks.models import Sweep
from webhooks.models.permissions import Operator
from webhooks.workers.redis import REDIS_TIMEOUT
from webhooks.workers.status import read_backend

# Seconds between two looks of all workers together. Sweeps that look for old rows are 30 s apart.
LOOK_EVERY = 25

# One worker looks for as long as it lives: another one may see another Redis, or have other settings and keys. After so
# many seconds without a look, another worker begins.
TAKE_OVER_AFTER = 70

# A problem may come again within so many seconds after its end. From the second time on, it is over only if it stays
# away for as long: a receiver may refuse every second request.
QUIET = 600

# Seconds that PostgreSQL may take for one statement. Other notifications wait for a look: a table may be locked.
STATEMENT_SECONDS = 10

_own_look: datetime | None = None
"""When the last look of this process began."""

Known = dict[str, dict[str, Any]]
"""Problems by a key that stays the same from look to look, those that went away in the last ``QUIET`` seconds too.

``is_announced`` is True from ``problem_began`` to ``problem_ended``. ``away_since`` is None while the problem is there,
else a time in ISO format. ``returns`` counts how often it came again within ``QUIET`` seconds after its end."""


def look(**kwargs: Any) -> None:
    """Compare the alarms with those of the last look of any worker, and call the hooks after the commit."""
    global _own_look
    using, last = Sweep.objects.db, Sweep.objects.values_list("looked_at", flat=True).filter(pk=1)
    is_ours = _own_look is not None and last.first() == _own_look
    if not Sweep.begin_look(LOOK_EVERY if is_ours else TAKE_OVER_AFTER):
        return
    began_at = _own_look = last.get()
    with statement_limit(using, STATEMENT_SECONDS):
        overview = read_for_alarms(Operator("a worker"))
    # No page waits for it, and a Redis that is busy for a second is no problem.
    alarms = find_alarms(overview, read_backend(REDIS_TIMEOUT), conf.enabled, timezone.now())

    def compare() -> None:
        row = Sweep.objects.select_for_update().get(pk=1)
        if began_at is None or row.looked_at != began_at:
            return  # this look took long, and another worker has looked since
        now = _known(problems_of(alarms), row.problems)
        now |= _away(now, row.problems, began_at)
        if len(alarms) >= MAX_ALARMS:
            now = row.problems | now  # others may still be there
        announced = [key for key, known_problem in now.items() if known_problem["is_announced"]]
        began = [key for key in announced if not _is_announced(row.problems, key)]
        ended = [key for key in row.problems if _is_announced(row.problems, key) and not _is_announced(now, key)]
        hooks.announce("problem_began", using, lambda: [_noticed(now[key]) for key in began])
        hooks.announce("problem_ended", using, lambda: [_noticed(row.problems[key]) for key in ended])
        # The last one, because an e-mail may take long.
        hooks.announce("problems_seen", using, lambda: [tuple(_noticed(now[key]) for key in announced)])
        if now != row.problems:
            Sweep.objects.filter(pk=1).update(problems=now)

    atomically(compare, using)


def _known(alarms: Iterable[Alarm], before: Known) -> Known:
    """These alarms and what follows from them, as they are now."""
    noticed: Known = {}
    for root in alarms:
        family = (root, *problems_of(root.consequences))
        is_news = root.webhook_id is None or not any(
            member.problem == root.problem and _is_announced(before, _key(member)) for member in family
        )  # of webhooks that fail alike, another one may become the first
        for alarm in family:
            key = _key(alarm)
            known = before.get(key, {})
            goes_on = known and (known["is_announced"] or not known["away_since"])
            seen_since = known["since"] if goes_on else to_utc(timezone.now()).isoformat()
            since = to_utc(alarm.since).isoformat() if alarm.since else seen_since
            new = NoticedProblem(alarm.problem, alarm.level, alarm.text, alarm.remedy, alarm.webhook_id, since, key)
            is_announced = (alarm is root and is_news) or _is_announced(before, key) or _is_announced(noticed, key)
            returns = known["returns"] + bool(known["away_since"]) if known else 0
            noticed[key] = asdict(new) | {"is_announced": is_announced, "away_since": None, "returns": returns}
    return noticed


def _away(now: Known, before: Known, at: datetime) -> Known:
    """The announced problems that are not there now, but were so in the last ``QUIET`` seconds."""
    still_known: Known = {}
    for key, known_problem in before.items():
        since = known_problem["away_since"] or at.isoformat()
        is_kept = known_problem["is_announced"] or known_problem["away_since"]
        if key not in now and is_kept and (at - datetime.fromisoformat(since)).total_seconds() < QUIET:
            is_announced = known_problem["is_announced"] and known_problem["returns"] > 1
            still_known[key] = known_problem | {"away_since": since, "is_announced": is_announced}
    return still_known


def _key(alarm: Alarm) -> str:
    """The kind of error distinguishes faults of the site. At one webhook it changes from attempt to attempt."""
    return f"{alarm.problem}:{alarm.webhook_id or ''}:{'' if alarm.webhook_id else alarm.error_kind}"


def _is_announced(known: Known, key: str) -> bool:
    return key in known and known[key]["is_announced"]


def _noticed(stored: dict[str, Any]) -> NoticedProblem:
    return NoticedProblem(**{field.name: stored[field.name] for field in fields(NoticedProblem)})
