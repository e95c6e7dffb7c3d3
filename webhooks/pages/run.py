"""What the pages of a run show: before it begins, its question; then its progress, its rows and its buttons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.delivery.runs.kinds import ADD_RUN, RunKind, kind_of
from webhooks.insight.wording import count_of, number
from webhooks.models import Delivery, Run, RunState, Webhook, permissions
from webhooks.models.filters import ACTOR_FILTERS, without_options
from webhooks.operations import runs
from webhooks.operations.kinds import OF_DELIVERIES
from webhooks.operations.retries import DeliveryKind
from webhooks.operations.run_filters import filters_in_words
from webhooks.pages.links import Link

# Before a run: its rows in words, and whether it is done at once or becomes a run


@dataclass(frozen=True)
class Question:
    """An act on many rows before a user confirms it."""

    kind: RunKind
    preview: runs.Preview
    webhook: Webhook | None = None
    """The only webhook with its rows, if the user has chosen one that they may view."""
    is_run: bool = False
    """Whether it becomes a run. Few deliveries are changed at once."""
    may_begin: bool = True

    @property
    def count(self) -> int:
        """The number of rows that texts inflect for."""
        return self.preview.count if self.preview.at_most is None or self.preview.is_complete else self.preview.at_most

    @property
    def rows(self) -> str:
        """The same in a sentence: "49,950", "at least 1,000" or "up to 10,710"."""
        words = {"count": number(self.count)}
        if self.preview.is_complete:
            return words["count"]
        return _("at least %(count)s") % words if self.preview.at_most is None else _("up to %(count)s") % words

    @property
    def more(self) -> int:
        """Rows that the sample leaves out, if all are counted."""
        return self.preview.count - len(self.preview.sample) if self.preview.is_complete else 0

    @property
    def title(self) -> str:
        """Such as "Discard 49,950 deliveries of 2 webhooks?"."""
        if not self.preview.may_take_any:
            return _("Nothing matches")
        words: dict[str, Any] = {"count": self.count, "rows": self.rows}
        if not self.webhook and not self.preview.is_complete:
            return str(self.kind.short_question % words)
        return str(self.kind.question % (words | {"webhooks": self.webhook or self._webhooks()}))

    def _webhooks(self) -> Any:
        found = self.preview.webhooks
        if len(found) == 1:
            return Webhook.with_deleted.filter(pk__in=found).first() or ""
        return count_of(len(found), "webhook")

    @property
    def heading(self) -> str:
        """Such as "49,950 would be sent"."""
        if not self.preview.may_take_any:
            return _("Nothing to send")
        text = _("%(rows)s would be sent")
        if self.kind.is_judged_later:
            text = _("at most %(rows)s would be sent") if self.preview.is_complete else _("%(rows)s would be looked at")
        return capfirst(text % {"rows": self.rows})


def ask(kind: RunKind, filters: Mapping[str, Any], user: Any, *, takes_all: bool = False, seconds: float) -> Question:
    """The question about the rows that these filters choose. It counts them for about ``seconds``. Raises
    RefusedFilter."""
    preview = runs.preview(kind.name, filters, user, takes_all=takes_all, seconds=seconds)
    may_be_few = kind.name in OF_DELIVERIES and without_options(filters)
    is_run = not may_be_few or preview.is_more_than(runs.AT_ONCE)
    may_begin = not is_run or permissions.has_perm(user, ADD_RUN)
    webhook = permissions.visible_webhooks(user).filter(pk=filters.get("webhook", 0)).first()
    return Question(kind, preview, webhook, is_run, may_begin)


def ask_about(kind: DeliveryKind, rows: Collection[Delivery]) -> Question:
    """The question about these deliveries, which the kind can change."""
    sample = [runs.Named(row.pk, str(row)) for row in sorted(rows, key=lambda row: row.event_id)]
    return Question(kind, runs.Preview(counts=Counter(row.webhook_id for row in rows), sample=sample))


# A run that has begun


class RunPage:
    """A run as one user may see it."""

    def __init__(self, run: Run, user: Any) -> None:
        runs.name_webhooks([run], user)
        self.run = run
        self.title = title_of(run)
        self.progress = progress_text(run)
        self.problem = runs.shown_problem(run, user)
        self.note = runs.superseded_note(run.superseded) if run.superseded else ""
        """What it leaves out."""
        self.acts = acts_on(run, user)
        """The buttons."""
        self.filters = filters_in_words(run.filters)
        self.matching = _matching(run, user)
        """The list with the rows that match the filters now. None if no list of the user has all of the filters."""


def title_of(run: Run) -> str:
    """Such as "Run 14: retry of deliveries of CMDB sync"."""
    return _("Run %(number)s: %(summary)s") % {"number": run.pk, "summary": runs.summary(run)}


def progress_text(run: Run) -> str:
    """Such as "67,500 of 100,000 (67 %)"."""
    if run.total is None and run.is_open:
        return _("Counting")
    words = {"taken": number(run.taken), "total": "?" if run.total is None else number(run.total)}
    if not run.total:
        return _("%(taken)s of %(total)s") % words
    return _("%(taken)s of %(total)s (%(percent)s\N{NO-BREAK SPACE}%%)") % {**words, "percent": run.percent}


def acts_on(run: Run, user: Any) -> list[Link]:
    """The buttons of one run: what the user may do with it now."""
    if not run.is_open or not permissions.may(user, "add", run):
        return []
    detail = _("What it has done stays. You can begin another run for the rest.")
    if run.total is not None:
        left = number(max(0, run.total - run.taken))
        detail = _("What it has done stays. %(left_count)s rows are left out.") % {"left_count": left}
    steer = {
        RunState.RUNNING: Link(_("Pause"), "run", run.pk, "pause", posts=True),
        RunState.PAUSED: Link(_("Resume"), "run", run.pk, "resume", posts=True, is_main=True),
    }[RunState(run.state)]
    question = _("Cancel this run?")
    return [steer, Link(_("Cancel run"), "run", run.pk, "cancel", posts=True, question=question, detail=detail)]


def _matching(run: Run, user: Any) -> Link | None:
    listed = kind_of(run).listed if run.is_known else ""
    filters = dict(without_options(run.filters))
    hides_actors = not ACTOR_FILTERS.isdisjoint(filters) and not permissions.may_view_events(user)
    if not listed or hides_actors or len(filters.get("state", ())) > 1:
        return None
    if "name" in filters:
        filters["q"] = filters.pop("name")  # the search has names
    if "state" in filters:
        [filters["state"]] = filters["state"]
    if "failed" in filters:
        filters["state"] = "failed" if filters.pop("failed") else "recorded"
    return Link(_("What matches now"), listed, filters=filters)
