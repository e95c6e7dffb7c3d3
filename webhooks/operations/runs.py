"""Begin, preview, pause, resume and cancel runs, which are acts on many rows.

Workers execute their steps in the background, see ``delivery.runs.steps``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext_lazy

from webhooks.delivery.runs.kinds import ADD_RUN, EVENTS, Look, Pace, RunKind, TimeLeft, kind_of
from webhooks.delivery.runs.late import Late, is_waiting
from webhooks.delivery.wake_up import wake_on_commit
from webhooks.ground.db import DatabaseNow
from webhooks.ground.db.django_internals import savepoint
from webhooks.ground.db.session import index_plans
from webhooks.insight import history
from webhooks.insight.wording import count_of, in_english, listed, number, span
from webhooks.models import Event, Run, RunState, Webhook, permissions
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.filters import TIMES, filter_time, without_options
from webhooks.models.run import OPEN_RUN_STATES, RunQuerySet
from webhooks.operations import retries, run_filters
from webhooks.operations.kinds import OF_DELIVERIES, RUN_KINDS
from webhooks.operations.retries import PROGRAM, name_of

# Up to this many rows are changed at once, without a run.
AT_ONCE = 100

# Rows that a preview names, webhooks that the name of a run names, and processes that a run waits for.
SAMPLE, NAMED_WEBHOOKS, NAMED_PROCESSES = 10, 3, 3

# Seconds that one query of a preview may take, and a whole preview for a request. A shorter preview has shorter
# queries, down to the last of these.
QUERY_SECONDS, PREVIEW_SECONDS, SHORTEST_QUERY_SECONDS = 3.0, 10.0, 0.05

# Seconds after which the speed of a run can be measured. Before one percent of the rows, it cannot.
SETTLED = 3


class Named(NamedTuple):
    """A row of a run, and its name, such as "AMS1 updated → CMDB". Empty if the user may not view it."""

    id: Any
    name: str


@dataclass
class Preview(Look):
    """What a run would take: the numbers of deliveries and events, and the oldest ones of them."""

    sample: list[Named] = field(default_factory=list)
    is_stopped: bool = False
    """Whether the time was over before all rows were counted."""
    at_most: int | None = None
    """If the count was stopped, no more rows than these match. None if that is not known."""
    note: str = ""
    """What it leaves out, why some events could not be judged or objects not read, and how many deliveries the webhook
    holds back. Or that nothing matches because a filter names a user who does not exist.

    Changes by a script may have the name of no user."""

    @property
    def count(self) -> int:
        return self.counts.total()

    @property
    def events(self) -> int:
        return self.counts[EVENTS]

    @property
    def deliveries(self) -> int:
        return self.count - self.events

    @property
    def webhooks(self) -> set[int]:
        """The ids of the webhooks that have the deliveries."""
        return {*self.counts} - {EVENTS}

    @property
    def is_complete(self) -> bool:
        """Whether the run would take just these rows. Otherwise at least these."""
        return not (self.is_stopped or self.unjudged)

    @property
    def may_take_any(self) -> bool:
        return bool(self.count) or not self.is_complete

    def is_more_than(self, count: int) -> bool:
        """Whether the run takes more rows. Says yes if it may."""
        return self.count > count or (not self.is_complete and (self.at_most is None or self.at_most > count))


class RunExists(Exception):
    """An open ``run`` does the same already, or with ``is_repeated`` the same request has begun it before.

    With ``has_other_times``, it has the same filters but for the times. They may overlap: "6h" was resolved twice."""

    def __init__(self, run: Run, is_repeated: bool = False, has_other_times: bool = False) -> None:
        text = _("Run %(id)s does the same and has not ended yet. Wait for it, or cancel it first.")
        if is_repeated:
            text = _("This request has begun run %(id)s already.")
        elif has_other_times:
            text = _(
                "Run %(id)s does the same for another time and has not ended yet. Wait for it, or cancel it first."
            )
        super().__init__(text % {"id": run.pk})
        self.run, self.is_repeated = run, is_repeated


def may_begin(user: Any, kind: str) -> bool:
    """Whether the user may begin runs of this kind."""
    return not RUN_KINDS[kind].missing_permissions(user, ADD_RUN)


def start(
    kind: str,
    filters: Mapping[str, Any],
    user: Any = None,
    requested_by: str = "",
    takes_all: bool = False,
    request_key: str = "",
) -> Run:
    """Begin a run. A ``user`` with permissions for some rows only gets those. Without one, ``requested_by`` says who
    asked. Without filters, a run must say that it ``takes_all``. A ``request_key`` of the user begins one run only.
    Raises RefusedFilter, PermissionDenied if the permission of the user has constraints that exclude the run, and
    RunExists for a run that was begun before.

    Returns at once: a worker counts the rows and takes them.
    """
    run = _new(kind, filters, user, takes_all)
    run.requested_by = requested_by or run.requested_by
    but_times = {name: value for name, value in filters.items() if name not in TIMES}
    run.same = _digest(kind, but_times, run.requested_by if run.is_restricted else "")
    run.request_key = _digest(run.requested_by, request_key) if request_key else ""
    try:
        with transaction.atomic(Run.objects.db):
            run.created = DatabaseNow()  # decisions of users have the time of the database, too
            run.save()
            run.refresh_from_db(fields=["created"])
            if user is not None and not permissions.may(user, "add", run):
                text = _("Your permission %(permission)s does not include such a run.")
                raise PermissionDenied(text % {"permission": ADD_RUN})
            with in_english():
                what = summary(run)
            history.record_summary(user or run.requested_by, Run, what, history.ADDITION, f"Started run {run.pk}.")
            wake_on_commit()
    except IntegrityError:
        repeated = Run.objects.filter(request_key=run.request_key).exclude(request_key="").first()
        same = Run.objects.filter(same=run.same, state__in=OPEN_RUN_STATES).first()
        if found := repeated or same:
            raise RunExists(found, repeated is not None, has_other_times=found.filters != run.filters) from None
        raise
    return run


def is_same(run: Run, kind: str, filters: Mapping[str, Any]) -> bool:
    """Whether a run does this, but for its first time: a request may say how many hours to go back."""
    times = ("created_after",) if RUN_KINDS[kind].is_of_webhook else ()
    ours, theirs = ({name: one[name] for name in one if name not in times} for one in (run.filters, filters))
    return run.kind == kind and ours == theirs


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def act(
    kind: str, filters: Mapping[str, Any], user: Any = None, request_key: str = "", takes_all: bool = False
) -> Run | int:
    """Do it at once to few deliveries, and return how many it changed. For many, and for events, begin a run.

    Raises PermissionDenied if the user may not begin runs."""
    rows = few_rows(kind, filters, user)
    if rows is not None:
        return OF_DELIVERIES[kind].perform(rows, user)
    if user is not None and not permissions.has_perm(user, ADD_RUN):
        text = _("More than %(most)s deliveries need a run. A run requires the permission %(permission)s.")
        raise PermissionDenied(text % {"most": AT_ONCE, "permission": ADD_RUN})
    return start(kind, filters, user, takes_all=takes_all, request_key=request_key)


def few_rows(kind: str, filters: Mapping[str, Any], user: Any = None) -> DeliveryQuerySet | None:
    """The deliveries that ``act`` changes at once. None if there are many, or without filters."""
    if kind not in OF_DELIVERIES or not without_options(filters):
        return None
    rows = OF_DELIVERIES[kind].rows(_new(kind, filters, user, takes_all=False), user)
    return rows if rows[: AT_ONCE + 1].count() <= AT_ONCE else None


def preview(
    kind: str, filters: Mapping[str, Any], user: Any = None, takes_all: bool = False, seconds: float = math.inf
) -> Preview:
    """What ``start`` with the same arguments would take. Raises RefusedFilter, too.

    Looks at some rows at a time, and stops after about ``seconds``.
    """
    run = _new(kind, filters, user, takes_all)
    using, pace, time_left = Event.objects.db, Pace(is_hurried=seconds < 1), TimeLeft(seconds)
    found, is_done = Preview(), run.counted_event >= run.last_event

    def look() -> Look:
        with savepoint(using):  # PostgreSQL may stop it
            return RUN_KINDS[kind].look(run, found.until, pace.events, SAMPLE - len(found.first), time_left)

    with index_plans(using, may_sort=True, seconds=max(SHORTEST_QUERY_SECONDS, min(QUERY_SECONDS, seconds))):
        while not (is_done or found.is_stopped):
            if part := pace.read(look):
                found.add(part)
                is_done = found.until == run.last_event
            found.is_stopped = not is_done and time_left.is_over
        if found.is_stopped:
            found.at_most = pace.read(lambda: _at_most(run))
    found.first.sort(key=lambda key: key.event_id)
    viewer = user or permissions.Operator("webhooks")
    names = RUN_KINDS[kind].names(found.first, viewer)
    found.sample = [Named(key.id, names.get(key.id, "")) for key in found.first]
    found.note = _note(found, RUN_KINDS[kind], filters, viewer)
    return found


def _note(found: Preview, kind: RunKind, filters: Mapping[str, Any], user: Any) -> str:
    """See ``Preview.note``."""
    counts = {name: getattr(found, name) for name in NOTES}
    sentences = [_sentence(name, count, found.problem) for name, count in counts.items() if count]
    if not (sentences or found.count) and _names_no_user(filters, user):
        sentences.append(_("There is no user “%(user)s”.") % {"user": filters["user"]})
    if kind.takes_pending and (held := retries.held_back(filters.get("webhook"), user)):
        sentences.append(held)
    return " ".join(sentences)


def _names_no_user(filters: Mapping[str, Any], user: Any) -> bool:
    """Whether a filter names a user who does not exist. Without permission for users, they do not learn it."""
    may_know = "user" in filters and permissions.may_view_model(user, get_user_model())
    return may_know and permissions.find_user(filters["user"]) is None


def _at_most(run: Run) -> int | None:
    """How many rows match the filters, superseded ones included. Indexes count them without a look at each.

    None if no index has the filters.
    """
    if run.is_restricted or (counted := kind_of(run).rows_of_index(run)) is None:
        return None
    with savepoint(Event.objects.db):
        return sum(rows.count() for rows in counted)


# What a preview says about the rows that it does not count.
NOTES = {
    "unjudged": ngettext_lazy(
        "%(count)s event could not be judged: %(reason)s.",
        "%(count)s events could not be judged: %(reason)s.",
        "number",
    ),
    "unreadable": ngettext_lazy(
        "%(count)s more object cannot be read: it is deleted, or its model is not registered. Correct the receiver by "
        "hand.",
        "%(count)s more objects cannot be read: they are deleted, or their models are not registered. Correct the "
        "receiver by hand.",
        "number",
    ),
    "left_out": ngettext_lazy(
        "It leaves out %(count)s earlier event of the same objects: its replay would have the same data.",
        "It leaves out %(count)s earlier events of the same objects: their replays would have the same data.",
        "number",
    ),
    "superseded": ngettext_lazy(
        "It leaves out %(count)s superseded delivery: its receiver has a later state of the object.",
        "It leaves out %(count)s superseded deliveries: their receivers have later states of the objects.",
        "number",
    ),
}


def _sentence(name: str, count: int, reason: str = "") -> str:
    return str(NOTES[name] % {"number": count, "count": number(count), "reason": reason})


def superseded_note(count: int) -> str:
    """How many superseded deliveries are left out, and why."""
    return _sentence("superseded", count)


def count_superseded(kind: str, filters: Mapping[str, Any], user: Any = None) -> int:
    """How many superseded deliveries ``act`` with the same arguments leaves out, up to ``AT_ONCE``."""
    return OF_DELIVERIES[kind].superseded(_new(kind, filters, user, takes_all=False), user)[:AT_ONCE].count()


def _new(kind: str, filters: Mapping[str, Any], user: Any, takes_all: bool) -> Run:
    run_filters.check(RUN_KINDS[kind], filters, takes_all, user)
    since = datetime.fromisoformat(filters["created_after"]) if "created_after" in filters else None
    before, last = RUN_KINDS[kind].bounds(since)
    return Run(
        kind=kind,
        filters=dict(filters),
        requested_by=name_of(user),
        is_restricted=user is not None and permissions.is_partial(user),
        is_by_user=isinstance(user, get_user_model()),
        last_event=last,
        counted_event=before,
    )


def since_filters(webhook: Webhook, since: datetime) -> dict[str, Any]:
    """The filters for everything of a webhook from this aware time on.

    A recovery with them sends what failed. A backfill with them sends what the webhook did not get.
    """
    return {"webhook": webhook.pk, "created_after": filter_time(since)}


def pause(run: Run, user: Any = None) -> bool:
    """Let a run rest between two steps. Returns whether it was running."""
    return _change(run, RunQuerySet.pause, user, "Paused")


def resume(run: Run, user: Any = None) -> bool:
    """Go on with a paused run where it was. Returns whether it was paused."""
    return _change(run, RunQuerySet.resume, user, "Resumed")


def cancel(run: Run, user: Any = None) -> bool:
    """End a run; its changes stay. Returns whether it had not ended before."""
    return _change(run, RunQuerySet.cancel, user, "Cancelled")


def _change(run: Run, change: Callable[[RunQuerySet], int], user: Any, done: str) -> bool:
    with transaction.atomic(Run.objects.db), in_english():
        if not change(Run.objects.filter(pk=run.pk)):
            return False
        run.refresh_from_db()
        history.record_summary(user or PROGRAM, Run, summary(run), history.CHANGE, f"{done} run {run.pk}.")
        if not run.is_open:
            run.announce()
        wake_on_commit()
    return True


def summary(run: Run) -> str:
    """A run in words: "retry of deliveries of CMDB sync". The name of its kind if another release has begun it."""
    if not run.is_known:
        return run.kind
    kind, webhooks = kind_of(run), _names_of_webhooks(run)
    return str(kind.summary_of % {"run": kind.summary, "webhooks": webhooks} if webhooks else kind.summary)


def _names_of_webhooks(run: Run) -> str:
    """The webhooks of a run: "CMDB sync, DNS updater, IPAM and 2 others". The one with the most rows comes first.

    Without a filter by webhook, they are known after the count.
    """
    if not hasattr(run, "webhook_names"):
        name_webhooks([run])
    chosen = _webhook_ids(run)
    names = [run.webhook_names[pk] for pk in chosen[:NAMED_WEBHOOKS] if pk in run.webhook_names]
    return listed(names, len(chosen)) if names else ""


def name_webhooks(rows: Collection[Run], user: Any = None) -> None:
    """Read the names of the webhooks of these runs in one query, for ``summary``. A ``user`` gets only the names of
    webhooks that they may view."""
    ids = {pk for run in rows for pk in _webhook_ids(run)[:NAMED_WEBHOOKS]}
    webhooks: Any = Webhook.with_deleted.order_by()
    if user is not None:
        webhooks = permissions.visible_webhooks(user, webhooks)
    names = {pk: str(webhook) for pk, webhook in webhooks.in_bulk(ids).items()}
    for run in rows:
        run.webhook_names = names


def _webhook_ids(run: Run) -> list[int]:
    if "webhook" in run.filters:
        return [run.filters["webhook"]]
    found = {int(webhook): count for webhook, count in run.counts.items() if int(webhook) != EVENTS}
    return sorted(found, key=found.__getitem__, reverse=True)


def shown_problem(run: Run, user: Any) -> str:
    """The last problem of a run, as far as the user may see it: it may name an event of another object."""
    is_own = run.requested_by == name_of(user)
    if not run.problem or is_own or (permissions.may_view_events(user) and not permissions.is_partial(user)):
        return run.problem
    return _("It is shown to users who may view all events, and to the user who began the run.")


WAITS_FOR = ngettext_lazy(
    "waits for %(count)s database transaction that was open when it began (PostgreSQL process %(processes)s)",
    "waits for %(count)s database transactions that were open when it began (PostgreSQL processes %(processes)s)",
    "number",
)


def waits_for(run: Run) -> str:
    """What a run waits for; empty if for nothing. After the transactions, it takes the events that they committed."""
    if run.state == RunState.RUNNING and not run.is_known:
        return _("waits for a worker of the release that began it: this release does not have its kind")
    if run.state != RunState.RUNNING or not is_waiting(run) or not (processes := Late.of(run).open.values()):
        return ""
    named = listed([str(pid) for pid in processes][:NAMED_PROCESSES], len(processes))
    return str(WAITS_FOR % {"number": len(processes), "count": number(len(processes)), "processes": named})


def time_left(run: Run) -> str:
    """How fast a running run is since it began or was resumed, and how long it will take at this speed. Or what it
    waits for."""
    if waits := waits_for(run):
        return waits
    seconds = (timezone.now() - (run.resumed_at or run.created)).total_seconds()
    taken = run.taken - run.taken_before
    if run.state != RunState.RUNNING or not run.total or 100 * taken < run.total or seconds < SETTLED:
        return ""
    speed = taken / seconds
    words = {"speed": number(round(speed)), "time": span((run.total - run.taken) / speed)}
    return _("%(speed)s/s, about %(time)s left") % words


def record_end(sender: Any, run: Run, **kwargs: Any) -> None:
    """Add the entry in the history for a run that is done or failed."""
    kind = kind_of(run)
    with in_english():
        webhooks = _names_of_webhooks(run)
        what = f"{kind.past} {count_of(run.done, ' or '.join(kind.nouns))}" + (f" of {webhooks}" if webhooks else "")
    message = f"Ended run {run.pk}." if run.state == RunState.DONE else f"Run {run.pk} failed: {run.problem}."
    history.record_summary(history.user_named(run.requested_by), Run, what, history.CHANGE, message)
