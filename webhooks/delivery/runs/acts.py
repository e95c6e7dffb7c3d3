"""What each kind of run does with its rows. ``operations`` adds the kinds that need capture."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import BooleanField, Count, ExpressionWrapper, Q

from webhooks import permissions
from webhooks.models import Delivery, Run, RunKind, resend_sql
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.event import EventQuerySet
from webhooks.models.queue import ClaimedRow
from webhooks.models.selection import Filters, select_deliveries, select_events

# The key of rows that are events, and belong to no single webhook.
EVENTS = 0


class Key(NamedTuple):
    """One row of a run. Within a webhook, the ids of events are the order."""

    event_id: int
    id: Any


class Portion(NamedTuple):
    """The rows that a step takes of one webhook: ``keys`` are all rows with events after ``after`` and up to ``until``.
    The worker has capacity to send ``free`` of them."""

    webhook: int
    after: int
    until: int
    keys: Sequence[Key]
    free: int


@dataclass
class Applied:
    """What a step has done with its rows. The rest needed nothing."""

    done: int = 0
    failed: int = 0
    problem: str = ""
    claimed: list[ClaimedRow] = field(default_factory=list)

    def add(self, other: Applied) -> None:
        self.done += other.done
        self.failed += other.failed
        self.problem = other.problem or self.problem
        self.claimed += other.claimed


class Act(ABC):
    """What a kind of run does."""

    is_sent: bool
    """Whether its rows are sent at once, so that a step takes only as many as the worker has capacity for."""

    @abstractmethod
    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        """The number of its rows by webhook, with events after one and up to another one. ``EVENTS`` is the key of rows
        that are events."""

    @abstractmethod
    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        """The next rows of one webhook in the order of their events, after one event and up to another one."""

    @abstractmethod
    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        """Change these rows. Claim of each webhook up to ``free`` rows with the ``token``."""

    def look(self, run: Run, after: int, until: int, limit: int) -> tuple[dict[int, int], list[Key]]:
        """What the run would take of these events: the numbers by webhook, and the first ``limit`` rows."""
        counts = self.count(run, after, until)
        keys = [key for webhook in counts if limit for key in self.keys(run, webhook, after, until, limit)]
        return counts, sorted(keys, key=lambda key: key.event_id)[:limit]


class RunRefused(Exception):
    """A run cannot go on. The message says why."""


def user_of(run: Run) -> Any:
    """The user who began a run that only takes rows on which its user may act. Raises RunRefused without one."""
    user = permissions.find_user(run.requested_by)
    if user is None:
        raise RunRefused(f"there is no user {run.requested_by} any more")
    if not user.is_active:
        raise RunRefused(f"the user {run.requested_by} is not active any more")
    return user


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
    rows: Any = select_deliveries(run.filters)
    if user is not None:
        rows = permissions.allowed(user, kind, permissions.visible_deliveries(user, rows))
    return CHOICES[kind](rows if "state" in run.filters else rows.filter(discarded_at=None))


def events_of(run: Run, filters: Filters) -> EventQuerySet:
    """The events that these filters choose, and that the user of a restricted run may view."""
    events = select_events(filters, finds_times=False)
    return permissions.visible_events(user_of(run), events) if run.is_restricted else events  # type: ignore[return-value]


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

    def look(self, run: Run, after: int, until: int, limit: int) -> tuple[dict[int, int], list[Key]]:
        """In two queries, however many webhooks have rows."""
        first = self._rows(run, after, until).order_by("event_id").values_list("event_id", "pk")[:limit]
        return self.count(run, after, until), [Key(*row) for row in first]

    def _rows(self, run: Run, after: int, until: int) -> DeliveryQuerySet:
        rows = rows_of(self._kind, run, user_of(run) if run.is_restricted else None)
        return rows.filter(Selective(event__gt=after), Selective(event__lte=until))

    def apply(self, run: Run, portions: Sequence[Portion], token: uuid.UUID | None) -> Applied:
        ids, using = [key.id for portion in portions for key in portion.keys], Delivery.objects.db
        if self._kind == RunKind.DISCARD:
            return Applied(Delivery.objects.filter(pk__in=ids).discard())
        change = resend_sql.retry if self._kind == RunKind.RETRY else resend_sql.resend
        free = {portion.webhook: portion.free for portion in portions}
        resent = change(using, ids, run.requested_by, free, token)
        return Applied(resent.changed, claimed=resent.claimed)


class EventAct(Act):
    """What a kind of run does with events."""

    @abstractmethod
    def events(self, run: Run) -> EventQuerySet:
        """The events that the run takes."""

    def key(self, run: Run) -> int:
        """The key of its rows: ``EVENTS``, or the webhook that gets them."""
        return EVENTS

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
