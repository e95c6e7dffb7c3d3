"""The pages that ask before a run begins, and its beginning. Forms, addresses and messages are the framework's.

One page begins a run of the rows of a list. Recover, Backfill and Recover skipped begin one of a webhook, from a chosen
time on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.http import QueryDict
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.delivery.runs.kinds import RunKind
from webhooks.models import Run
from webhooks.models.filters import EACH, SUPERSEDED, without_options
from webhooks.operations import runs
from webhooks.operations.kinds import OF_DELIVERIES
from webhooks.operations.run_filters import filters_in_words
from webhooks.pages.acts import Message, changed
from webhooks.pages.run import Question, ask

# A page counts for this many seconds before it answers. Then it loads itself again, and counts for longer.
COUNT_SECONDS = 0.03


def ask_about_list(kind: RunKind, filters: Mapping[str, Any], user: Any, query: QueryDict) -> dict[str, Any]:
    """The context of the page that asks before it acts on all rows that these filters choose. Raises RefusedFilter."""
    question = ask(kind, filters, user, takes_all=True, seconds=_seconds(query))
    return list_context(question, query) | {"filters": filters_in_words(filters)}


def list_context(question: Question, query: QueryDict) -> dict[str, Any]:
    """The context of a page that asks before it acts on rows of a list."""
    kind = question.kind
    return _context(question, query) | {
        "button": capfirst(kind.label),
        "list_name": _("Events") if kind.listed == "event" else _("Deliveries"),
        "each_url": f"?{query.urlencode()}&{EACH}=1" if EACH in kind.filters else "",
        "superseded_url": f"?{query.urlencode()}&{SUPERSEDED}=1" if SUPERSEDED in kind.filters else "",
    }


def ask_about_webhook(kind: RunKind, filters: Mapping[str, Any], user: Any, query: QueryDict) -> dict[str, Any]:
    """The context of the dry run of one webhook from a chosen time on."""
    return _context(ask(kind, filters, user, seconds=_seconds(query)), query)


def _context(question: Question, query: QueryDict) -> dict[str, Any]:
    """If the page cannot count the rows in ``COUNT_SECONDS``, it loads itself again, with ``?count=``: then it counts
    for longer."""
    return {
        "question": question,
        "counts_on": question.preview.is_stopped and "count" not in query,
        "count_url": f"?{query.urlencode()}&count=all",
        "nonce": uuid.uuid4().hex,  # the button of a page begins one run
    }


def _seconds(query: QueryDict) -> float:
    return runs.PREVIEW_SECONDS if "count" in query else COUNT_SECONDS


def begin(
    kind: RunKind, filters: Mapping[str, Any], user: Any, posted: QueryDict, *, is_elsewhere: bool
) -> Run | Message | None:
    """Act on the rows that these filters choose: at once if they are few, else by a run. Returns the result or the run.

    If the button is on another page, which did not ask, and there are many rows, it does nothing and returns None.
    Raises RefusedFilter and RunExists.
    """
    if is_elsewhere and runs.few_rows(kind.name, filters, user) is None:
        return None
    result = runs.act(kind.name, filters, user, posted.get("nonce", ""), takes_all=not without_options(filters))
    return result if isinstance(result, Run) else changed(OF_DELIVERIES[kind.name].done, result)


def begin_of_webhook(kind: RunKind, filters: Mapping[str, Any], user: Any, posted: QueryDict) -> Run:
    """Begin the run of one webhook. Raises RunExists."""
    return runs.start(kind.name, filters, user, request_key=posted.get("nonce", ""))
