"""Each filter of deliveries, events and skips, declared once.

The lists of the admin, the REST API with its OpenAPI document, the options of commands, the checks and the words of
runs, and the tables in ``docs/`` are made from ``FILTERS``. A new filter is a new row here. The values of filters are
plain JSON, so a run can store them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Any, TypeVar

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from webhooks import registry
from webhooks.db import to_db_time
from webhooks.error_kinds import ErrorKind
from webhooks.models.attempt import Attempt
from webhooks.models.delivery import Delivery
from webhooks.models.event import PING, Action, Event
from webhooks.models.ids import first_id
from webhooks.models.queue import State
from webhooks.models.skip import Rule

R = TypeVar("R", bound=QuerySet[Any])


class Rows(StrEnum):
    """The rows that filters choose from."""

    DELIVERIES = "deliveries"
    EVENTS = "events"
    SKIPS = "skips"


class FilterType(Enum):
    """What the value of a filter is. Each face of the app has a field or an option for it."""

    TEXT = auto()  # with ``choices``, lists offer these
    MODEL = auto()  # the label of a model, in small letters
    WEBHOOK = auto()  # its primary key
    CHOICE = auto()  # one of ``choices``
    CHOICES = auto()  # a list of some of them
    NUMBER = auto()  # a whole number within ``bounds``
    FLAG = auto()
    MOMENT = auto()  # a time in ISO format, see ``selection.filter_time``


class Needs(Enum):
    """What users must be permitted to view, because the number of rows says what these rows have."""

    NOTHING = auto()
    ROWS = auto()  # the rows that the filter chooses from
    EVENTS = auto()  # events: only they show who made a change


Query = Callable[[Any, Any], Any]
"""Takes rows and the value of a filter, and returns the rows that match."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter of rows, or an option of a run."""

    name: str
    type: FilterType = FilterType.TEXT
    label: Any
    """Its name in lists and in the words of a run."""
    help: Any
    """One or two sentences for the REST API, the commands and the docs."""
    queries: Mapping[Rows, Query] = field(default_factory=dict)
    """The rows that have it. Empty for an option of runs, which chooses no rows."""
    is_of_event: bool = False
    """Whether the event alone decides, for deliveries too."""
    choices: Callable[[], Sequence[tuple[str, Any]]] = tuple
    """The values with their labels."""
    bounds: tuple[int, int] = (0, 2**31 - 1)
    max_length: int | None = None
    words: Any = "%(label)s: %(value)s"
    """How the page of a run says it."""
    option: str = ""
    """The option of commands, if it is not the name."""
    metavar: str | None = None
    needs: Needs = Needs.ROWS
    needs_also: str = ""
    """The filter without which this one means nothing."""
    is_internal: bool = False
    """Whether only lists of the admin have it: they choose it by their states."""

    @property
    def flag(self) -> str:
        """Such as ``--error-kind``."""
        return self.option or f"--{self.name.replace('_', '-')}"


def _by(lookup: str) -> Query:
    return lambda rows, value: rows.filter(**{lookup: value})


def _of_event(name: str, column: str, **declared: Any) -> Filter:
    """A filter by a column of events, or a lookup. Deliveries have it by their event, and skips have the column."""
    queries = {Rows.DELIVERIES: _by(f"event__{column}"), Rows.EVENTS: _by(column), Rows.SKIPS: _by(column)}
    return Filter(name=name, queries=queries, is_of_event=True, **declared)


def _have_status(deliveries: QuerySet[Delivery], status: int) -> QuerySet[Delivery]:
    last = Attempt.objects.filter(delivery=OuterRef("pk"), number=OuterRef("attempt_count"))
    found = Exists(last.filter(status=status))
    # An answer that is an error has a kind: so the database looks up fewer attempts.
    return deliveries.filter(found) if status < 400 else deliveries.filter(~Q(error_kind=""), found)


def _of_webhook(events: Any, webhook: int) -> Any:
    deliveries = Delivery.objects.filter(event=OuterRef("pk"), webhook=webhook)
    matched = Event.objects.matched_by(webhook).filter(pk=OuterRef("pk"))
    return events.filter(Exists(deliveries) | Exists(matched))


def _by_time(comparison: str) -> Mapping[Rows, Query]:
    """Ids of deliveries and skips begin with the time and have an index. Times have none."""

    def by_id(rows: Any, value: str) -> Any:
        return rows.filter(**{f"pk__{comparison}": first_id(datetime.fromisoformat(value))})

    def by_timestamp(events: Any, value: str) -> Any:
        return events.filter(**{f"timestamp__{comparison}": to_db_time(datetime.fromisoformat(value))})

    return {Rows.DELIVERIES: by_id, Rows.EVENTS: by_timestamp, Rows.SKIPS: by_id}


def _actions() -> list[tuple[str, Any]]:
    return [*Action.choices, *((name, name) for name in (*registry.custom_events(), PING))]


# The options of runs. A run that replays events takes the newest one of each object, unless it has ``each``. A run that
# sends deliveries again leaves out the superseded ones, unless it has ``superseded``.
EACH, SUPERSEDED = "each", "superseded"

# In the order in which lists, commands and docs show them.
_DECLARED = [
    Filter(
        name="state",
        type=FilterType.CHOICES,
        label=_("state"),
        help=_("Its state. May be repeated."),
        queries={Rows.DELIVERIES: lambda rows, states: rows.in_states(*states)},
        choices=lambda: State.choices,
        needs=Needs.NOTHING,
    ),
    Filter(
        name="rule",
        type=FilterType.CHOICE,
        label=_("reason"),
        help=_("The rule that refused the change."),
        queries={Rows.SKIPS: _by("rule")},
        choices=lambda: Rule.choices,
        needs=Needs.NOTHING,
    ),
    Filter(
        name="webhook",
        type=FilterType.WEBHOOK,
        label=_("webhook"),
        help=_("The id of a webhook. For events: it matched them, or has a delivery of them."),
        queries={Rows.DELIVERIES: _by("webhook"), Rows.EVENTS: _of_webhook, Rows.SKIPS: _by("webhook")},
        metavar="NAME",
        needs=Needs.NOTHING,
    ),
    Filter(
        name="error_kind",
        type=FilterType.CHOICE,
        label=_("error"),
        help=_("The kind of its last failure."),
        queries={Rows.DELIVERIES: _by("error_kind")},
        choices=lambda: [(kind.value, _(kind.english)) for kind in ErrorKind],
        metavar="KIND",
    ),
    Filter(
        name="status",
        type=FilterType.NUMBER,
        label=_("HTTP status"),
        help=_("The HTTP status of its last answer."),
        queries={Rows.DELIVERIES: _have_status},
        bounds=(100, 999),
    ),
    Filter(
        name="failed",
        type=FilterType.FLAG,
        label=_("failed"),
        help=_("Whether it failed and was not replayed."),
        queries={Rows.EVENTS: lambda rows, failed: rows.failed() if failed else rows.filter(error="")},
    ),
    Filter(
        name="replayed",
        type=FilterType.FLAG,
        label=_("failed and replayed"),
        help=_("Whether it failed and was replayed."),
        queries={Rows.EVENTS: lambda rows, _replayed: rows.replayed()},
        is_internal=True,
    ),
    _of_event(
        "object_type",
        "object_type",
        type=FilterType.MODEL,
        label=_("model"),
        help=_("The label of a model, such as dcim.site."),
        choices=lambda: [(label, label) for label in registry.registered_models()],
        metavar="LABEL",
    ),
    _of_event(
        "action",
        "action",
        label=_("action"),
        help=_("created, updated, deleted, or the name of an event."),
        choices=_actions,
    ),
    _of_event(
        "object_id",
        "object_id",
        label=_("object's id"),
        help=_("The key of an object. Give its model as well."),
        max_length=255,
        metavar="KEY",
        needs_also="object_type",
    ),
    _of_event(
        "name",
        "object_repr__icontains",
        label=_("name contains"),
        help=_("A part of the name of the object, in capital or small letters."),
        option="--object-name",
        metavar="TEXT",
    ),
    _of_event(
        "user",
        "username",
        label=_("user"),
        help=_("The name of the user who made the change."),
        max_length=150,
        metavar="NAME",
        needs=Needs.EVENTS,
    ),
    _of_event(
        "request_id",
        "request_id",
        label=_("request's id"),
        help=_("The id of the request that made the change."),
        max_length=200,
        metavar="ID",
        needs=Needs.EVENTS,
    ),
    Filter(
        name="created_after",
        type=FilterType.MOMENT,
        label=_("from"),
        help=_("The first time that is included."),
        queries=_by_time("gte"),
        words=_("since %(value)s"),
        option="--since",
        metavar="TIME",
        needs=Needs.NOTHING,
    ),
    Filter(
        name="created_before",
        type=FilterType.MOMENT,
        label=_("until"),
        help=_("The first time that is not included any more."),
        queries=_by_time("lt"),
        words=_("before %(value)s"),
        option="--until",
        metavar="TIME",
        needs=Needs.NOTHING,
    ),
    Filter(
        name=EACH,
        type=FilterType.FLAG,
        label=_("each event of an object"),
        help=_("Replay each event of an object. Default: the newest one only."),
        words="%(label)s",
        needs=Needs.NOTHING,
    ),
    Filter(
        name=SUPERSEDED,
        type=FilterType.FLAG,
        label=_("superseded ones, too"),
        help=_("Send superseded deliveries, too."),
        words="%(label)s",
        needs=Needs.NOTHING,
    ),
]

FILTERS = {one.name: one for one in _DECLARED}

OPTIONS = [one.name for one in _DECLARED if not one.queries]

# Those that the event alone decides, and those by who made a change, which only users who may view its event see.
EVENT_FILTERS = frozenset(one.name for one in _DECLARED if one.is_of_event)
ACTOR_FILTERS = frozenset(one.name for one in _DECLARED if one.needs == Needs.EVENTS)

# The filters of deliveries that need no other column than the id: it begins with the time.
TIMES = frozenset(one.name for one in _DECLARED if one.type == FilterType.MOMENT)


def filters_of(rows: Rows, *, internal: bool = False) -> dict[str, Filter]:
    """The filters of these rows by their names, with the internal ones or without."""
    return {one.name: one for one in _DECLARED if rows in one.queries and (internal or not one.is_internal)}


def narrow(kind: Rows, filters: Mapping[str, Any], rows: R) -> R:
    """The rows of this kind that match all of these filters."""
    found: Any = rows
    for name, value in filters.items():
        found = FILTERS[name].queries[kind](found, value)
    return found  # type: ignore[no-any-return]


def incomplete(filters: Mapping[str, Any]) -> dict[str, str]:
    """Each filter that needs another one as well, with the reason why it is refused without that one."""
    text = gettext("Give %(name)s as well: ids of different models are the same.")
    needed = {name: FILTERS[name].needs_also for name in filters if name in FILTERS}
    return {name: text % {"name": also} for name, also in needed.items() if also and also not in filters}
