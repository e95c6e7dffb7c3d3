"""What each kind of run does with its rows. ``operations`` adds the kinds that need capture."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import BooleanField, Count, ExpressionWrapper, Q, Value

from webhooks import permissions
from webhooks.conf import conf
from webhooks.db import Among
from webhooks.delivery.clock import elapsed
from webhooks.models import Delivery, Event, QueuedDelivery, Run, RunKind, State, Webhook, lanes
from webhooks.models.delivery import DeliveryQuerySet, resend, retry, superseded_column
from webhooks.models.event import EventQuerySet
from webhooks.models.queue import ClaimedRow, QueuedDeliveryQuerySet
from webhooks.models.selection import (
    SUPERSEDED,
    TIMES,
    Filters,
    are_queued,
    queue_of,
    select_deliveries,
    select_events,
    without_options,
)

# The key of rows that are events, and belong to no single webhook.
EVENTS = 0


class Key(NamedTuple):
    """One row of a run. Within a webhook, the ids of events are the order, or other positions: see ``Act.bounds``."""

    event_id: int
    id: Any


class Portion(NamedTuple):
    """The rows that a step takes of one webhook: ``keys`` are all rows with events after ``after`` and up to ``until``.
    The worker has capacity to send ``free`` of them. ``prepared`` is what ``Act.prepare`` found out about them."""

    webhook: int
    after: int
    until: int
    keys: Sequence[Key]
    free: int
    prepared: Any = None

    def first(self, count: int) -> Portion:
        """Only the first ``count`` rows."""
        if count >= len(self.keys):
            return self
        return self._replace(keys=self.keys[:count], until=self.keys[count - 1].event_id)


@dataclass
class Applied:
    """What a step has done with its rows. The rest needed nothing.

    ``left`` is how many of the last rows it has not looked at, because its time was over."""

    done: int = 0
    failed: int = 0
    problem: str = ""
    claimed: list[ClaimedRow] = field(default_factory=list)
    left: int = 0

    def add(self, other: Applied) -> None:
        self.done += other.done
        self.failed += other.failed
        self.problem = other.problem or self.problem
        self.claimed += other.claimed
        self.left += other.left


Position = int | uuid.UUID | None
"""Where a look ended, and the next one begins: after an event or a delivery. None at the beginning."""


@dataclass
class Look:
    """What a run would take of some rows, up to the position ``until``: the numbers by webhook, and the first rows.

    ``is_last`` says that no rows follow. ``unjudged`` events may be wanted or not: judging them failed, for the reason
    in ``problem``. ``left_out`` match the filters, but the run leaves them out unless it is asked to take them. So do
    ``superseded`` deliveries. Rows that are ``unreadable`` have objects that cannot be read."""

    until: Position
    is_last: bool
    counts: dict[int, int]
    first: list[Key]
    unjudged: int = 0
    problem: str = ""
    left_out: int = 0
    superseded: int = 0
    unreadable: int = 0


class TimeLeft:
    """The time that a step or a preview may take. It begins now."""

    def __init__(self, seconds: float) -> None:
        self._end = elapsed() + seconds

    @property
    def is_over(self) -> bool:
        return elapsed() >= self._end


def seconds_of_step() -> float:
    """The time that a step may take to judge and to serialize: a sixth of the lease."""
    return conf.lease / 6


class Act(ABC):
    """What a kind of run does."""

    is_sent: bool
    """Whether its rows are sent at once, so that a step takes only as many as the worker has capacity for."""

    stride = 1
    """How far a query looks for each unit of the pace: the positions of rows are the ids of events, or count other
    things."""

    def bounds(self, since: datetime | None) -> tuple[int, int]:
        """The position before the first row from this aware time on, and the one of the last row. No later row is
        taken."""
        ids = Event.objects.order_by("pk").values_list("pk", flat=True)
        first = Event.objects.first_since(since) if since is not None else ids.first()
        return (first or 1) - 1, ids.last() or 0  # deleted events leave millions of unused ids before the first one

    def name_of(self, key: Key) -> str:
        """A row in words, for a problem."""
        event = Event.objects.filter(pk=key.event_id).first()
        return f"event {key.event_id} ({event.name if event else ''})"

    def names(self, keys: Sequence[Key], user: Any) -> dict[Any, str]:
        """The names of rows by id, as far as the user may view them. Without a user, of all."""
        found = dict[Any, Any]()
        if user is None or permissions.may_view_events(user):
            found |= Event.objects.for_list().in_bulk([key.id for key in keys if key.id == key.event_id])
        if user is None or permissions.may_view_deliveries(user):
            found |= Delivery.objects.for_list().in_bulk([key.id for key in keys if key.id != key.event_id])
        return {pk: str(row) for pk, row in found.items()}

    def is_risky(self, webhook: int) -> bool:
        """Whether rows under this key may end or stall the worker: it judges them, or calls the project's code."""
        return False

    @abstractmethod
    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        """The number of its rows by webhook, with events after one and up to another one. ``EVENTS`` is the key of rows
        that are events."""

    @abstractmethod
    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        """The next rows of one webhook in the order of their events, after one event and up to another one."""

    def prepare(self, run: Run, portion: Portion, time_left: TimeLeft) -> Portion:
        """What can be found out about risky rows before the step's transaction. Returns fewer rows if the time is
        over."""
        return portion

    @abstractmethod
    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None, time_left: TimeLeft) -> Applied:
        """Change these rows, if they still match. Claim of each webhook up to ``free`` rows with the ``token``.

        Looks at one risky row at least, and at more until the time is over."""

    @abstractmethod
    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        """What the run would take of the next ``size`` events or deliveries: the numbers by webhook, and the first
        ``limit`` rows."""


class RunRefused(Exception):
    """A run cannot go on. The message says why."""


ADD_RUN = "rq_webhooks.add_run"

# The permissions that a user needs for a run, in addition to the one to add runs.
PERMISSIONS = {
    RunKind.RETRY: ("rq_webhooks.retry_delivery",),
    RunKind.RESEND: ("rq_webhooks.resend_delivery",),
    RunKind.DISCARD: ("rq_webhooks.discard_delivery",),
    RunKind.REPLAY: ("rq_webhooks.replay_event",),
    RunKind.RECOVER: ("rq_webhooks.retry_delivery", "rq_webhooks.replay_event"),
    RunKind.BACKFILL: ("rq_webhooks.resend_delivery",),
    RunKind.RECOVER_SKIPPED: ("rq_webhooks.replay_event",),
}


def webhook_of(run: Run) -> Webhook:
    """The webhook that a run is for. Raises RunRefused if it was deleted."""
    webhook = Webhook.objects.filter(pk=run.filters["webhook"]).first()
    if webhook is None:
        raise RunRefused("the webhook was deleted")
    return webhook


def user_of(run: Run) -> Any:
    """The user who began a run. Raises RunRefused if there is none any more."""
    user = permissions.find_user(run.requested_by)
    if user is None:
        raise RunRefused(f"there is no user {run.requested_by} any more")
    if not user.is_active:
        raise RunRefused(f"the user {run.requested_by} is not active any more")
    return user


def approve(run: Run) -> None:
    """Raise RunRefused for a run of a user who may not begin it any more."""
    if not run.is_by_user:
        return
    user = user_of(run)
    needed = (ADD_RUN, *PERMISSIONS[RunKind(run.kind)])
    if missing := [one for one in needed if not permissions.has_perm(user, one)]:
        raise RunRefused(f"the user {run.requested_by} does not have the permission {', '.join(missing)} any more")


class Selective(ExpressionWrapper):
    """A condition on one column that few rows meet. SQLite then looks up rows by its index.

    SQLite has no statistics, and believes that a webhook or a kind of error has few deliveries.
    """

    def __init__(self, **condition: Any) -> None:
        super().__init__(Q(**condition), BooleanField())

    def as_sqlite(self, compiler: Any, connection: Any) -> Any:
        condition, parameters = self.as_sql(compiler, connection)
        return f"likelihood({condition}, 0.000001)", parameters


# The deliveries that a run of each kind can take.
CHOICES: dict[str, Callable[[DeliveryQuerySet], DeliveryQuerySet]] = {
    RunKind.RETRY: DeliveryQuerySet.retriable,
    RunKind.RESEND: DeliveryQuerySet.resendable,
    RunKind.DISCARD: DeliveryQuerySet.discardable,
}


def rows_of(kind: str, run: Run, user: Any = None) -> DeliveryQuerySet:
    """The deliveries that a run of this kind takes. With a ``user``, those on which the user may act.

    A user has decided that the receiver does not need a discarded one. So a run takes it only if a filter names the
    state.
    """
    rows: Any = select_deliveries(without_options(run.filters))
    if user is not None:
        rows = permissions.allowed(user, kind, permissions.found_deliveries(user, rows, run.filters))
    if leaves_superseded(kind, run):
        rows = rows.not_superseded()
    return CHOICES[kind](rows if "state" in run.filters else rows.filter(discarded_at=None))


def leaves_superseded(kind: str, run: Run) -> bool:
    """Whether the run leaves out superseded deliveries: the receiver would end with their old state."""
    return kind in (RunKind.RETRY, RunKind.RESEND) and SUPERSEDED not in run.filters


def with_superseded(run: Run) -> Run:
    """The same run, unsaved, with the superseded deliveries."""
    return Run(
        filters=run.filters | {SUPERSEDED: True},
        **{name: getattr(run, name) for name in ("kind", "requested_by", "is_restricted", "is_by_user")},
    )


def superseded_of(kind: str, run: Run, user: Any = None) -> DeliveryQuerySet:
    """The superseded deliveries that the run leaves out."""
    if not leaves_superseded(kind, run):
        return Delivery.objects.none()
    return rows_of(kind, with_superseded(run), user).superseded()


def events_of(run: Run, filters: Filters) -> EventQuerySet:
    """The events that these filters choose, and that the user of a restricted run may view."""
    events = select_events(filters, finds_times=False)
    return permissions.visible_events(user_of(run), events) if run.is_restricted else events  # type: ignore[return-value]


def next_events(run: Run, after: Position, size: int) -> tuple[int, int]:
    """The next events that a look is about: after one, and up to another one."""
    begin = after if isinstance(after, int) else run.counted_event
    return begin, min(begin + size, run.last_event)


# The states of the deliveries that a run takes without a filter by state. The queue has all of them.
QUEUED: dict[str, Sequence[State]] = {
    RunKind.RETRY: (State.FAILED, State.PENDING),
    RunKind.DISCARD: (State.WAITING, State.PENDING, State.FAILED),
}

# A look reads the first rows among so many deliveries for each. If these are too few, it reads all.
PER_FIRST = 5


class DeliveryAct(Act):
    """Retry, resend or discard deliveries."""

    def __init__(self, kind: RunKind) -> None:
        self._kind = kind
        self.is_sent = kind != RunKind.DISCARD

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        rows = self._rows(run, after, until).order_by().values("webhook").annotate(count=Count("pk"))
        return {row["webhook"]: row["count"] for row in rows}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        rows = self._rows(run, after, until).filter(webhook=webhook).order_by("event_id")
        return [Key(*row) for row in rows.values_list("event_id", "pk")[:limit]]

    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        """In two or three queries, however many webhooks have rows.

        The queue has few of the stored deliveries. If all rows are there, it looks at these, by their ids, which follow
        the time. Otherwise it looks at all deliveries of some events.
        """
        if (queue := self._queue(run)) is None:
            begin, until = next_events(run, after, size)
            look = Look(until, until >= run.last_event, {}, [])
            self._add(look, run, limit, [Selective(event__gt=begin), Selective(event__lte=until)])
            return look
        rows = queue.order_by("pk") if after is None else queue.filter(pk__gt=after).order_by("pk")
        keys = list(rows.values_list("pk", flat=True)[:size])
        look = Look(keys[-1] if keys else after, len(keys) < size, {}, [])
        if keys:
            of_run = [Q(event__gt=run.counted_event), Q(event__lte=run.last_event)]
            few = keys[: PER_FIRST * limit]
            self._add(look, run, limit, [Among("id", keys, "uuid"), *of_run], [Among("id", few, "uuid"), *of_run])
        return look

    def _queue(self, run: Run) -> QueuedDeliveryQuerySet | None:
        """The rows of the queue that have all deliveries of the run, and others. None if it does not have them all."""
        states = run.filters.get("state") or QUEUED.get(self._kind)
        if not states or not are_queued({"state": states}):
            return None
        chosen = {name: value for name, value in run.filters.items() if name in ("webhook", *TIMES)}
        return queue_of(chosen, QueuedDelivery.objects.in_states(*states))

    def _add(
        self, look: Look, run: Run, limit: int, conditions: Sequence[Any], few: Sequence[Any] | None = None
    ) -> None:
        """Count the rows that meet the conditions, and read the first ones. Mostly, enough of these meet ``few``."""
        for webhook, is_superseded, count in self._counts(run, conditions):
            if is_superseded:
                look.superseded += count
            else:
                look.counts[webhook] = count
        wanted = min(limit, sum(look.counts.values()))
        for chosen in (few, conditions) if few else (conditions,):
            if len(look.first) < wanted:
                first = self._all_rows(run).filter(*chosen).order_by("event_id").values_list("event_id", "pk")
                look.first = [Key(*row) for row in first[:limit]]

    def _counts(self, run: Run, conditions: Sequence[Any]) -> Iterable[tuple[int, bool, int]]:
        """The numbers of rows by webhook, and of the superseded ones that the run leaves out."""
        superseded: Any = Value(False)
        if leaves_superseded(self._kind, run):
            run = with_superseded(run)
            superseded = superseded_column()
        rows = self._all_rows(run).filter(*conditions).order_by().annotate(read_superseded=superseded)
        return (
            rows.values("webhook", "read_superseded")
            .annotate(count=Count("pk"))
            .values_list("webhook", "read_superseded", "count")
        )

    def _rows(self, run: Run, after: int, until: int) -> DeliveryQuerySet:
        return self._all_rows(run).filter(Selective(event__gt=after), Selective(event__lte=until))

    def _all_rows(self, run: Run) -> DeliveryQuerySet:
        return rows_of(self._kind, run, user_of(run) if run.is_restricted else None)

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None, time_left: TimeLeft) -> Applied:
        using = Delivery.objects.db
        ids = self._still_chosen(run, [key.id for portion in portions for key in portion.keys])
        if self._kind == RunKind.DISCARD:
            return Applied(Delivery.objects.filter(pk__in=ids).discard())
        change = retry if self._kind == RunKind.RETRY else resend
        free = {portion.webhook: portion.free for portion in portions}
        resent = change(using, ids, run.requested_by, free, token)
        return Applied(resent.changed, claimed=resent.claimed)

    def _still_chosen(self, run: Run, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        """The rows that still match the run. They were read some time ago, and a user may have decided since.

        With the locks of their lanes and of the rows, so that no user can change them before the step does.
        """
        lanes.lock_of(Delivery.objects.db, ids)
        decision = "queued__requested_at" if self._kind == RunKind.DISCARD else "discarded_at"
        chosen = self._all_rows(run).filter(Among("id", ids, "uuid")).order_by()
        chosen = chosen.exclude(**{f"{decision}__gte": run.created})  # even if its state matches again
        return list(chosen.select_for_update(no_key=True, of=("self",)).values_list("pk", flat=True))


class EventAct(Act):
    """What a kind of run does with events."""

    @abstractmethod
    def events(self, run: Run) -> EventQuerySet:
        """The events that the run takes."""

    def key(self, run: Run) -> int:
        """The key of its rows: ``EVENTS``, or the webhook that gets them."""
        return EVENTS

    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        begin, until = next_events(run, after, size)
        first = self.keys(run, EVENTS, begin, until, limit) if limit else []
        return Look(until, until >= run.last_event, self.count(run, begin, until), first)

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return {self.key(run): self.events(run).filter(pk__gt=after, pk__lte=until).count()}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return keys_of(self.events(run), after, until, limit)


def keys_of(events: EventQuerySet, after: int, until: int, limit: int) -> list[Key]:
    """The next of these events, after one and up to another one."""
    found = events.filter(pk__gt=after, pk__lte=until).order_by("pk")
    return [Key(pk, pk) for pk in found.values_list("pk", flat=True)[:limit]]


acts: dict[str, Act] = {kind: DeliveryAct(kind) for kind in (RunKind.RETRY, RunKind.RESEND, RunKind.DISCARD)}
"""The act of each kind of run. ``operations`` adds the ones that need capture."""
