"""Change deliveries, a few at once or many in a run, and say how to send the ones that need no retry.

``kinds`` has the kinds: retry, resend and discard.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.db.models import BooleanField, Count, ExpressionWrapper, Q, QuerySet, Value
from django.utils.translation import gettext as _
from django.utils.translation import ngettext_lazy

from webhooks.delivery.runs.kinds import (
    LEFT_OUT,
    Applied,
    Key,
    Look,
    Portion,
    Position,
    RunKind,
    TimeLeft,
    next_events,
    user_of,
)
from webhooks.delivery.wake_up import wake_on_commit
from webhooks.ground.db import Among, DatabaseNow, to_db_time
from webhooks.ground.text import clean, username_of
from webhooks.insight import history
from webhooks.insight.wording import number
from webhooks.models import Delivery, QueuedDelivery, Run, State, Webhook, lanes, permissions
from webhooks.models.columns import USERNAME_LENGTH
from webhooks.models.delivery import DeliveryQuerySet, Handover, superseded_column
from webhooks.models.filters import SUPERSEDED, TIMES, are_queued, filters_of, select, without_options
from webhooks.models.queue import OPEN_STATES, QueuedDeliveryQuerySet

# Deliveries that one call changes at most, more than a page shows: workers wait for these rows. Runs change more.
MAX_CHANGED = 1000

# Deliveries of a webhook that are counted at most, to say how many it holds back.
MOST_COUNTED = 10_000

# Who asked, if no user did: a command or other code.
PROGRAM = "a program"

# A look reads the first rows among so many deliveries for each. If these are too few, it reads all.
PER_FIRST = 5


def name_of(user: Any) -> str:
    """The name of a user for ``Attempt.requested_by``. Never empty: it marks deliveries sent again by hand."""
    return clean(username_of(user), USERNAME_LENGTH) or PROGRAM


class DeliveryKind(RunKind):
    """A kind of run that changes deliveries. The same act can change a few of them at once."""

    listed = "delivery"
    nouns = ("delivery",)
    filters = (*filters_of("deliveries"),)

    operation: ClassVar[str]
    """The operation of ``permissions`` on a delivery: "retry" needs ``rq_webhooks.retry_delivery``."""
    queued: ClassVar[Sequence[State]] = ()
    """The states of its rows without a filter by state, if the queue has all of them."""
    decided_at: ClassVar[str] = "discarded_at"
    """The time of the opposite decision. If a user took it after the run began, the run leaves the delivery out."""

    action_label: ClassVar[Any]
    """The action in the list of deliveries."""
    done: ClassVar[Any]
    """What happened to ``%(number)s`` deliveries at once."""
    why_left: ClassVar[Any]
    """Why the admin left out some of the chosen deliveries."""
    meaning_of_one: ClassVar[str]
    """What the REST API says about the operation on one delivery, in English."""
    refusal: ClassVar[Any]
    """Why the REST API cannot do it to the delivery ``%(id)s``, which is ``%(state)s``."""
    button: ClassVar[Any]
    """The button of one delivery."""
    button_question: ClassVar[Any] = ""
    """What to ask before that, if it is dangerous."""
    button_detail: ClassVar[Any] = ""
    """What the ``%(webhook)s`` then does not get."""
    gives_way_to: ClassVar[str] = ""
    """The name of another kind: a delivery shows its button alone, if both are possible."""

    choose: ClassVar[staticmethod[[DeliveryQuerySet], DeliveryQuerySet]]
    """The ones of these deliveries that it can change."""
    change: ClassVar[staticmethod[[DeliveryQuerySet, str], int]]
    """Changes a few deliveries, as the user of this name asked. Returns how many it changed."""
    change_locked: ClassVar[staticmethod[[str, Sequence[uuid.UUID], str, Handover], int]]
    """Changes deliveries whose rows and lanes are locked. Called as ``models.delivery.resend``."""

    def button_in(self, state: str) -> str:
        """The button of a delivery in this state."""
        return str(self.button)

    # A few at once

    def perform(self, deliveries: DeliveryQuerySet, user: Any = None) -> int:
        """Change deliveries now, at most ``MAX_CHANGED``. Returns how many it changed.

        If they are sent, paused webhooks are probed at once. A ``user`` gets entries in the history.
        """
        # The first ones of each lane come first, if there are too many.
        first = self.choose(deliveries).order_by("event_id", "pk")
        webhooks = dict(first.values_list("pk", "webhook")[:MAX_CHANGED])
        changed = self.change(Delivery.objects.filter(pk__in=webhooks.keys()), name_of(user))
        if self.is_sent:
            Webhook.objects.filter(pk__in=set(webhooks.values())).probe()
        if user is not None and changed:
            rows = list(Delivery.objects.for_list().filter(pk__in=webhooks.keys()))
            history.record(user, rows, history.CHANGE, f"{self.past}.")
        wake_on_commit()
        return changed

    # The rows of a run

    def rows(self, run: Run, user: Any = None, with_superseded: bool = False) -> DeliveryQuerySet:
        """The deliveries that a run takes, or also the superseded ones that it leaves out. With a ``user``, those on
        which the user may act.

        A user has decided that the receiver does not need a discarded one. So a run takes it only if a filter names the
        state.
        """
        rows: Any = select("deliveries", without_options(run.filters))
        if user is not None:
            rows = permissions.allowed(user, self.operation, permissions.found_deliveries(user, rows, run.filters))
        if self._leaves_superseded(run) and not with_superseded:
            rows = rows.not_superseded()
        return self.choose(rows if "state" in run.filters else rows.filter(discarded_at=None))

    def superseded(self, run: Run, user: Any = None) -> DeliveryQuerySet:
        """The superseded deliveries that the run leaves out."""
        found = self.rows(run, user, with_superseded=True).superseded()
        return found if self._leaves_superseded(run) else found.none()

    def _leaves_superseded(self, run: Run) -> bool:
        """Whether the run leaves out superseded deliveries: the receiver would end with their old state."""
        return SUPERSEDED in self.filters and SUPERSEDED not in run.filters

    def _rows_of_run(self, run: Run, *conditions: Any, with_superseded: bool = False) -> DeliveryQuerySet:
        user = user_of(run) if run.is_restricted else None
        return self.rows(run, user, with_superseded).filter(*conditions)

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        counts, left_out = self._count(run, _between(after, until))
        return {**counts, LEFT_OUT: left_out}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return _first(self._rows_of_run(run, *_between(after, until), Q(webhook=webhook)), limit)

    # The preview of a run

    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        """In two or three queries, however many webhooks have rows.

        The queue has few of the stored deliveries. If all rows are there, it looks at these, by their ids, which follow
        the time. Otherwise it looks at all deliveries of some events.
        """
        if (queue := self._queue(run)) is None:
            begin, until = next_events(run, after, size)
            return self._found(run, until, limit, _between(begin, until))
        rows = queue.order_by("pk") if after is None else queue.filter(pk__gt=after).order_by("pk")
        keys = list(rows.values_list("pk", flat=True)[:size])
        of_run = [Q(event__gt=run.counted_event), Q(event__lte=run.last_event)]
        chosen = ([Among("id", some, "uuid"), *of_run] for some in (keys[: PER_FIRST * limit], keys))
        end: Position = keys[-1] if len(keys) == size else run.last_event
        return self._found(run, end, limit, *chosen) if keys else Look(end)

    def _queue(self, run: Run) -> QueuedDeliveryQuerySet | None:
        """The rows of the queue that have all deliveries of the run, and others. None if it does not have them all."""
        states = run.filters.get("state") or self.queued
        if not states or not are_queued({"state": states}):
            return None
        chosen = {name: value for name, value in run.filters.items() if name in ("webhook", *TIMES)}
        return select("deliveries", chosen, QueuedDelivery.objects.in_states(*states))  # type: ignore[no-any-return]

    def _found(self, run: Run, until: Position, limit: int, *conditions: Sequence[Any]) -> Look:
        """Count the rows that meet the last of these conditions, and read the first ones. Mostly, enough of these meet
        the conditions before."""
        look = Look(until)
        look.counts, look.superseded = self._count(run, conditions[-1])
        wanted = min(limit, look.counts.total())
        for chosen in conditions:
            if len(look.first) < wanted:
                look.first = _first(self._rows_of_run(run, *chosen), limit)
        return look

    def _count(self, run: Run, conditions: Sequence[Any]) -> tuple[Counter[int], int]:
        """The numbers of rows by webhook, and how many superseded ones the run leaves out."""
        found, left_out = Counter[int](), 0
        superseded: Any = superseded_column() if self._leaves_superseded(run) else Value(False)
        rows = self._rows_of_run(run, *conditions, with_superseded=True).order_by()
        counts = rows.annotate(read_superseded=superseded).values("webhook", "read_superseded")
        for webhook, is_left_out, count in counts.annotate(count=Count("pk")).values_list(
            "webhook", "read_superseded", "count"
        ):
            if is_left_out:
                left_out += count
            else:
                found[webhook] = count
        return found, left_out

    def rows_of_index(self, run: Run) -> list[QuerySet[Any]] | None:
        """A delivery fails after it was created: so the deliveries of a time are among the ones that failed since."""
        filters = dict(without_options(run.filters))
        states = filters.pop("state", None)
        if states is None and filters.keys() == {"error_kind"}:
            return [select("deliveries", filters)]
        takes_pending = states is None and self.takes_pending
        names = {"webhook", "created_after"} if takes_pending else {"webhook", "created_after", "error_kind"}
        if not (takes_pending or states == [State.FAILED]) or not filters.keys() <= names:
            return None
        queue = QueuedDelivery.objects.failed()
        if since := filters.pop("created_after", ""):
            queue = queue.filter(failed_at__gte=to_db_time(datetime.fromisoformat(since)))
        counted: list[QuerySet[Any]] = [queue.filter(**filters)]
        if takes_pending:
            counted.append(QueuedDelivery.objects.filter(**filters, due_at__gt=DatabaseNow()))
        return counted

    # A step of a run

    def apply(self, run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft) -> Applied:
        using, ids = Delivery.objects.db, [key.id for portion in portions for key in portion.keys]
        # The rows were read some time ago, and a user may have decided since. With the locks of the lanes and of the
        # rows, no user can change them before the step does.
        if not lanes.try_lock_of(using, ids):
            return Applied(left=len(ids))
        chosen = self._rows_of_run(run).filter(Among("id", ids, "uuid")).order_by()
        chosen = chosen.exclude(**{f"{self.decided_at}__gte": run.created})  # even if its state matches again
        ids = list(chosen.select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))
        return Applied(self.change_locked(using, ids, run.requested_by, handover))


def _first(rows: DeliveryQuerySet, limit: int) -> list[Key]:
    """The first of these deliveries, in the order of their events."""
    return [Key(*row) for row in rows.order_by("event_id").values_list("event_id", "pk")[:limit]]


def _between(after: int, until: int) -> Sequence[Any]:
    """Deliveries of the events after one and up to another one."""
    return [Selective(event__gt=after), Selective(event__lte=until)]


class Selective(ExpressionWrapper):
    """A condition on one column that few rows meet. SQLite then looks up rows by its index.

    SQLite has no statistics, and believes that a webhook or a kind of error has few deliveries.
    """

    def __init__(self, **condition: Any) -> None:
        super().__init__(Q(**condition), BooleanField())

    def as_sqlite(self, compiler: Any, connection: Any) -> Any:
        condition, parameters = self.as_sql(compiler, connection)
        return f"likelihood({condition}, 0.000001)", parameters


PAUSED = ngettext_lazy(
    "%(count)s delivery waits, because the webhook is paused. Resume the webhook: this sends it.",
    "%(count)s deliveries wait, because the webhook is paused. Resume the webhook: this sends them.",
    "number",
)
DISABLED = ngettext_lazy(
    "%(count)s delivery waits, because the webhook is disabled. Enable the webhook: this sends it.",
    "%(count)s deliveries wait, because the webhook is disabled. Enable the webhook: this sends them.",
    "number",
)


def held_back(webhook_id: Any, user: Any) -> str:
    """How to send deliveries that need no retry, because only their webhook holds them back; empty without any that the
    user may view."""
    webhook = permissions.visible_webhooks(user).filter(pk=webhook_id).first()
    waits = permissions.visible_queue(user).filter(webhook=webhook_id).in_states(*OPEN_STATES)
    if webhook is None or webhook.is_sendable or not (count := waits[: MOST_COUNTED + 1].count()):
        return ""
    shown = number(count) if count <= MOST_COUNTED else _("More than %(count)s") % {"count": number(MOST_COUNTED)}
    return str((PAUSED if webhook.enabled else DISABLED) % {"number": count, "count": shown})
