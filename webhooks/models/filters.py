"""Each filter of deliveries, events and skips, declared once, and the rows that filters choose.

The lists of the admin, the REST API with its OpenAPI document, the options of commands, the checks and the words of
runs, and the tables in ``docs/`` are made from ``FILTERS``. A new filter is a new row here. The values of filters are
plain JSON, so a run can store them.

A filter also declares the indexes that find rows in the order of their ids, and what else it costs a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from django.db.models import Exists, Model, OuterRef, Q, QuerySet, Subquery
from django.db.models.lookups import Exact
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from webhooks.ground import registry
from webhooks.ground.db import Among, to_db_time, to_utc
from webhooks.ground.db.session import index_plans
from webhooks.ground.error_kinds import ErrorKind
from webhooks.models.attempt import Attempt
from webhooks.models.delivery import Delivery, DeliveryQuerySet
from webhooks.models.event import OVERLAP, PING, Action, Event
from webhooks.models.ids import first_id
from webhooks.models.queue import QUEUED_STATES, QueuedDelivery, State
from webhooks.models.skip import Rule, Skip

M = TypeVar("M", bound=Model)

Filters = Mapping[str, Any]
"""Values of filters by their names."""

Rows = Literal["deliveries", "events", "skips"]
MODELS: dict[Rows, Any] = {"deliveries": Delivery, "events": Event, "skips": Skip}

# The value of a filter: any text, the label of a model in small letters, the primary key of a webhook, one of
# ``choices``, a list of some of them, a number within ``bounds``, true or false, a time as ``filter_time`` writes it.
# If a text has ``choices``, lists offer them, and runs refuse another one.
FilterType = Literal["text", "model", "webhook", "choice", "choices", "number", "flag", "moment"]

Query = Callable[[Any, Any], Any]
"""Takes rows and the value of a filter, and returns the rows that match."""


Find = Callable[[Any, Any, Filters], Any]
"""Takes rows, the value and all filters, and returns the rows that an index finds. None if it would find too many."""


@dataclass(frozen=True)
class Index:
    """An index that finds rows with a filter in the order of their ids."""

    kind: Rows
    rank: int
    """A page takes the index with the lowest one, and those of ``WITH_OTHERS`` as well."""
    find: Find | None = None
    """Default: as the filter chooses rows."""
    also: tuple[str, ...] = ()
    """The other filters that it regards."""
    is_scattered: bool = True
    """Whether its rows lie here and there in the table."""
    may_sort: bool = False
    """Whether it is in another order than the ids, and finds few rows."""


WITH_OTHERS = 9
"""The rank of indexes that go with each other index: ids begin with the time."""


@dataclass(frozen=True)
class Filter:
    """A filter of rows, or an option of a run."""

    name: str
    type: FilterType
    label: Any
    """Its name in lists, and in the words of a run."""
    help: Any
    """For the REST API, the commands and the docs."""
    queries: Mapping[Rows, Query] = field(default_factory=dict)
    """The rows that have it. Empty for an option of runs, which chooses no rows."""
    _: KW_ONLY
    indexes: Sequence[Index] = ()
    """A page looks through the rows that one of them finds. It compares each row with the other filters."""
    cost: Literal["column", "lookup", "event"] = "column"
    """What it takes to compare a row: its column, a row of another table, or so much that each event is compared once
    rather than with each of its deliveries."""
    is_of_event: bool = False
    """Whether the event alone decides, for deliveries too."""
    choices: Callable[[], Sequence[tuple[str, Any]]] = tuple
    """The values with their labels."""
    bounds: tuple[int, int] = (0, 2**31 - 1)
    words: Any = "%(label)s: %(value)s"
    """How the page of a run says it."""
    option: str = ""
    """The option of commands, if it is not the name."""
    metavar: str | None = None
    needs: Literal["nothing", "rows", "events"] = "rows"
    """What users must be permitted to view, because the number of rows says what these have: the rows that it chooses
    from, or events, which alone show who made a change."""
    needs_also: str = ""
    """The filter without which this one means nothing."""
    is_internal: bool = False
    """Whether only lists of the admin have it: they choose it by their states."""

    @property
    def command_option(self) -> str:
        """Such as ``--error-kind``."""
        return self.option or f"--{self.name.replace('_', '-')}"


def _by(lookup: str) -> Query:
    return lambda rows, value: rows.filter(**{lookup: value})


def _of_event(name: str, column: str, type_: FilterType, label: Any, help_: Any, **declared: Any) -> Filter:
    """A filter by a column of events, or a lookup. Deliveries have it by their event, and skips have the column."""
    queries: dict[Rows, Query] = {"deliveries": _by(f"event__{column}"), "events": _by(column), "skips": _by(column)}
    return Filter(name, type_, label, help_, queries, is_of_event=True, **declared)


def _have_status(deliveries: QuerySet[Delivery], status: int) -> QuerySet[Delivery]:
    last = Attempt.objects.filter(delivery=OuterRef("pk")).order_by("-number").values("status")[:1]
    found = Exact(Subquery(last), status)
    # An answer that is an error has a kind: so the database looks up fewer attempts.
    return deliveries.filter(found) if status < 400 else deliveries.filter(~Q(error_kind=""), found)


def _of_webhook(events: Any, webhook: int) -> Any:
    deliveries = Delivery.objects.filter(event=OuterRef("pk"), webhook=webhook)
    matched = Event.objects.matched_by(webhook).filter(pk=OuterRef("pk"))
    return events.filter(Exists(deliveries) | Exists(matched))


def _by_time(comparison: str, late: timedelta) -> dict[str, Any]:
    """Ids of deliveries and skips begin with the time and have an index. Times of events have none: another query finds
    the ids that belong to them. Clocks may differ, so an event may have an id as if it had been ``late``."""

    def by_id(rows: Any, value: str) -> Any:
        return rows.filter(**{f"pk__{comparison}": first_id(datetime.fromisoformat(value))})

    def by_timestamp(events: Any, value: str) -> Any:
        return events.filter(**{f"timestamp__{comparison}": to_db_time(datetime.fromisoformat(value))})

    def by_both(events: Any, value: str, _filters: Filters) -> Any:
        border = Event.objects.first_since(datetime.fromisoformat(value) + late)
        return by_timestamp(events, value).filter(**{f"pk__{comparison}": border})

    indexes = Index("deliveries", WITH_OTHERS), Index("events", WITH_OTHERS, by_both), Index("skips", WITH_OTHERS)
    return {"queries": {"deliveries": by_id, "events": by_timestamp, "skips": by_id}, "indexes": indexes}


def _actions() -> list[tuple[str, Any]]:
    return [*Action.choices, *((name, name) for name in (PING, *registry.custom_events()))]


# The options of runs. A run that replays events takes the newest one of each object, unless it has ``each``. A run that
# sends deliveries again leaves out the superseded ones, unless it has ``superseded``.
EACH, SUPERSEDED = "each", "superseded"

# How indexes find rows


# The index of each state that begins with the webhook, by the column that follows.
OF_WEBHOOK = {State.FAILED: "failed_at", State.PENDING: "due_at", State.WAITING: "event_id"}

# A page reads the keys first if at most this many events match, or rows of the queue.
FEW_EVENTS, FEW_QUEUED = 10_000, 1000


def _few(rows: QuerySet[Any], most: int) -> list[Any] | None:
    """The keys of these rows, found by an index. None if there are more than ``most``."""
    with index_plans(rows.db):
        keys = list(rows.values_list("pk", flat=True)[: most + 1])
    return keys if len(keys) <= most else None


def few_failed() -> list[int] | None:
    """The keys of all events that failed. None if there are many."""
    return _few(Event.objects.failed().order_by("timestamp"), FEW_EVENTS)


def _among(events: Any, keys: list[int] | None) -> Any:
    return None if keys is None else events.filter(Among("id", keys))


def _few_that_failed(events: Any, failed: bool, _filters: Filters) -> Any:
    return _among(events, few_failed() if failed else None)


def _few_of_model(events: Any, label: str, _filters: Filters) -> Any:
    of_model = Event.objects.filter(object_type=label).order_by("object_type", "object_id")
    return _among(events, _few(of_model, FEW_EVENTS))


def _of_object(rows: Any, key: str, filters: Filters) -> Any:
    """The rows of an object, with the model that their index needs: the one in the filters, or else any."""
    chosen = [filters["object_type"]] if "object_type" in filters else [*registry.registered_models()]
    return rows.filter(object_type__in=chosen, object_id=key)


def _discarded(deliveries: Any, states: list[str], _filters: Filters) -> Any:
    return deliveries.in_states(*states) if states == [State.DISCARDED] else None


def are_queued(filters: Filters) -> bool:
    """Whether the queue has all deliveries that match: it has none that succeeded or were discarded."""
    states = filters.get("state", ())
    return bool(states) and {*states} <= {*QUEUED_STATES}


def _queued(_deliveries: Any, states: list[str], filters: Filters) -> Any:
    """The rows of the queue for deliveries in some states, and of a webhook."""
    if not are_queued(filters):
        return None
    queued = QueuedDelivery.objects.in_states(*states)
    if "webhook" in filters:
        queued = queued.filter(webhook=filters["webhook"])
        if len(states) == 1 and (column := OF_WEBHOOK.get(State(states[0]))):
            keys = _few(queued.order_by("webhook_id", column), FEW_QUEUED)
            return queued if keys is None else QueuedDelivery.objects.filter(pk__in=keys)
    return queued


# fmt: off

# In the order in which lists, commands and docs show them.
_DECLARED = [
    Filter(
        "state", "choices", _("state"), _("Its state. May be repeated."),
        {"deliveries": lambda rows, states: rows.in_states(*states)},
        choices=lambda: State.choices, needs="nothing",
        indexes=(Index("deliveries", 1, _discarded), Index("deliveries", 3, _queued, ("webhook",))),
    ),
    Filter(
        "rule", "choice", _("reason"), _("The rule that refused the change."), {"skips": _by("rule")},
        choices=lambda: Rule.choices, needs="nothing",
    ),
    Filter(
        "webhook", "webhook", _("webhook"),
        _("The id of a webhook. For events: it matched them, or has a delivery of them."),
        {"deliveries": _by("webhook"), "events": _of_webhook, "skips": _by("webhook")},
        bounds=(1, 2**63 - 1), metavar="NAME", needs="nothing",
        indexes=(Index("deliveries", 4), Index("skips", 2, is_scattered=False)),
    ),
    Filter(
        "error_kind", "choice", _("error"), _("The kind of its last failure."), {"deliveries": _by("error_kind")},
        choices=lambda: [(kind.value, _(kind.english)) for kind in ErrorKind], metavar="KIND",
        indexes=(Index("deliveries", 2),),
    ),
    Filter(
        "status", "number", _("HTTP status"), _("The HTTP status of its last answer."), {"deliveries": _have_status},
        bounds=(100, 999), cost="lookup",
    ),
    Filter(
        "failed", "flag", _("failed"), _("Whether it failed and was not replayed."),
        {"events": lambda rows, failed: rows.failed() if failed else rows.filter(error="")},
        indexes=(Index("events", 4, _few_that_failed, may_sort=True),),
    ),
    Filter(
        "replayed", "flag", _("failed and replayed"), _("Whether it failed and was replayed."),
        {"events": lambda rows, _replayed: rows.replayed()}, is_internal=True,
    ),
    _of_event(
        "object_type", "object_type", "model", _("model"), _("The label of a model, such as dcim.site."),
        choices=lambda: [(label, label) for label in registry.registered_models()], metavar="LABEL",
        indexes=(Index("events", 3, _few_of_model, may_sort=True),),
    ),
    _of_event(
        "action", "action", "text", _("action"), _("created, updated, deleted, or the name of an event."),
        choices=_actions,
    ),
    _of_event(
        "object_id", "object_id", "text", _("object's id"), _("The key of an object. Give its model as well."),
        metavar="KEY", needs_also="object_type",
        indexes=(
            Index("events", 2, _of_object, also=("object_type",), may_sort=True),
            Index("skips", 1, _of_object, also=("object_type",), may_sort=True, is_scattered=False),
        ),
    ),
    _of_event(
        "name", "object_repr__icontains", "text", _("name contains"),
        _("A part of the name of the object, in capital or small letters."),
        option="--object-name", metavar="TEXT", cost="event",
    ),
    _of_event(
        "user", "username", "text", _("user"), _("The name of the user who made the change."),
        metavar="NAME", needs="events",
    ),
    _of_event(
        "request_id", "request_id", "text", _("request's id"), _("The id of the request that made the change."),
        metavar="ID", needs="events", indexes=(Index("events", 1, may_sort=True),),
    ),
    Filter(
        "created_after", "moment", _("from"), _("The first time that is included."),
        words=_("since %(value)s"), option="--since", metavar="TIME", needs="nothing", **_by_time("gte", timedelta()),
    ),
    Filter(
        "created_before", "moment", _("until"), _("The first time that is not included any more."),
        words=_("before %(value)s"), option="--until", metavar="TIME", needs="nothing", **_by_time("lt", 2 * OVERLAP),
    ),
    Filter(
        EACH, "flag", _("each event of an object"),
        _("Replay each event of an object. Default: the newest one only."), words="%(label)s", needs="nothing",
    ),
    Filter(
        SUPERSEDED, "flag", _("superseded ones, too"), _("Send superseded deliveries, too."),
        words="%(label)s", needs="nothing",
    ),
]

# fmt: on

FILTERS = {one.name: one for one in _DECLARED}

OPTIONS = [one.name for one in _DECLARED if not one.queries]

# The event alone decides about the first ones. The others say who made a change: only users who may view its event see
# that.
EVENT_FILTERS = frozenset(one.name for one in _DECLARED if one.is_of_event)
ACTOR_FILTERS = frozenset(one.name for one in _DECLARED if one.needs == "events")

# The filters of deliveries that need no other column than the id: it begins with the time.
TIMES = frozenset(one.name for one in _DECLARED if one.type == "moment")


def filters_of(rows: Rows, *, internal: bool = False) -> dict[str, Filter]:
    """The filters of these rows by their names, with the internal ones or without."""
    return {one.name: one for one in _DECLARED if rows in one.queries and (internal or not one.is_internal)}


def select(kind: Rows, filters: Filters, rows: Any = None) -> Any:
    """The rows of this kind, or of ``rows``, that match all of these filters."""
    found = MODELS[kind].objects.all() if rows is None else rows
    for name, value in filters.items():
        found = FILTERS[name].queries[kind](found, value)
    return found


def incomplete(filters: Filters) -> dict[str, str]:
    """Each filter that needs another one as well, with the reason why it is refused without that one."""
    text = gettext("Give %(name)s as well: ids of different models are the same.")
    needed = {name: FILTERS[name].needs_also for name in filters if name in FILTERS}
    return {name: text % {"name": also} for name, also in needed.items() if also and also not in filters}


# No id has an earlier or a later time, and computing with such a time could overflow.
FIRST_TIME, LAST_TIME = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


def filter_time(moment: datetime) -> str:
    """The time of a filter as a run stores it: ISO format, in UTC, no earlier or later than an id can be. A naive
    datetime is in the time zone of the host."""
    aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return to_utc(min(max(aware, FIRST_TIME), LAST_TIME)).isoformat()


def without_options(filters: Filters) -> Filters:
    """Only what chooses rows."""
    return {name: value for name, value in filters.items() if name not in OPTIONS}


def rows_in_order(rows: QuerySet[M], keys: Sequence[Any]) -> list[M]:
    """The rows with these primary keys, in the order of the keys. Deleted rows are missing."""
    chosen: Any = rows.by_table() if isinstance(rows, DeliveryQuerySet) else rows.order_by()
    found = {row.pk: row for row in chosen.filter(pk__in=keys)}
    return [found[key] for key in keys if key in found]
