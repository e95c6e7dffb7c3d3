"""E-mails about problems that begin and end, grouped, at most one in ten minutes.

Each look of the workers is compared with the problems of the last e-mail. So the first problem is mailed at once, what
follows within ten minutes is one e-mail, and what came and went meanwhile is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urljoin

from django.core.checks import register
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.contrib.alerts.checks import check_addresses
from webhooks.ground.conf import conf
from webhooks.ground.db import atomically, database_time, to_utc
from webhooks.hooks import Hooks, NoticedProblem
from webhooks.insight.alarms import Problem
from webhooks.insight.wording import exact_time, span
from webhooks.models import Sweep
from webhooks.workers.mails import mail_operators

register(check_addresses, "webhooks")  # only a project that names this module is checked

# Seconds between two e-mails.
EVERY = 600

# Percent of ``DISABLE_AFTER`` after which an e-mail warns that a paused webhook is disabled soon.
WARNED_AT = (80, 50)

# A problem of a webhook takes the place of these. They are not over: its receiver does not work.
REPLACED = {
    Problem.PAUSED: (Problem.FAILING,),
    Problem.PAUSED_BY_USER: (Problem.FAILING, Problem.PAUSED),
    Problem.DISABLED: (Problem.FAILING, Problem.PAUSED),
}

# The pages that e-mails link to: of NetBox's plugin, and of Django's admin.
STATUS_PAGES = ("plugins:rq_webhooks:status", "webhooks_backend_status")
WEBHOOK_PAGES = ("plugins:rq_webhooks:webhook", "admin:rq_webhooks_webhook_change")

Known = dict[str, dict[str, Any]]
"""Problems by their keys, each with ``percent``: the last of ``WARNED_AT`` that it has reached, or 0."""


class Emails(Hooks):
    """Sends the e-mails to the addresses in ``NOTIFY``, or to Django's ``ADMINS``."""

    mails_problems = True

    def problems_seen(self, problems: Sequence[NoticedProblem]) -> None:
        at = database_time(Sweep.objects.db)
        now = {noticed.key: asdict(noticed) | {"percent": _percent(noticed, at)} for noticed in problems}
        if (report := _begin(at, now)) is None:
            return
        # If that fails, hangs, or its worker is killed, the next e-mail has it all.
        mail_operators(report.subject, report.paragraphs())
        _end(at, now)


def _percent(problem: NoticedProblem, at: float) -> int:
    if problem.problem != Problem.PAUSED:
        return 0
    seconds = at - datetime.fromisoformat(problem.since).timestamp()
    return next((percent for percent in WARNED_AT if seconds >= conf.disable_after * percent / 100), 0)


def _begin(at: float, now: Known) -> Report | None:
    """What an e-mail says, if one is due. Then no other worker sends one for ``EVERY`` seconds."""

    def begin() -> Report | None:
        mailed = Sweep.objects.select_for_update().get(pk=1).mailed
        known = mailed.get("problems", {})
        report = Report.of(known, now, at)
        is_soon = 0 <= at - mailed.get("at", 0) < EVERY
        if is_soon or not report.has_news:
            return None
        Sweep.objects.filter(pk=1).update(mailed={"at": at, "problems": known})
        return report

    return atomically(begin, Sweep.objects.db)


def _end(at: float, now: Known) -> None:
    """Note that the e-mail was sent, unless that took so long that another one followed."""

    def end() -> None:
        if Sweep.objects.select_for_update().get(pk=1).mailed.get("at") == at:
            Sweep.objects.filter(pk=1).update(mailed={"at": at, "problems": now})

    atomically(end, Sweep.objects.db)


@dataclass
class Report:
    """What an e-mail says: problems that are new, closer to the end of their webhook, over, or as they were."""

    at: float
    """The time, in seconds since 1970."""
    new: list[Mapping[str, Any]] = field(default_factory=list)
    closer: list[Mapping[str, Any]] = field(default_factory=list)
    over: list[Mapping[str, Any]] = field(default_factory=list)
    same: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, before: Known, now: Known, at: float) -> Report:
        """Compare the problems of the last e-mail with those of now."""
        report = cls(at)
        for key, problem in now.items():
            if key not in before:
                report.new.append(problem)
            elif problem["percent"] > _percent_before(before[key], problem):
                report.closer.append(problem)
            else:
                report.same.append(problem)
        replaced = {
            (problem["webhook_id"], earlier)
            for problem in report.new
            for earlier in REPLACED.get(problem["problem"], ())
        }
        gone = [problem for key, problem in before.items() if key not in now]
        report.over += [problem for problem in gone if (problem["webhook_id"], problem["problem"]) not in replaced]
        return report

    @property
    def has_news(self) -> bool:
        return bool(self.new or self.closer or self.over)

    @property
    def subject(self) -> str:
        if count := len(self.new):
            text = ngettext("Webhooks: %(count)s new problem", "Webhooks: %(count)s new problems", count)
        elif count := len(self.closer):
            text = ngettext(
                "Webhooks: %(count)s webhook will be disabled", "Webhooks: %(count)s webhooks will be disabled", count
            )
        elif self.same:
            count = len(self.over)
            text = ngettext("Webhooks: %(count)s problem is over", "Webhooks: %(count)s problems are over", count)
        else:
            return _("Webhooks: all problems are over")
        return text % {"count": count}

    def paragraphs(self) -> list[str]:
        sections: list[tuple[str, list[Mapping[str, Any]], Callable[[Mapping[str, Any]], str]]] = [
            (_("New:"), self.new, self._whole),
            (_("Will be disabled if no attempt succeeds:"), self.closer, self._whole),
            (_("Over:"), self.over, lambda problem: str(problem["text"])),
            (_("Not over:"), self.same, lambda problem: str(problem["text"])),
        ]
        lines = [part for title, rows, show in sections if rows for part in (title, *map(show, rows))]
        return [*lines, *filter(None, [_address(STATUS_PAGES)])]

    def _whole(self, problem: Mapping[str, Any]) -> str:
        """The problem, its remedy, since when, the address of the webhook, and when that will be disabled."""
        since, lines = to_utc(datetime.fromisoformat(problem["since"])), list[str]()
        if percent := problem["percent"]:
            left = conf.disable_after - (self.at - since.timestamp())
            end = _("It fails for %(percent)s %% of the time after which it is disabled: in %(span)s.")
            lines.append(end % {"percent": percent, "span": span(left)})
        lines += [problem["text"], problem["remedy"], _("Since %(time)s") % {"time": exact_time(since)}]
        if problem["webhook_id"]:
            lines.append(_address(WEBHOOK_PAGES, problem["webhook_id"]))
        return "\n".join(filter(None, lines))


def _percent_before(mailed: Mapping[str, Any], problem: Mapping[str, Any]) -> int:
    """What the last e-mail said of this problem. 0 if the webhook has worked since, and fails again."""
    return int(mailed["percent"]) if mailed["since"] == problem["since"] else 0


def _address(names: Sequence[str], *args: Any) -> str:
    """The address of the first of these pages that the site has. Empty if it has none."""
    for name in names:
        try:
            return urljoin(conf.base_url, reverse(name, args=args))
        except NoReverseMatch:
            continue
    return ""
