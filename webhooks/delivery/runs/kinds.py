"""What a kind of run is: its words, who may begin it, which rows it takes, and what a step does with them.

``operations.kinds`` has the list of all kinds. Django registers it at its start, because workers execute the steps here
and must not import it.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, TypeVar

from django.db import OperationalError
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from webhooks.ground.db import elapsed
from webhooks.ground.errors import is_statement_timeout
from webhooks.models import Delivery, Event, Run, Webhook, permissions
from webhooks.models.delivery import Handover
from webhooks.models.event import EventQuerySet
from webhooks.models.filters import TIMES, Filters, select
from webhooks.models.run import run_kinds

T = TypeVar("T")

ADD_RUN = "rq_webhooks.add_run"

# The filters of each kind of run of one webhook.
SINCE_FILTERS = ("webhook", *sorted(TIMES))
NEEDED_SINCE = ("webhook", "created_after")

# The key of rows that are events, and belong to no single webhook.
EVENTS = 0

# In a count, the key of the superseded deliveries that the run leaves out.
LEFT_OUT = -1


class Key(NamedTuple):
    """One row of a run. Within a webhook, the ids of events are the order, or other positions: ``RunKind.bounds``."""

    event_id: int
    id: Any


class Portion(NamedTuple):
    """The rows that a step takes of one webhook: ``keys`` are all rows with events after ``after`` and up to ``until``.
    ``prepared`` is what ``RunKind.prepare`` found out about them."""

    webhook: int
    after: int
    until: int
    keys: Sequence[Key]
    prepared: Any = None

    def first(self, count: int) -> Portion:
        """Only the first ``count`` rows."""
        if count >= len(self.keys):
            return self
        return self._replace(keys=self.keys[:count], until=self.keys[count - 1].event_id)


@dataclass
class Applied:
    """What a step has done with its rows. The rest needed nothing.

    ``left`` is how many of the last rows it has not looked at, because its time was over. It is the number of all rows
    if another session has locked an object or a webhook: the step comes again."""

    done: int = 0
    failed: int = 0
    problem: str = ""
    left: int = 0


Position = int | uuid.UUID | None
"""Where a look ended, and the next one begins: after an event or a delivery. None at the beginning."""


@dataclass
class Look:
    """What a run would take of some rows, up to the position ``until``: the last event of the run if no rows follow."""

    until: Position = None
    counts: Counter[int] = field(default_factory=Counter)
    """The numbers of rows, by webhook or ``EVENTS``."""
    first: list[Key] = field(default_factory=list)
    """The first rows."""
    unjudged: int = 0
    """Events that the run may take or not: their conditions could not be judged."""
    left_out: int = 0
    """Rows that match the filters, but that the run only takes if it is asked to."""
    superseded: int = 0
    """Superseded deliveries that the run leaves out in the same way."""
    unreadable: int = 0
    """Objects that are deleted, or whose model is not registered: the run cannot read them."""
    problem: str = ""
    """Why the last of the ``unjudged`` events could not be judged."""

    def add(self, other: Look) -> None:
        """Add what the next look has found."""
        self.until, self.problem = other.until, other.problem or self.problem
        self.counts += other.counts
        self.first += other.first
        for name in ("unjudged", "left_out", "superseded", "unreadable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class TimeLeft:
    """The time that a step or a preview may take. It begins now."""

    def __init__(self, seconds: float) -> None:
        self._end = elapsed() + seconds

    @property
    def is_over(self) -> bool:
        return elapsed() >= self._end


# Events that one query looks at, at first. A quick query doubles this number, a slow one halves it down to the fewest:
# if a query for so few is slow, then not because of their number, and fewer would only need more queries.
LOOK_AT, FEWEST = 10_000, 1000
QUICK_SECONDS, SLOW_SECONDS = 0.02, 0.1

# After a halved number, the time should be half as long. If it is longer than this share, it hardly depends on it: a
# partition has no statistics yet, and each query reads all of it.
SAME_FACTOR = 0.8

# A query that PostgreSQL has stopped is tried again with so many times fewer events.
STOPPED_FACTOR = 64


class Pace:
    """Adapts a number of events or deliveries to the time that the queries take. A page is hurried: its first queries
    look at the fewest."""

    def __init__(self, is_hurried: bool = False) -> None:
        self.events = min(LOOK_AT, FEWEST) if is_hurried else LOOK_AT
        """Events or deliveries that the next query looks at."""
        self._halved_after = 0.0
        """Seconds that the last query took, if the number was halved after it."""

    def read(self, read: Callable[[], T]) -> T | None:
        """Read rows, in a transaction with a time limit. None if PostgreSQL has stopped it: read fewer then."""
        began = elapsed()
        try:
            found = read()
        except OperationalError as error:
            if not is_statement_timeout(error):
                raise
            self.events = max(1, self.events // STOPPED_FACTOR)
            return None
        took = elapsed() - began
        halved_after, self._halved_after = self._halved_after, 0.0
        # If half as many took nearly as long, the time does not come from their number.
        if took < QUICK_SECONDS or took > SAME_FACTOR * halved_after > 0:
            self.events *= 4 if halved_after else 2
        elif took > SLOW_SECONDS and self.events > FEWEST:
            self.events, self._halved_after = max(FEWEST, self.events // 2), took
        return found


class RunKind(ABC):
    """A kind of run."""

    name: ClassVar[str]
    """As runs are stored, and as addresses and commands name it."""

    # Words

    label: ClassVar[Any]
    """The verb, such as "retry": buttons and choices have it."""
    past: ClassVar[str]
    """The beginning of its entry in the history, in English."""
    meaning: ClassVar[str]
    """What the help of its command and the REST API say, in English."""
    consequence: ClassVar[Any]
    """What the page before the run says about it."""
    summary: ClassVar[Any]
    """A run in words."""
    summary_of: ClassVar[Any] = _("%(run)s of %(webhooks)s")
    """The summary of a run, with the names of its webhooks."""
    question: ClassVar[Any] = ""
    """What the page asks before a run of ``%(rows)s`` of a list, and perhaps of ``%(webhooks)s``."""
    short_question: ClassVar[Any] = ""
    """The same while the webhooks are not all known."""
    link: ClassVar[Any] = ""
    """The link of a webhook to the page that begins it, if ``is_of_webhook``."""

    # Rows

    listed: ClassVar[str]
    """The model with the list of its rows: "delivery", "event" or "skip". Empty if no filters of a list find them."""
    nouns: ClassVar[Sequence[str]]
    """Its rows, as ``count_of`` counts them: deliveries, events, or both in this order."""
    filters: ClassVar[Sequence[str]]
    """The names of the filters and options that it can have, of ``models.filters.FILTERS``."""
    needed: ClassVar[Sequence[str]] = ()
    """The filters that it needs."""
    states: ClassVar[Sequence[str]] = ()
    """The states of deliveries that a filter can choose."""
    permissions: ClassVar[Sequence[str]]
    """What a user needs in addition to ``ADD_RUN``."""
    is_dangerous: ClassVar[bool] = False
    """Whether the button before it is red, and actions of lists ask first."""
    is_judged_later: ClassVar[bool] = False
    """Whether a preview does not judge the conditions: workers take fewer rows."""
    takes_pending: ClassVar[bool] = False
    """Whether it makes pending deliveries due now. The ones of a paused webhook wait for the webhook alone."""

    # Steps

    is_sent: ClassVar[bool] = True
    """Whether its rows are sent at once, so that a step takes only as many as the worker has capacity for."""

    stride: ClassVar[int] = 1
    """How far a query looks for each unit of the pace: the positions of rows are the ids of events, or count other
    things."""

    @property
    def is_of_webhook(self) -> bool:
        """Whether a run is for one webhook, and not for the rows of a list."""
        return "webhook" in self.needed

    def missing_permissions(self, user: Any, *also: str) -> list[str]:
        """The permissions that the user does not have for it, of these and its own."""
        return [one for one in (*also, *self.permissions) if not permissions.has_perm(user, one)]

    def rows_of_index(self, run: Run) -> list[QuerySet[Any]] | None:
        """Rows that indexes count, and that include all rows of the run. None if no index has the filters."""
        return None

    def bounds(self, since: datetime | None) -> tuple[int, int]:
        """The position before the first row from this aware time on, and the one of the last row. No later row is
        taken."""
        ids = Event.objects.order_by("pk").values_list("pk", flat=True)
        first = Event.objects.first_since(since) if since is not None else ids.first()
        return (first or 1) - 1, ids.last() or 0  # deleted events leave millions of unused ids before the first one

    def late_key(self, run: Run) -> int | None:
        """The key of the rows that the run reads again, after the transactions that were open when it began: see
        ``late``. Such a row does not match any more once the run has done it. None: no row may come late."""
        return None

    def name_of(self, key: Key) -> str:
        """A row in words, for a problem."""
        event = Event.objects.filter(pk=key.event_id).first()
        return f"event {key.event_id} ({event.name if event else ''})"

    def names(self, keys: Sequence[Key], user: Any) -> dict[Any, str]:
        """The names of rows by id, as far as the user may view them."""
        found = dict[Any, Any]()
        if permissions.may_view_events(user):
            found |= Event.objects.for_list().in_bulk([key.id for key in keys if key.id == key.event_id])
        if permissions.may_view_deliveries(user):
            found |= Delivery.objects.for_list().in_bulk([key.id for key in keys if key.id != key.event_id])
        return {pk: str(row) for pk, row in found.items()}

    def is_risky(self, webhook: int) -> bool:
        """Whether rows under this key may end or stall the worker: it judges them, or calls the project's code."""
        return False

    @abstractmethod
    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        """The number of its rows by webhook, with events after one and up to another one. ``EVENTS`` is the key of rows
        that are events, ``LEFT_OUT`` that of superseded deliveries."""

    @abstractmethod
    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        """The next rows of one webhook in the order of their events, after one event and up to another one."""

    def prepare(self, run: Run, portion: Portion, time_left: TimeLeft) -> Portion:
        """What can be found out about risky rows before the step's transaction. Returns fewer rows if the time is
        over."""
        return portion

    @abstractmethod
    def apply(self, run: Run, portions: Sequence[Portion], handover: Handover, time_left: TimeLeft) -> Applied:
        """Change these rows, if they still match. The ``handover`` claims what goes back into the queue.

        The rows are of one risky portion, or of any number of others. Looks at one risky row at least, and at more
        until the time is over."""

    @abstractmethod
    def look(self, run: Run, after: Position, size: int, limit: int, time_left: TimeLeft) -> Look:
        """What the run would take of the next ``size`` events or deliveries: the numbers by webhook, and the first
        ``limit`` rows."""


def kind_of(run: Run) -> RunKind:
    return run_kinds[run.kind]


class RunRefused(Exception):
    """A run cannot go on. The message says why."""


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
    if missing := kind_of(run).missing_permissions(user, ADD_RUN):
        raise RunRefused(f"the user {run.requested_by} does not have the permission {', '.join(missing)} any more")
    if not permissions.may(user, "add", run):
        raise RunRefused(f"the permission {ADD_RUN} of the user {run.requested_by} does not include it any more")


def events_of(run: Run, filters: Filters) -> EventQuerySet:
    """The events that these filters choose, and that the user of a restricted run may view."""
    events = select("events", filters)
    return permissions.visible_events(user_of(run), events) if run.is_restricted else events  # type: ignore[return-value]


def next_events(run: Run, after: Position, size: int) -> tuple[int, int]:
    """The next events that a look is about: after one, and up to another one."""
    begin = after if isinstance(after, int) else run.counted_event
    return begin, min(begin + size, run.last_event)


class EventKind(RunKind):
    """A kind of run that takes events, or other rows with a position, one after the other.

    It judges them, or calls the project's code, so its steps are risky: each takes one portion.
    """

    @abstractmethod
    def rows(self, run: Run) -> QuerySet[Any]:
        """The events that the run takes."""

    def between(self, rows: QuerySet[Any], after: int, until: int) -> QuerySet[Any]:
        """These rows after one position and up to another one, in order."""
        return rows.filter(pk__gt=after, pk__lte=until).order_by("pk")

    def key_of(self, pk: Any) -> Key:
        """The key of a row, by its id."""
        return Key(pk, pk)

    def key(self, run: Run) -> int:
        """The key of its rows: ``EVENTS``, or the webhook that gets them."""
        return EVENTS

    def is_risky(self, webhook: int) -> bool:
        return True

    def count(self, run: Run, after: int, until: int) -> dict[int, int]:
        return {self.key(run): self.between(self.rows(run), after, until).count()}

    def keys(self, run: Run, webhook: int, after: int, until: int, limit: int) -> list[Key]:
        return self._keys_of(self.rows(run), after, until, limit)

    def _keys_of(self, rows: QuerySet[Any], after: int, until: int, limit: int) -> list[Key]:
        found = self.between(rows, after, until).values_list("pk", flat=True)
        return [self.key_of(pk) for pk in found[:limit]]

    def in_time(self, rows: Iterable[Any], keys: Sequence[Key], time_left: TimeLeft, applied: Applied) -> Iterator[Any]:
        """The first of these rows, and more until the time is over. Then it notes how many of the keys are left.

        Rows may share a position: it yields all of them, or none."""
        last = None
        for row in rows:
            position = self.key_of(row.pk).event_id
            if last not in (None, position) and time_left.is_over:
                applied.left = sum(key.event_id >= position for key in keys)
                return
            last = position
            yield row
