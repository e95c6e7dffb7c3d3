"""E-mails about problems that begin and end, grouped, at most one in ten minutes.

Each look of the workers is compared with the problems of the last e-mail. So the first problem is mailed at once, what
follows within ten minutes is one e-mail, and what came and went meanwhile is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webhooks.conf import conf
from webhooks.db import atomically, to_utc
from webhooks.delivery.policy import mail_operators
from webhooks.hooks import Hooks, NoticedProblem
from webhooks.insight.alarms import Problem
from webhooks.insight.wording import exact_time, span
from webhooks.models import Sweep

# Seconds between two e-mails.
EVERY = 600

# Percent of ``DISABLE_AFTER`` after which an e-mail warns that a paused webhook is disabled soon.
WARNED_AT = (80, 50)

# The pages that e-mails link to: of NetBox's plugin, and of Django's admin.
STATUS_PAGES = ("plugins:rq_webhooks:status", "webhooks_backend_status")
WEBHOOK_PAGES = ("plugins:rq_webhooks:webhook", "admin:rq_webhooks_webhook_change")

Known = dict[str, dict[str, Any]]
"""Problems by their keys, each with ``percent``: the last of ``WARNED_AT`` that it has reached, or 0."""


class Emails(Hooks):
    """Sends the e-mails to the addresses in ``NOTIFY``, or to Django's ``ADMINS``."""

    mails_problems = True

    def problems_seen(self, problems: Sequence[NoticedProblem]) -> None:
        now = {one.key: asdict(one) | {"percent": _percent(one)} for one in problems}
        if (before := _begin(now)) is None:
            return
        report = Report.of(before, now)
        try:
            mail_operators(report.subject, report.paragraphs())
        except Exception:
            _note(before)  # the next e-mail has it all
            raise


def _percent(problem: NoticedProblem) -> int:
    if problem.problem != Problem.PAUSED:
        return 0
    seconds = (datetime.now(UTC) - datetime.fromisoformat(problem.since)).total_seconds()
    return next((one for one in WARNED_AT if seconds >= conf.disable_after * one / 100), 0)


def _begin(now: Known) -> Known | None:
    """The problems of the last e-mail, if another one is due. Then these count as mailed."""

    def begin() -> Known | None:
        mailed = Sweep.objects.select_for_update().get(pk=1).mailed
        before: Known = mailed.get("problems", {})
        is_soon = 0 <= time.time() - mailed.get("at", 0) < EVERY
        if is_soon or not Report.of(before, now).has_news:
            return None
        _note(now)
        return before

    return atomically(begin, Sweep.objects.db)


def _note(problems: Known) -> None:
    Sweep.objects.filter(pk=1).update(mailed={"at": time.time(), "problems": problems})


@dataclass
class Report:
    """What an e-mail says: problems that are new, closer to the end of their webhook, over, or as they were."""

    new: list[Mapping[str, Any]] = field(default_factory=list)
    closer: list[Mapping[str, Any]] = field(default_factory=list)
    over: list[Mapping[str, Any]] = field(default_factory=list)
    same: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, before: Known, now: Known) -> Report:
        report = cls(over=[one for key, one in before.items() if key not in now])
        for key, one in now.items():
            if key not in before:
                report.new.append(one)
            elif one["percent"] > before[key]["percent"]:
                report.closer.append(one)
            else:
                report.same.append(one)
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
            (_("New:"), self.new, _whole),
            (_("Will be disabled if no attempt succeeds:"), self.closer, _with_end),
            (_("Over:"), self.over, lambda one: str(one["text"])),
            (_("Not over:"), self.same, lambda one: str(one["text"])),
        ]
        found = [part for title, rows, show in sections if rows for part in (title, *map(show, rows))]
        return [*found, *filter(None, [_address(STATUS_PAGES)])]


def _whole(problem: Mapping[str, Any]) -> str:
    """The problem, its remedy, since when, and the address of the webhook."""
    lines = [problem["text"], problem["remedy"], _("Since %(time)s") % {"time": exact_time(_since(problem))}]
    if problem["webhook_id"]:
        lines.append(_address(WEBHOOK_PAGES, problem["webhook_id"]))
    return "\n".join(filter(None, lines))


def _with_end(problem: Mapping[str, Any]) -> str:
    left = conf.disable_after - (datetime.now(UTC) - _since(problem)).total_seconds()
    end = _("It fails for %(percent)s %% of the time after which it is disabled: in %(span)s.")
    return f"{end % {'percent': problem['percent'], 'span': span(left)}}\n{_whole(problem)}"


def _since(problem: Mapping[str, Any]) -> datetime:
    return to_utc(datetime.fromisoformat(problem["since"]))


def _address(names: Sequence[str], *args: Any) -> str:
    """The address of the first of these pages that the site has. Empty if it has none."""
    for name in names:
        try:
            return urljoin(conf.base_url, reverse(name, args=args))
        except NoReverseMatch:
            continue
    return ""
