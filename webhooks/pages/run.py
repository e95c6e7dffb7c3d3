"""What the page of a run shows: its progress, its rows, and the buttons that pause, resume and cancel it."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from webhooks import permissions
from webhooks.delivery.runs.kinds import ADD_RUN, kind_of
from webhooks.insight.wording import number
from webhooks.models import Run, RunState
from webhooks.models.filters import ACTOR_FILTERS
from webhooks.models.selection import without_options
from webhooks.operations import runs
from webhooks.operations.run_filters import filters_in_words
from webhooks.pages.links import Link


class RunPage:
    """A run as one user may see it."""

    def __init__(self, run: Run, user: Any) -> None:
        runs.name_webhooks([run], user)
        self.run = run
        self.title = title_of(run)
        self.progress = progress_text(run)
        self.problem = runs.shown_problem(run, user)
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
    if not run.is_open or not permissions.has_perm(user, ADD_RUN):
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
    listed, filters = kind_of(run).listed, dict(without_options(run.filters))
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
