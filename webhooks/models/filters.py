"""Each filter of deliveries, events and skips, declared once.

The lists of the admin, the REST API with its OpenAPI document, the options of commands, the checks and the words of
runs, and the tables in ``docs/`` are made from ``FILTERS``. A new filter is a new row here. The values of filters are
plain JSON, so a run can store them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, Literal

from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.lookups import Exact
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
from webhooks.models.skip import Rule, Skip

Rows = Literal["deliveries", "events", "skips"]
MODELS: dict[Rows, Any] = {"deliveries": Delivery, "events": Event, "skips": Skip}

# The value of a filter: any text, the label of a model in small letters, the primary key of a webhook, one of
# ``choices``, a list of some of them, a number within ``bounds``, true or false, a time as ``selection.filter_time``
# writes it. If a text has ``choices``, lists offer them, and runs refuse another one.
FilterType = Literal["text", "model", "webhook", "choice", "choices", "number", "flag", "moment"]

Query = Callable[[Any, Any], Any]
"""Takes rows and the value of a filter, and returns the rows that match."""


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


def _by_time(comparison: str) -> Mapping[Rows, Query]:
    """Ids of deliveries and skips begin with the time and have an index. Times have none."""

    def by_id(rows: Any, value: str) -> Any:
        return rows.filter(**{f"pk__{comparison}": first_id(datetime.fromisoformat(value))})

    def by_timestamp(events: Any, value: str) -> Any:
        return events.filter(**{f"timestamp__{comparison}": to_db_time(datetime.fromisoformat(value))})

    return {"deliveries": by_id, "events": by_timestamp, "skips": by_id}


def _actions() -> list[tuple[str, Any]]:
    return [*Action.choices, *((name, name) for name in (PING, *registry.custom_events()))]


# The options of runs. A run that replays events takes the newest one of each object, unless it has ``each``. A run that
# sends deliveries again leaves out the superseded ones, unless it has ``superseded``.
EACH, SUPERSEDED = "each", "superseded"

# fmt: off

# In the order in which lists, commands and docs show them.
_DECLARED = [
    Filter(
        "state", "choices", _("state"), _("Its state. May be repeated."),
        {"deliveries": lambda rows, states: rows.in_states(*states)},
        choices=lambda: State.choices, needs="nothing",
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
    ),
    Filter(
        "error_kind", "choice", _("error"), _("The kind of its last failure."), {"deliveries": _by("error_kind")},
        choices=lambda: [(kind.value, _(kind.english)) for kind in ErrorKind], metavar="KIND",
    ),
    Filter(
        "status", "number", _("HTTP status"), _("The HTTP status of its last answer."), {"deliveries": _have_status},
        bounds=(100, 999),
    ),
    Filter(
        "failed", "flag", _("failed"), _("Whether it failed and was not replayed."),
        {"events": lambda rows, failed: rows.failed() if failed else rows.filter(error="")},
    ),
    Filter(
        "replayed", "flag", _("failed and replayed"), _("Whether it failed and was replayed."),
        {"events": lambda rows, _replayed: rows.replayed()}, is_internal=True,
    ),
    _of_event(
        "object_type", "object_type", "model", _("model"), _("The label of a model, such as dcim.site."),
        choices=lambda: [(label, label) for label in registry.registered_models()], metavar="LABEL",
    ),
    _of_event(
        "action", "action", "text", _("action"), _("created, updated, deleted, or the name of an event."),
        choices=_actions,
    ),
    _of_event(
        "object_id", "object_id", "text", _("object's id"), _("The key of an object. Give its model as well."),
        metavar="KEY", needs_also="object_type",
    ),
    _of_event(
        "name", "object_repr__icontains", "text", _("name contains"),
        _("A part of the name of the object, in capital or small letters."), option="--object-name", metavar="TEXT",
    ),
    _of_event(
        "user", "username", "text", _("user"), _("The name of the user who made the change."),
        metavar="NAME", needs="events",
    ),
    _of_event(
        "request_id", "request_id", "text", _("request's id"), _("The id of the request that made the change."),
        metavar="ID", needs="events",
    ),
    Filter(
        "created_after", "moment", _("from"), _("The first time that is included."), _by_time("gte"),
        words=_("since %(value)s"), option="--since", metavar="TIME", needs="nothing",
    ),
    Filter(
        "created_before", "moment", _("until"), _("The first time that is not included any more."), _by_time("lt"),
        words=_("before %(value)s"), option="--until", metavar="TIME", needs="nothing",
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


def select(kind: Rows, filters: Mapping[str, Any], rows: Any = None) -> Any:
    """The rows of this kind, or of ``rows``, that match all of these filters."""
    found = MODELS[kind].objects.all() if rows is None else rows
    for name, value in filters.items():
        found = FILTERS[name].queries[kind](found, value)
    return found


def incomplete(filters: Mapping[str, Any]) -> dict[str, str]:
    """Each filter that needs another one as well, with the reason why it is refused without that one."""
    text = gettext("Give %(name)s as well: ids of different models are the same.")
    needed = {name: FILTERS[name].needs_also for name in filters if name in FILTERS}
    return {name: text % {"name": also} for name, also in needed.items() if also and also not in filters}
