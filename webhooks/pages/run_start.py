"""The pages that ask before a run begins, and its beginning.

One page begins a run of the rows of a list. Recover, Backfill and Recover skipped begin one of a webhook, from a chosen
time on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from webhooks.delivery.runs.kinds import RunKind
from webhooks.models import Run, Webhook
from webhooks.models.filters import EACH, SUPERSEDED, without_options
from webhooks.operations import runs
from webhooks.operations.kinds import OF_DELIVERIES
from webhooks.operations.run_filters import RefusedFilter, filters_in_words
from webhooks.pages.acts import ERROR, WARNING, Message, changed
from webhooks.pages.forms.runs import read_run, since_form
from webhooks.pages.links import Link
from webhooks.pages.run import Question, ask

# A page counts for this many seconds before it answers. Then it loads itself again, and counts for longer.
COUNT_SECONDS = 0.03


@dataclass(frozen=True)
class StartPages:
    """The pages of one framework."""

    page: Callable[[HttpRequest, str, dict[str, Any]], HttpResponse]
    """A page with the template "start" or "recover"."""
    show: Callable[[HttpRequest, Message], None]
    """Shows a message on the next page."""
    address: Callable[[Link], str]
    back: Callable[[HttpRequest, str], HttpResponse]
    """Redirects to the page of the pressed button, or else to this address."""
    back_field: str
    """What the button of another page posts: the address to return to."""

    def of_list(self, request: HttpRequest) -> HttpResponse:
        """GET previews the run of the rows that the filters of a list choose, POST begins it.

        Few deliveries are changed at once. If the button is on another page, which did not ask, and there are many
        rows, ask first.
        """
        kind, filters = read_run(request)
        list_url = self.address(Link("", kind.listed))
        try:
            if request.method != "POST":
                question = ask(kind, filters, request.user, takes_all=True, seconds=_seconds(request.GET))
                context = list_context(question, request.GET) | {"filters": filters_in_words(filters)}
                return self.page(request, "start", context | {"list_url": list_url})
            if self.back_field in request.POST and runs.few_rows(kind.name, filters, request.user) is None:
                return redirect(request.get_full_path())
            return self._begin(request, kind, filters)
        except RefusedFilter as refused:
            return self._leave(request, Message(str(refused), ERROR), list_url)

    def of_webhook(self, request: HttpRequest, webhook: Webhook, kind: RunKind) -> HttpResponse:
        """The form, the dry run of a chosen time, or with POST the begun run."""
        if not runs.may_begin(request.user, kind.name):
            raise PermissionDenied
        posted = request.POST if request.method == "POST" else None
        form, act = since_form(kind)(request.GET or None if posted is None else posted), capfirst(kind.label)
        title = _("%(act)s %(webhook)s") % {"act": act, "webhook": webhook}
        context: dict[str, Any] = {"form": form, "title": title, "act": act, "kind": kind, "webhook": webhook}
        if form.is_valid():
            filters = form.filters(webhook)
            if posted is not None:
                return self._begin(request, kind, filters)
            question = ask(kind, filters, request.user, seconds=_seconds(request.GET))
            context |= _context(question, request.GET) | form.shown()
        return self.page(request, "recover", context)

    def _begin(self, request: HttpRequest, kind: RunKind, filters: dict[str, Any]) -> HttpResponse:
        takes_all, nonce = not without_options(filters), request.POST.get("nonce", "")
        try:
            result = runs.act(kind.name, filters, request.user, nonce, takes_all)
        except runs.RunExists as existing:
            address = self.address(Link("", "run", existing.run.pk))
            return self._leave(request, Message(str(existing), WARNING), address)
        if not isinstance(result, Run):
            self.show(request, changed(OF_DELIVERIES[kind.name].done, result))
            return self.back(request, self.address(Link("", kind.listed)))
        runs.name_webhooks([result], request.user)
        text = _('Run {} has begun: {}. Workers do it in the background. <a href="{}">See its progress</a>.')
        address = self.address(Link("", "run", result.pk))
        message = Message(format_html(text, result.pk, runs.summary(result), address))
        if kind.is_of_webhook:
            address = self.address(Link("", "webhook", filters["webhook"]))
        return self._leave(request, message, address)

    def _leave(self, request: HttpRequest, message: Message, address: str) -> HttpResponse:
        self.show(request, message)
        return redirect(address)


def list_context(question: Question, query: QueryDict) -> dict[str, Any]:
    """The context of a page that asks before it acts on rows of a list."""
    kind = question.kind
    return _context(question, query) | {
        "title": question.title,
        "button": capfirst(kind.label),
        "list_name": _("Events") if kind.listed == "event" else _("Deliveries"),
        "each_url": f"?{query.urlencode()}&{EACH}=1" if EACH in kind.filters else "",
        "superseded_url": f"?{query.urlencode()}&{SUPERSEDED}=1" if SUPERSEDED in kind.filters else "",
    }


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
